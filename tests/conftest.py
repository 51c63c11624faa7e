"""What holds for every test."""

import os

import hypothesis
import pytest

# Where a machine sets it, what forgets to flush before somebody waits for it would work here and hang elsewhere.
os.environ.pop("PYTHONUNBUFFERED", None)


# A busy machine is no failure.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="all cells of tests/faults, which takes an hour or two")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults: a cell of the fault matrix, tried with --faults alone")
    config.addinivalue_line("markers", "browser: opens the page in the machine's own Chromium")
    config.addinivalue_line("markers", "container: builds and runs the scoring image with a container engine")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file stays with one worker, and so do all files that need Spark: its session and what is trained on it are made
    once. The longest come first, so that two workers end at about the same time."""
    if not config.getoption("--faults"):
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
    on_spark = {item.path for item in items if "spark" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("spark" if item.path in on_spark else item.path.stem))
    items.sort(
        key=lambda item: (
            "test_stack_lifecycle" not in item.nodeid,
            item.path not in on_spark,
            "stack" not in item.keywords,
            "spark" not in item.keywords,
        )
    )
