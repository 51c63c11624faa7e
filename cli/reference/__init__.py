"""Reference pages in docs/reference/, generated from the objects that define settings, commands, routes and so on.

`python -m cli.reference` writes them. `markdown.py` writes tables, each other module one page. The pages do not explain
how to use anything: docs/operations.md and docs/calling.md do.
"""

from collections.abc import Callable
from pathlib import Path

from cli.paths import PROJECT
from cli.reference import commands, configuration, http_api, resources, variables

COMMAND = "python -m cli.reference"
FOLDER = PROJECT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands.page,
    "configuration.md": configuration.page,
    "http-api.md": http_api.page,
    "resources.md": resources.page,
    "scoring-environment.md": variables.page,
}
"""Function that returns the text of each page, by file name."""


def write(folder: Path = FOLDER) -> None:
    """Write every page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page())
