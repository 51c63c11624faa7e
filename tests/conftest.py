"""What holds for every test."""

import os

import pytest

# Where a machine sets it, what forgets to flush before somebody waits for it would work here and hang elsewhere.
os.environ.pop("PYTHONUNBUFFERED", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two workers end at about the same time."""
    items.sort(key=lambda item: ("stack" not in item.keywords, "spark" not in item.keywords))
