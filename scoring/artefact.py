"""Find the model artefact on disk, check every file against the digests in its manifest, and read it.

A damaged or partly copied artefact is refused before anything of it is loaded, and the error names the file. Sizes and
names are limited, so that a file can neither fill the memory nor reach outside the folder. Does not check the contents
of `pipeline/`, nor those of `model.txt` (see `engines.model_text`): the libraries that read them trust them, so write
access to the artefact is the right to run code in this process.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import msgspec

from scoring.contract import Contract, read_contract

MANIFEST = "MANIFEST.json"
REQUIRED = ("contract.json", "model.txt", "encoder.npz", "golden.jsonl")
_MOST_BYTES = 64 * 1024 * 1024
"""Largest file that is read into memory as a whole."""
_NAME_SHOWN = 200
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError)


class ArtefactError(ValueError):
    """The artefact cannot be served. The message names the file and the reason."""


class Manifest(msgspec.Struct, frozen=True):
    files: dict[str, str]


class Golden(msgspec.Struct, frozen=True):
    """A row and the probability that training computed for it."""

    row: msgspec.Raw
    probability: float


class Lineage(msgspec.Struct, frozen=True):
    trained_at: datetime | None = None


@dataclass(frozen=True)
class Artefact:
    folder: Path
    contract: Contract

    def golden(self) -> list[Golden]:
        with _named("golden.jsonl"):
            return msgspec.json.Decoder(Golden).decode_lines(_content(self.folder / "golden.jsonl"))

    def trained_at(self) -> datetime | None:
        """Time at which training wrote the artefact; None if its lineage does not hold one."""
        file = self.folder / "lineage.json"
        with _named(file.name):
            return msgspec.json.decode(_content(file), type=Lineage).trained_at if file.is_file() else None


def open_artefact(model_dir: Path) -> Artefact:
    """Check and open the artefact in `model_dir` or, as Azure ML mounts it, in its only sub-folder with a manifest.

    Raises `ArtefactError` for a missing, damaged or unlisted file, and `ContractError` for a wrong contract.
    """
    folder = _find(model_dir)
    with _named(MANIFEST):
        files = msgspec.json.decode(_content(folder / MANIFEST), type=Manifest).files
    for name in (*REQUIRED, *files):
        if name not in files:
            raise ArtefactError(f"{name} is not listed in {MANIFEST}: the artefact is incomplete")
        with _named(name[:_NAME_SHOWN]):
            _check_file(folder, name, files[name])
    with _named("contract.json"):
        return Artefact(folder, read_contract(_content(folder / "contract.json")))


def _check_file(folder: Path, name: str, digest: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ArtefactError(f"{name[:_NAME_SHOWN]} in {MANIFEST} is not a path within the artefact")
    if not (folder / name).is_file():
        raise ArtefactError(f"{name} is listed in {MANIFEST} but missing: copy the whole artefact again")
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(f"{name} is a link that leads out of the artefact")
    with (folder / name).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ArtefactError(f"{name} differs from its digest in {MANIFEST}: copy the artefact again")


def _content(file: Path) -> bytes:
    if file.stat().st_size > _MOST_BYTES:
        raise ArtefactError(f"{file.name} is over {_MOST_BYTES} bytes")
    return file.read_bytes()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn an error while reading or decoding into an `ArtefactError` that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        raise ArtefactError(f"{name}: {str(error)[:_NAME_SHOWN]}") from None


def _find(model_dir: Path) -> Path:
    if not model_dir.is_dir():
        raise ArtefactError(f"AZUREML_MODEL_DIR={model_dir} is not a folder")
    if (model_dir / MANIFEST).is_file():
        return model_dir
    folders = [manifest.parent for manifest in model_dir.glob(f"*/{MANIFEST}")]
    if len(folders) != 1:
        raise ArtefactError(
            f"AZUREML_MODEL_DIR={model_dir} must hold {MANIFEST}, itself or in one sub-folder; found {len(folders)}"
        )
    return folders[0]
