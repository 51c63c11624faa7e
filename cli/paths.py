"""Where this machine keeps what was fetched once, whatever stack or command it was for."""

import os
from pathlib import Path


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personalization-azure"
