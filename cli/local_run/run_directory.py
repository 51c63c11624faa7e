"""Folder of a local run: marked by a file, locked by one command at a time.

Does not change files that no run created, and reads only the run's record.
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
_NAMES = (
    *("sandbox", "pulumi", "run.json", "Pulumi.local.yaml", "data/synthetic"),
    *("engine.json", "engine-events.json", "settled.json"),
    *("pulumi-up.log", "pulumi-refresh.log", "pulumi-destroy.log"),
)
FORCE = "`make local-down FORCE=1` stops the sandbox and removes the run without Pulumi"
"""Remedy for a damaged state file that cannot be restored. It is safe, as a run has no resources elsewhere."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder given by `STATE` or `--state`."""

    folder: Path

    @property
    def sandbox(self) -> Path:
        return self.folder / "sandbox"

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def files(self) -> list[Path]:
        """Existing files and folders of the run, which `clear` removes."""
        names = [*_NAMES, *(f"{name}.partial" for name in _NAMES)]
        return [self.folder / name for name in names if (self.folder / name).exists()]

    def clear(self) -> None:
        """Remove the files of the run, the mark last. Raises `UserError` with the paths that could not be removed.

        A folder is renamed first, so that a partly removed folder is not used as a complete one after a kill.
        """
        for path in self.files:
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            if path.suffix != ".partial":
                renamed = path.with_name(f"{path.name}.partial")
                shutil.rmtree(renamed, ignore_errors=True)
                path = path.rename(renamed)
            shutil.rmtree(path, ignore_errors=True)
        if left := self.files:
            raise UserError(f"could not be removed: {', '.join(map(str, left))}. Remove it by hand.")
        with suppress(OSError):  # it contains other files
            (self.folder / "data").rmdir()
        (self.folder / _MARK).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it does not exist, and lock it until this process ends.

        Raises `UserError` if the folder cannot be written, if another command has locked it, or if it contains foreign
        files under names that a run would write or remove.
        """
        with ExitStack() as resources:
            try:
                self._lock(resources)
            except BlockingIOError:
                raise UserError(
                    f"`make local` or `make local-down` is using {self.folder} (process "
                    f"{(self.folder / _MARK).read_text().strip()}). Wait until it has ended, or stop it with Ctrl-C; "
                    "or name another folder with STATE=<folder>."
                ) from None
            except OSError as error:
                raise UserError(
                    f"the state folder {self.folder} cannot be written: {error.strerror}. "
                    "Name another with STATE=<folder>, on a disk with 2 GB free."
                ) from None
            yield

    def _lock(self, resources: ExitStack) -> None:
        mark = self.folder / _MARK
        if self.files and not mark.exists():
            foreign = " and ".join(path.name for path in self.files)
            raise UserError(
                f"{self.folder} contains {foreign}, which `make local` did not create; nothing was changed. "
                f"Name another folder with STATE=<folder>. If a run created them and only its mark was lost: "
                f"`touch '{mark}'`, then the same command again."
            )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            file = mark.open("a")
            resources.push(file)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it if this process is killed
            if mark.exists() and os.path.samestat(mark.stat(), os.fstat(file.fileno())):
                break  # otherwise a `local-down` removed the mark between the two calls
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)

    def recorded(self) -> dict[str, Any]:
        """Return the record of the last completed run. Raises `UserError` if it is missing or damaged."""
        with suppress(FileNotFoundError):
            try:
                return state_files.read_json(self.record, "dataset", "data", "outputs")
            except state_files.Unreadable as error:
                raise UserError(f"{error}. `make local` writes it again; `make local-down` removes the run.") from None
        if self.files:
            raise UserError(
                f"the run in {self.folder} is not complete: `make local` continues it, `make local-down` removes it"
            )
        raise UserError(
            f"there is no local run in {self.folder}: start it with `make local`, or name its folder with --state"
        )
