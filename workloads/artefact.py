"""What passes from training to serving: a folder of files, whole or not at all.

`MANIFEST.json` names every other file with its SHA-256 and comes last: a folder without it is no artefact, and the
next run of the same id starts it afresh. Files are written from start to end once, as a volume demands.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from workloads.errors import WorkloadError
from workloads.features.categories import BETWEEN, MISSING_LEVEL
from workloads.features.encode import WIDTH, Levels
from workloads.spec import Feature, Spec

MANIFEST = "MANIFEST.json"
CONTRACT_VERSION = "1.2"


@contextmanager
def new(folder: Path) -> Iterator[Path]:
    """The folder to fill; sealed at the end, removed if anything fails."""
    if (folder / MANIFEST).exists():
        raise WorkloadError(f"{folder} already holds a whole artefact, which is never written over: use a new run id")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        write_json(folder / MANIFEST, {"files": digests})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")


def contract(dataset: Spec) -> dict[str, Any]:
    return {
        "contract_version": CONTRACT_VERSION,
        "dataset": dataset.name,
        "label": "label",
        "features": [_contract_of(name, feature) for name, feature in dataset.features.items()],
        "model_columns": [{"feature": feature, "value": value} for feature, value in dataset.model_columns],
        "encoder": {
            "categoricals": dataset.categoricals,
            "crosses": [{"name": name, "of": of} for name, of in dataset.encodings.items() if len(of) > 1],
            "bands": {name: f.bands for name, f in dataset.features.items() if f.bands},
            "missing_level": MISSING_LEVEL,
            "between": BETWEEN,
            "width": WIDTH,
        },
        "item_id": dataset.item_id,
    }


def _contract_of(name: str, feature: Feature) -> dict[str, Any]:
    span = dict(zip(("minimum", "maximum"), feature.span or (), strict=False))
    return {"name": name, "type": feature.type, "side": feature.side, **span}


def encoder_arrays(levels: Mapping[str, Levels]) -> bytes:
    """`encoder.npz`: for each categorical, then each cross, the UTF-8 bytes of its levels end to end, where each
    begins, and their pairs."""
    arrays: dict[str, Any] = {}
    for i, of in enumerate(levels.values()):
        words = [word.encode() for word in of.words]
        arrays[f"levels_{i}"] = np.frombuffer(b"".join(words), np.uint8)
        arrays[f"offsets_{i}"] = np.concatenate(([0], np.cumsum([len(word) for word in words]))).astype(np.int64)
        arrays[f"values_{i}"] = of.values
    buffer = io.BytesIO()  # a zip archive seeks back while it is written
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def levels(folder: Path, contract: Mapping[str, Any]) -> dict[str, Levels]:
    """Of an artefact, by encoding: `encoder_arrays` read again."""
    encoder = contract["encoder"]
    names = [*encoder["categoricals"], *(cross["name"] for cross in encoder["crosses"])]
    found: dict[str, Levels] = {}
    with np.load(folder / "encoder.npz", allow_pickle=False) as arrays:
        for i, name in enumerate(names):
            text, bounds = arrays[f"levels_{i}"].tobytes(), arrays[f"offsets_{i}"].tolist()
            words = [text[start:end].decode() for start, end in pairwise(bounds)]
            found[name] = Levels(words, arrays[f"values_{i}"])
    return found
