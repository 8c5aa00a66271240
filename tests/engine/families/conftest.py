"""Which checks are run: of brief cases the core alone, unless FAMILIES=all is in the environment."""

from __future__ import annotations

import os

import pytest

from tests.engine.families.cases import CORE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the checks of brief cases beside the core."""
    if os.environ.get("FAMILIES") == "all":
        return
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    case = item.callspec.params.get("served")
    return bool(getattr(case, "brief", False)) and item.originalname.removeprefix("test_") not in CORE
