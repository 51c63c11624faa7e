"""Checks that the environment has the packages of a command.

Each target of the Makefile installs its own packages only (pyproject.toml, tools/package_sets.py). A command that needs
Spark or the sandbox may therefore be started in the environment of `make preview`. Installs nothing.
"""

import re
from importlib import metadata

from cli.errors import UserError

_PROJECT = "personalization-azure"
_LOCAL = re.compile(r"""([\w.-]+).*;.*\bextra == ['"]local['"]""")


def require_local() -> None:
    """Raise `UserError` if packages of the local run are missing here."""
    if missing := _missing():
        lacking = f"{missing[0]} and {len(missing) - 1} other packages" if missing[1:] else missing[0]
        raise UserError(
            f"this command needs {lacking}, which this environment does not have. "
            "Run `make bootstrap-local`, which adds them, and then the command again"
        )


def _missing() -> list[str]:
    try:
        required = metadata.requires(_PROJECT) or []
    except metadata.PackageNotFoundError:  # run from its sources, in an environment that another tool made
        return []
    names = [found[1] for found in map(_LOCAL.match, required) if found]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
