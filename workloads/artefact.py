"""The artefact that training passes to serving: a folder of files, complete or not valid at all.

`MANIFEST.json` names every other file with its SHA-256 and is written last. A folder without it is not an artefact; the
next run with the same id deletes it and starts again. Each file is written once, from start to end, because a
Databricks volume allows neither seeking nor appending.
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
JUDGED = "judged"
"""Folder with the judged model, if the served one learned from the test rows, too."""
CONTRACT_VERSION = "1.2"


@contextmanager
def new(folder: Path) -> Iterator[Path]:
    """Create the folder for the block to fill; write the manifest at the end, or remove the folder after an error."""
    if (folder / MANIFEST).exists():
        raise WorkloadError(f"{folder} already holds a complete artefact, which is never overwritten: use a new run id")
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
            "crosses": [
                {"name": name, "of": features} for name, features in dataset.encodings.items() if len(features) > 1
            ],
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
    """Return the bytes of `encoder.npz`.

    For each categorical, then each cross, it holds three arrays: `levels_<i>`, the concatenated UTF-8 bytes of the
    levels; `offsets_<i>`, the start of each level and the end of the last one; `values_<i>`, the pairs.
    """
    arrays: dict[str, Any] = {}
    for i, table in enumerate(levels.values()):
        encoded = [level.encode() for level in table.levels]
        arrays[f"levels_{i}"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"offsets_{i}"] = np.concatenate(([0], np.cumsum([len(level) for level in encoded]))).astype(np.int64)
        arrays[f"values_{i}"] = table.values
    buffer = io.BytesIO()  # writing a zip archive seeks back
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def levels(folder: Path, contract: Mapping[str, Any]) -> dict[str, Levels]:
    """Read `encoder.npz` of an artefact; return the levels by encoding."""
    encoder = contract["encoder"]
    names = [*encoder["categoricals"], *(cross["name"] for cross in encoder["crosses"])]
    tables: dict[str, Levels] = {}
    with np.load(folder / "encoder.npz", allow_pickle=False) as arrays:
        for i, name in enumerate(names):
            text, bounds = arrays[f"levels_{i}"].tobytes(), arrays[f"offsets_{i}"].tolist()
            decoded = [text[start:end].decode() for start, end in pairwise(bounds)]
            tables[name] = Levels(decoded, arrays[f"values_{i}"])
    return tables
