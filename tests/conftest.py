"""For every test: a call of ours that blocks the event loop is an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from router.compiled import how


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

    A test of several real processes gets a second try, which the summary shows as a rerun: where
    they share two cores with whatever else runs, a deadline can pass for no fault of ours.
    """
    if "docker" not in config.option.markexpr:
        asked_for = [item for item in items if item.get_closest_marker("docker") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in asked_for])
        items[:] = asked_for
    compiled = how() == "compiled"
    for item in items:
        if compiled and item.get_closest_marker("interpreted") is not None:
            item.add_marker(pytest.mark.skip("compiled classes cannot be changed"))
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))
