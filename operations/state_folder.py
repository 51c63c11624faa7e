"""The folder that holds everything of a local run: marked as its own, and one command's at a time.

What else lies in such a folder is not ours to change. Of the files, only what a run wrote down is read here.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operations.errors import UserError

_MARK = ".personalization-local"
_MADE = ("sandbox", "pulumi", "run.json", "Pulumi.local.yaml")


@dataclass(frozen=True)
class State:
    """The folder that `STATE` or `--state` names."""

    folder: Path

    @property
    def sandbox(self) -> Path:
        return self.folder / "sandbox"

    @property
    def run(self) -> Path:
        return self.folder / "run.json"

    @property
    def made(self) -> list[Path]:
        """What there is of all that a run makes and `clear` removes."""
        return [self.folder / name for name in _MADE if (self.folder / name).exists()]

    def clear(self) -> None:
        for path in self.made:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is not there, and keep others from it until this command ends, however it ends.

        Raises `UserError` where it cannot be written, where another command is at work in it, and where it holds, under
        a name that a run would write or remove, what no run made.
        """
        with ExitStack() as kept:
            try:
                self._hold(kept)
            except BlockingIOError:
                raise UserError(
                    f"`make local` or `make local-down` is at work in {self.folder} (process "
                    f"{(self.folder / _MARK).read_text().strip()}). Wait until it has ended, or stop it with Ctrl-C; "
                    "or name another folder with STATE=<folder>."
                ) from None
            except OSError as error:
                raise UserError(
                    f"the state folder {self.folder} cannot be written: {error.strerror}. "
                    "Name another with STATE=<folder>, on a disk with 2 GB free."
                ) from None
            yield

    def _hold(self, kept: ExitStack) -> None:
        mark = self.folder / _MARK
        if self.made and not mark.exists():
            theirs = " and ".join(path.name for path in self.made)
            raise UserError(
                f"{self.folder} holds {theirs} that `make local` did not make; nothing was changed. "
                "Name another folder with STATE=<folder>."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        holder = kept.enter_context(mark.open("a"))
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, too, when this process is killed
        holder.truncate(0)
        print(os.getpid(), file=holder, flush=True)

    def recorded(self) -> dict[str, Any]:
        if self.run.exists():
            return json.loads(self.run.read_text())
        if self.made:
            raise UserError(
                f"no run in {self.folder} has come to its end yet: `make local` goes on with it, "
                "`make local-down` removes it"
            )
        raise UserError(f"nothing runs in {self.folder}: start it with `make local`, or name its folder with --state")
