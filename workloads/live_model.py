"""The live model's artefact, with which a new model is compared.

Returns the reason if the artefact cannot be used; a training run never fails because of it. Does not ask Azure ML which
model is live: the release does. It passes the artefact's folder; for runs that Databricks starts on schedule it writes
the file `live.json`, which names the folder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import artefact
from workloads.features.encode import Levels
from workloads.spec import Spec
from workloads.training import pipeline
from workloads.training.pipeline import Pipeline


@dataclass(frozen=True)
class Live:
    """The live model as it was judged.

    A model that learned from its test rows knows most rows of today's test set; the judged one with the same
    hyperparameters does not.
    """

    run_id: str
    pipeline: Pipeline | None = None
    profile: Mapping[str, Any] | None = None
    """Profile of its training rows, written by `drift.py`."""
    levels: Mapping[str, Levels] = field(default_factory=dict)
    """Levels by encoding."""
    model: str = ""
    """Its trees, as LightGBM's text."""
    skipped: str = ""
    """Reason why it cannot be compared; empty if it can."""


def load(live: Path | None, dataset: Spec) -> Live | None:
    """Return the live model; None if there is none. It may have been trained on clicks by another rule: both models are
    evaluated on the new model's rows and labels.

    live: folder of the artefact, or the file `live.json` next to it, which names it and is missing if no model is live.
    """
    if live is None:
        return None
    folder = live
    if live.suffix == ".json":
        if not live.exists():
            print(f"{live} does not exist: no model is live", flush=True)
            return None
        named = _named(live)
        if not named:
            return Live("", skipped=f"{live.name} names no training run")
        folder = live.with_name(named)
    if not (folder / artefact.MANIFEST).exists():
        return Live(folder.name, skipped="its artefact is no longer in the lake")
    run_id = json.loads((folder / "lineage.json").read_text("utf-8"))["run_id"]
    contract = json.loads((folder / "contract.json").read_text("utf-8"))
    if reason := _differs(contract, dataset):
        return Live(run_id, skipped=reason)
    profile = folder / "profile.json"
    judged = folder / artefact.JUDGED if (folder / artefact.JUDGED).exists() else folder
    return Live(
        run_id,
        pipeline.load(judged / "pipeline"),
        json.loads(profile.read_text("utf-8")) if profile.exists() else None,
        artefact.levels(folder, contract),
        (judged / "model.txt").read_text("utf-8"),
    )


def _named(file: Path) -> str:
    """Return the run that the file names; empty if it names none."""
    try:
        named = str(json.loads(file.read_text("utf-8"))["run_id"])
    except (ValueError, KeyError, TypeError):
        return ""
    return named if Path(named).name == named else ""


def _differs(contract: Mapping[str, Any], dataset: Spec) -> str:
    """Return why the model cannot score this dataset's rows; empty if it can. It may use fewer features."""
    if contract["dataset"] != dataset.name:
        return f"it was trained on dataset {contract['dataset']!r}, not {dataset.name!r}"
    for feature in contract["features"]:
        name, kind = feature["name"], feature["type"]
        if name not in dataset.features:
            return f"it needs feature {name!r}, which the spec no longer has"
        if (now := dataset.features[name].type) != kind:
            return f"its feature {name!r} has type {kind}, and type {now} in the spec"
    return ""
