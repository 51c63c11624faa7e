"""The folder that holds everything of a local run: marked as its own, and one command's at a time.

What else lies in such a folder is not ours to change. Of the files, only what a run wrote down is read here.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import UserError
from sandbox import state_files

_MARK = ".personalization-local"
_MADE = (
    *("sandbox", "pulumi", "run.json", "Pulumi.local.yaml", "data/synthetic"),
    *("engine.json", "engine-events.json", "settled.json"),
    *("pulumi-up.log", "pulumi-refresh.log", "pulumi-destroy.log"),
)
FORCE = "`make local-down FORCE=1` stops the sandbox and removes the run without Pulumi"
"""The remedy for a file of state that nothing can make again; nothing of a run exists outside its folder."""


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
        names = [*_MADE, *(f"{name}.partial" for name in _MADE)]
        return [self.folder / name for name in names if (self.folder / name).exists()]

    def clear(self) -> None:
        """Remove all that a run makes, the mark last. Raises `UserError` naming a path that could not be removed.

        A folder is renamed first: where the removal is killed, the next one does not take the rest for a whole folder.
        """
        for path in self.made:
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            if path.suffix != ".partial":
                renamed = path.with_name(f"{path.name}.partial")
                shutil.rmtree(renamed, ignore_errors=True)
                path = path.rename(renamed)
            shutil.rmtree(path, ignore_errors=True)
        if left := self.made:
            raise UserError(f"could not be removed: {', '.join(map(str, left))}. Remove it by hand.")
        with suppress(OSError):  # there are other files in it
            (self.folder / "data").rmdir()
        (self.folder / _MARK).unlink(missing_ok=True)

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
                f"Name another folder with STATE=<folder>. If a run did make them, and only its mark was lost: "
                f"`touch '{mark}'`, then the same command again."
            )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            holder = mark.open("a")
            kept.push(holder)
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, too, when this process is killed
            if mark.exists() and os.path.samestat(mark.stat(), os.fstat(holder.fileno())):
                break  # else a `local-down` removed it between the two calls
        holder.truncate(0)
        print(os.getpid(), file=holder, flush=True)

    def recorded(self) -> dict[str, Any]:
        """What the last completed run wrote down. Raises `UserError` where there is none, or it is not whole."""
        with suppress(FileNotFoundError):
            try:
                return state_files.read_json(self.run, "dataset", "data", "outputs")
            except state_files.Unreadable as error:
                raise UserError(f"{error}. `make local` writes it again; `make local-down` removes the run.") from None
        if self.made:
            raise UserError(
                f"no run in {self.folder} has come to its end yet: `make local` goes on with it, "
                "`make local-down` removes it"
            )
        raise UserError(f"nothing runs in {self.folder}: start it with `make local`, or name its folder with --state")
