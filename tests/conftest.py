"""For every test: a call of ours that blocks the event loop is an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def nothing_of_ours_blocks_the_loop() -> Iterator[BlockBuster]:
    """Sleeps, sockets, locks. Files are read at start and by lazy imports, which may."""
    with blockbuster_ctx(["router", "tracking"]) as found:
        for name, function in found.functions.items():
            if name.startswith(("os.", "io.", "builtins.")):
                function.deactivate()
        yield found
