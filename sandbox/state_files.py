"""Files of state: written to a second file and renamed, and read with one error that names the file and the cause.

A kill, a full disk or a power failure leaves the old content or the new, never a part. Does not name a remedy:
the caller knows whether the file can be made again.
"""

import json
import os
from pathlib import Path
from typing import Any


class Unreadable(Exception):
    """A state file whose content is not as it was written."""

    def __init__(self, path: Path, cause: object) -> None:
        super().__init__(f"{path} cannot be read: {cause}")
        self.path = path


def write(path: Path, content: str | bytes) -> None:
    """Replace the file's content as a whole; only its owner can read it, from its first byte on."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """The file's JSON object, which holds at least `names`.

    Raises `FileNotFoundError` where the file is missing, and `Unreadable` where it holds anything else.
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
