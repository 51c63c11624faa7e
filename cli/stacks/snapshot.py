"""Which rows a stack trains on, as days go by: written into its stack file before a preview or an `up`.

The rows of a day are the lake's folder `raw/<dataset>/<YYYY-MM-DD>/`. The file in the repository names the first; from
then on the stack's own output says what it has trained on, so that a deployment never goes back to older rows. Lands no
rows and trains nothing.
"""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cli.errors import UserError
from cli.stacks import files, state
from infra.cloud.clients import AzureClients
from infra.config import loading
from infra.config.settings import ReleaseSettings, TrainingSettings, without_time

KEY = "training:snapshot"


def choose(in_file: str | None, trained: str | None, landed: Iterable[str], today: datetime.date) -> str | None:
    """The latest day of all, none after `today` if it only landed; where there is no day, what the file says."""
    due = [name for name in landed if (day := _day(name)) and day <= today]
    named = [name for name in (in_file, trained) if name]
    days = [name for name in [*named, *due] if _day(name)]
    return max(days, default=named[0] if named else None)


def update(folder: Path, stack: str, landed: bool, today: datetime.date) -> str:
    """Write the choice into the stack's file if it is another; what was chosen and why, in words.

    Lists the lake's days only if `landed` and the stack has a release: a private lake answers
    inside its network alone. Raises `UserError` for a stack that has no lake yet.
    """
    config = loading.with_present_names(files.read(folder, stack))
    if landed and not ReleaseSettings.model_validate({"enabled": config.get("release:enabled", True)}).enabled:
        return f"{stack}: it has no release (release:enabled), so nothing is trained"
    if "training:local_data" in config:
        return f"{stack}: it trains on local files (training:local_data), which no day replaces"
    in_file, dataset = without_time(config.get(KEY)), config.get("training:dataset", TrainingSettings().dataset)
    outputs = _outputs(folder, stack)
    trained = outputs.get("training_snapshot")
    found = _landed(outputs, dataset, stack) if landed else []
    chosen = choose(in_file, trained, found, today)
    if chosen is None:
        return f"{stack}: no rows are named, and none have been trained on"
    if chosen != in_file:
        state.ask(folder, f"{KEY} cannot be set", "config", "set", "--stack", stack, KEY, chosen)
    if landed and chosen == trained:
        return f"{stack}: nothing later than {trained} has landed by {today}; it has been trained on already"
    return f"{stack}: {KEY} is {chosen}"


def _day(name: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(name) if len(name) == len("2026-11-01") else None
    except ValueError:
        return None


def _landed(outputs: dict[str, Any], dataset: str, stack: str) -> list[str]:
    if "lake_blob_endpoint" not in outputs:
        raise UserError(f"stack {stack} has no lake yet that rows could have landed in: `make up STACK={stack}` first")
    container = AzureClients.discover().blobs(outputs["lake_blob_endpoint"]).get_container_client("raw")
    found = container.walk_blobs(name_starts_with=f"{dataset}/", delimiter="/")
    return [blob.name.split("/")[1] for blob in found if blob.name.endswith("/")]


def _outputs(folder: Path, stack: str) -> dict[str, Any]:
    listed = state.ask(folder, "stacks cannot be listed", "stack", "ls", "--json")
    known = {found["name"].rpartition("/")[2] for found in json.loads(listed)}
    if stack.rpartition("/")[2] not in known:
        return {}
    return json.loads(
        state.ask(folder, f"outputs of {stack} cannot be read", "stack", "output", "--json", "--stack", stack)
    )
