"""For every test: a call of ours that blocks the event loop is an error, time alone is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from router.compiled import how

# How long an example takes says what else runs here. CI tries the same examples each time, so that
# what it says is of the change; who works on the code finds new ones.
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def nothing_of_ours_blocks_the_loop() -> Iterator[BlockBuster]:
    """Sleeps, sockets, locks. Files are read at start and by lazy imports, which may."""
    with blockbuster_ctx(["router", "tracking"]) as found:
        for name, function in found.functions.items():
            if name.startswith(("os.", "io.", "builtins.")):
                function.deactivate()
        yield found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests in a Docker engine run only when they are asked for.

    A test with sockets, processes or a package index gets a second try, which the summary shows as
    a rerun: where it shares two cores with whatever else runs, a time limit of the product itself
    can pass for no fault of ours. What only computes has none.
    """
    if "docker" not in config.option.markexpr:
        asked_for = [item for item in items if item.get_closest_marker("docker") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in asked_for])
        items[:] = asked_for
    compiled = how() == "compiled"
    for item in items:
        if compiled and item.get_closest_marker("interpreted") is not None:
            item.add_marker(pytest.mark.skip("compiled classes cannot be changed"))
        if any(
            item.get_closest_marker(name) for name in ("e2e", "redis", "asyncio", "slow", "compose")
        ):
            item.add_marker(pytest.mark.flaky(reruns=1))
