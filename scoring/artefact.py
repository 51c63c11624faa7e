"""The model artefact on disk: found, checked byte for byte against its manifest, and read.

A damaged or partly copied artefact is refused with the name of the file; nothing of it is loaded before.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from scoring.contract import Contract, read_contract

MANIFEST = "MANIFEST.json"
REQUIRED = ("contract.json", "model.txt", "encoder.npz", "golden.jsonl")


class ArtefactError(ValueError):
    """The artefact cannot be served; says which file and why."""


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
        try:
            return msgspec.json.Decoder(Golden).decode_lines((self.folder / "golden.jsonl").read_bytes())
        except msgspec.MsgspecError as error:
            raise ArtefactError(f"golden.jsonl: {error}") from None

    def trained_at(self) -> datetime | None:
        """When training wrote it; None where its lineage does not say."""
        file = self.folder / "lineage.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Lineage).trained_at if file.is_file() else None
        except msgspec.MsgspecError as error:
            raise ArtefactError(f"lineage.json: {error}") from None


def open_artefact(model_dir: Path) -> Artefact:
    """`model_dir` is the artefact, or holds it as its only sub-folder with a manifest, as Azure ML mounts it."""
    folder = _find(model_dir)
    try:
        files = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest).files
    except msgspec.MsgspecError as error:
        raise ArtefactError(f"{MANIFEST}: {error}") from None
    for name in (*REQUIRED, *files):
        if name not in files:
            raise ArtefactError(f"{name} is not listed in {MANIFEST}: the artefact is incomplete")
        if not (folder / name).is_file():
            raise ArtefactError(f"{name} is listed in {MANIFEST} but missing: copy the whole artefact again")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != files[name]:
                raise ArtefactError(f"{name} differs from its digest in {MANIFEST}: copy the artefact again")
    return Artefact(folder, read_contract((folder / "contract.json").read_bytes()))


def _find(model_dir: Path) -> Path:
    if not model_dir.is_dir():
        raise ArtefactError(f"AZUREML_MODEL_DIR={model_dir} is not a folder")
    if (model_dir / MANIFEST).is_file():
        return model_dir
    found = [manifest.parent for manifest in model_dir.glob(f"*/{MANIFEST}")]
    if len(found) != 1:
        raise ArtefactError(
            f"AZUREML_MODEL_DIR={model_dir} must hold {MANIFEST}, itself or in one sub-folder; found {len(found)}"
        )
    return found[0]
