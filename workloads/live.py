"""The live model, as far as a new one can be compared with it: the artefact it was deployed from.

Reads the artefact and says why where it cannot; never fails a training run for want of it. Does not ask Azure ML which
model is live: the release does, and names the artefact's folder, or leaves the file that names it (`live.json`) for
runs that Databricks starts itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import artefact, pipeline
from workloads.encode import Levels
from workloads.pipeline import Pipeline
from workloads.spec import Spec


@dataclass(frozen=True)
class Live:
    run_id: str
    pipeline: Pipeline | None = None
    profile: Mapping[str, Any] | None = None
    """What `drift.py` wrote of the rows it was trained on."""
    levels: Mapping[str, Levels] = field(default_factory=dict)
    """By encoding."""
    model: str = ""
    """Its trees, as LightGBM's text."""
    skipped: str = ""
    """Why it cannot be compared."""


def load(live: Path | None, dataset: Spec) -> Live | None:
    """None when nothing is live. The clicks it was trained on may have been counted by another rule: the new one's
    rows and labels judge both.

    live: folder of the artefact, or the file beside it that names it, which is missing where nothing is live.
    """
    if live is None:
        return None
    folder = live
    if live.suffix == ".json":
        if not live.exists():
            print(f"{live} does not exist: nothing is live", flush=True)
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
    return Live(
        run_id,
        pipeline.load(folder / "pipeline"),
        json.loads(profile.read_text("utf-8")) if profile.exists() else None,
        artefact.levels(folder, contract),
        (folder / "model.txt").read_text("utf-8"),
    )


def _named(file: Path) -> str:
    """The run that the file names; empty where it names none."""
    try:
        named = str(json.loads(file.read_text("utf-8"))["run_id"])
    except (ValueError, KeyError, TypeError):
        return ""
    return named if Path(named).name == named else ""


def _differs(contract: Mapping[str, Any], dataset: Spec) -> str:
    """Why it cannot score this dataset's rows; it may know fewer features than the new model does."""
    if contract["dataset"] != dataset.name:
        return f"it was trained on dataset {contract['dataset']!r}, not {dataset.name!r}"
    for feature in contract["features"]:
        name, kind = feature["name"], feature["type"]
        if name not in dataset.features:
            return f"it needs feature {name!r}, which is gone"
        if (now := dataset.features[name].type) != kind:
            return f"its feature {name!r} is of type {kind}, and now of type {now}"
    return ""
