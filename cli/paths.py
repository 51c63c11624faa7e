"""Folders that several commands use: the project, and this machine's cache of downloads."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[1]
"""The project's folder, which holds `Pulumi.yaml` and the stack files."""


def folder() -> Path:
    """Return the cache folder. `tools/steps.py`, the sandbox's clusters and `scoring/install.sh` use the same one."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personalization-azure"
