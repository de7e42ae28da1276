"""The engines that are large are only run where `make e2e-engines` has put them."""

from __future__ import annotations

import pytest

from tests.engines.real import DIRECTORY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DIRECTORY is None:
        large = [item for item in items if item.get_closest_marker("engines") is not None]
        items[:] = [item for item in items if item not in large]
        config.hook.pytest_deselected(items=large)
