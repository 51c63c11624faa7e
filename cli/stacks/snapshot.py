"""Selects the snapshot a stack trains on, and writes it into the stack file before a preview or an `up`.

The rows of a day are the lake's folder `raw/<dataset>/<YYYY-MM-DD>/`. The file in the repository names the first
snapshot. Later the stack's output names the snapshot of the last training, so a deployment never returns to older rows.
Does not upload rows and does not train.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cli import pulumi_cli
from cli.errors import UserError
from cli.stacks import files, state
from infra.cloud.clients import AzureClients
from infra.config.former_names import with_present_names
from infra.config.settings import ReleaseSettings, TrainingSettings, without_time

KEY = "training:snapshot"


def choose(in_file: str | None, trained: str | None, landed: Iterable[str], today: datetime.date) -> str | None:
    """Return the latest of the days, or the snapshot in the file if none of the names is a day.

    in_file: snapshot in the stack file. trained: snapshot of the last training. landed: folders in the lake; days after
    `today` are ignored.
    """
    due = [name for name in landed if (day := _day(name)) and day <= today]
    named = [name for name in (in_file, trained) if name]
    days = [name for name in [*named, *due] if _day(name)]
    return max(days, default=named[0] if named else None)


def update(folder: Path, stack: str, landed: bool, today: datetime.date) -> str:
    """Write the selected snapshot into the stack's file if it differs, and return a line that explains the choice.

    Lists the days in the lake only if `landed` is true and the stack has a release, because a private lake answers only
    inside its network. Raises `UserError` if the stack has no lake yet.
    """
    config = with_present_names(files.read(folder, stack))
    if landed and not ReleaseSettings.model_validate({"enabled": config.get("release:enabled", True)}).enabled:
        return f"{stack}: it has no release (release:enabled), so nothing is trained"
    if "training:local_data" in config:
        return f"{stack}: it trains on local files (training:local_data), so no snapshot is selected"
    in_file, dataset = without_time(config.get(KEY)), config.get("training:dataset", TrainingSettings().dataset)
    outputs = state.outputs(folder, stack, missing_ok=True)
    trained = outputs.get("training_snapshot")
    days = _landed(outputs, dataset, stack) if landed else []
    selected = choose(in_file, trained, days, today)
    if selected is None:
        return f"{stack}: {KEY} is not set, and no training has run yet"
    if selected != in_file:
        pulumi_cli.output(folder, "config", "set", "--stack", stack, KEY, selected, failure=f"{KEY} cannot be set")
    if landed and selected == trained:
        return f"{stack}: the lake has no later snapshot by {today} than {trained}, which is trained already"
    return f"{stack}: {KEY} is {selected}"


def _day(name: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(name) if len(name) == len("2026-11-01") else None
    except ValueError:
        return None


def _landed(outputs: dict[str, Any], dataset: str, stack: str) -> list[str]:
    if "lake_blob_endpoint" not in outputs:
        raise UserError(f"stack {stack} has no lake yet: run `make up STACK={stack}` first, then upload rows")
    container = AzureClients.discover().blobs(outputs["lake_blob_endpoint"]).get_container_client("raw")
    blobs = container.walk_blobs(name_starts_with=f"{dataset}/", delimiter="/")
    return [blob.name.split("/")[1] for blob in blobs if blob.name.endswith("/")]
