"""Files of state: written to a second file and renamed, and read with one error that names the file and the cause.

After a kill, a full disk or a power failure the file has the old content or the new, never a part. Does not name a
remedy: the caller knows whether the file can be recreated.
"""

import json
import os
from pathlib import Path
from typing import Any


class Unreadable(Exception):
    """A state file with damaged content."""

    def __init__(self, path: Path, cause: object) -> None:
        super().__init__(f"{path} cannot be read: {cause}")
        self.path = path


def write(path: Path, content: str | bytes) -> None:
    """Replace the file's content in one step. At no time can anybody but the owner read it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """The file's JSON object, which must have the keys `names`.

    Raises `FileNotFoundError` if the file is missing, and `Unreadable` if it has other content.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Unreadable(path, "the file is empty" if _empty(path) else error) from error
    if not isinstance(content, dict):
        raise Unreadable(path, "it does not hold a JSON object")
    if missing := [name for name in names if name not in content]:
        raise Unreadable(path, f"it does not hold {' or '.join(missing)}")
    return content


def _empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0
