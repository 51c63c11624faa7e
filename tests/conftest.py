"""What holds for every test."""

import os

import hypothesis
import pytest

# Where a machine sets it, what forgets to flush before somebody waits for it would work here and hang elsewhere.
os.environ.pop("PYTHONUNBUFFERED", None)


# A busy machine is no failure.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "container: builds and runs the scoring image with a container engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two workers end at about the same time."""
    items.sort(key=lambda item: ("stack" not in item.keywords, "spark" not in item.keywords))
