"""Settings, options and hooks for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

ON_SPARK = {
    path for path in Path(__file__).parent.rglob("test_*.py") if '["testing.workloads.spark' in path.read_text()
}

LONGEST = ("end_to_end/test_lifecycle.py", "end_to_end/test_release_changes.py", "docs/test_operations.py")
"""Files that take a worker about half of the time of all tests."""

# With this variable set, a program that forgets to flush its output would pass here and hang on other machines.
os.environ.pop("PYTHONUNBUFFERED", None)


# A slow machine must not fail a test, so Hypothesis has no deadline.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", action="store_true", help="run all cells of tests/end_to_end/faults, which take an hour or two"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults: a cell of the fault matrix, run only with --faults")
    config.addinivalue_line("markers", "azure_cli: runs Azure CLI, which `make test-azure-cli` installs")
    config.addinivalue_line("markers", "browser: opens the dashboard in an installed Chromium")
    config.addinivalue_line("markers", "container: builds and runs the scoring image with a container engine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that all workers end at about the same time."""
    if not config.getoption("--faults"):
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
    items.sort(
        key=lambda item: (
            not any(name in item.nodeid for name in LONGEST),
            item.path not in ON_SPARK,
            "stack" not in item.keywords,
            "spark" not in item.keywords,
        )
    )


@pytest.fixture(autouse=True, scope="module")
def environment_as_it_was() -> Iterator[None]:
    """Restore the environment variables after each file: `cli.local_run.sandbox.start` sets a login for the process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


class Together(LoadFileScheduling):
    """Assign all files that use Spark to one worker, so that the session and the trained models are created once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "spark" if Path(__file__).parents[1] / file in ON_SPARK else file
