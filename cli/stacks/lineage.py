"""Lineage of models: from the live endpoint back to the training rows, and from a snapshot to its models' deployments.

Reads Azure ML's records and `lineage.json` of the artefacts, and changes nothing. For models and deployments that were
created by hand, the recorded part is shown. Returns records; `tree` renders them for the terminal, and the dashboard
renders them as HTML.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients
from infra.release.serving_stage.live_record import read_reference

_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Record:
    """One object of the lineage, above the objects that it was made from."""

    kind: str
    """Kind of object, such as `deployment` or `training run`; empty for a remark."""
    text: str
    """Name or id of the object, and further facts."""
    children: list["Record"] = field(default_factory=list)

    def add(self, kind: str, text: str) -> "Record":
        """Add a child and return it."""
        child = Record(kind, text)
        self.children.append(child)
        return child


def tree(record: Record) -> Tree:
    """Return the record and everything below it as a tree for the terminal."""
    rendered = Tree(escape(f"{record.kind} {record.text}".strip()))
    for child in record.children:
        rendered.children.append(tree(child))
    return rendered


def of_endpoint(outputs: Mapping[str, Any]) -> Record:
    """Return the endpoint with its deployments; below each its traffic, image, model, training run and rows."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    endpoint = client.online_endpoints.get(outputs["endpoint_name"])
    root = Record("endpoint", f"{endpoint.name}  {endpoint.scoring_uri}")
    traffic = endpoint.traffic or {}
    deployments = client.online_deployments.list(endpoint.name)
    for deployment in sorted(deployments, key=lambda deployment: -traffic.get(deployment.name, 0)):
        record = root.add("deployment", _name_and_traffic(deployment, traffic))
        name, version = reference(deployment.environment)
        record.add("image", client.environments.get(name, version).image if version else _UNKNOWN)
        name, version = reference(deployment.model)
        if version:
            _add_model(record, outputs, client.models.get(name, version))
    _add_history(root, outputs)
    return root


def _add_history(root: Record, outputs: Mapping[str, Any]) -> None:
    """Add the deployments that are or were live, each with the settings that restore it."""
    reference = read_reference(outputs["lake_blob_endpoint"], "models")
    if not reference:
        return
    history = root.add("live deployments", "(newest first)")
    for entry in reference["deployments"]:
        _, _, digest = entry["image"].rpartition("@")
        settings = f"release:model {entry['model_version']}, release:image {digest}, serving:engine {entry['engine']}"
        history.add("deployment", f"{entry['deployment']} since {entry['since']}: {settings}")


def of_snapshot(outputs: Mapping[str, Any], snapshot: str) -> Record:
    """Return the snapshot with the model versions trained on it; below each its deployments."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    traffic = client.online_endpoints.get(outputs["endpoint_name"]).traffic or {}
    deployments: dict[str, list[str]] = {}
    for deployment in client.online_deployments.list(outputs["endpoint_name"]):
        _, version = reference(deployment.model)
        deployments.setdefault(version, []).append(_name_and_traffic(deployment, traffic))
    root = Record("snapshot", snapshot)
    for model in client.models.list(name=outputs["model_name"]):
        if model.tags.get("snapshot") == snapshot:
            record = _add_model(root, outputs, model)
            for deployment in deployments.get(str(model.version), ["none"]):
                record.add("deployment", deployment)
    if not root.children:
        root.add("", "no model version was trained on this snapshot")
    return root


def _name_and_traffic(deployment: Any, traffic: Mapping[str, int]) -> str:
    return f"{deployment.name}  {traffic.get(deployment.name, 0)} % of traffic"


def reference(asset: Any) -> tuple[str, str]:
    """Return (name, version) of an asset from `azureml:name:version` or its resource id; no version for other texts."""
    text = str(asset or "")
    if "/versions/" in text:
        *_, name, _, version = text.split("/")
        return name, version
    name, _, version = text.removeprefix("azureml:").rpartition(":")
    return name, version


def _add_model(parent: Record, outputs: Mapping[str, Any], model: Any) -> Record:
    tags = model.tags
    record = parent.add("model", f"{model.name}:{model.version}  AUC {tags.get('auc', _UNKNOWN)}")
    run_id = tags.get("run_id")
    run = record.add("training run", run_id or _UNKNOWN)
    if run_id:
        run.children.extend(training_records(outputs, run_id, tags))
    return record


def training_records(outputs: Mapping[str, Any], run_id: str, tags: Mapping[str, str]) -> Iterator[Record]:
    """Yield code, rows and versions of a training run, from the model's tags and from the artefact's `lineage.json`."""
    yield Record("code", tags.get("code", _UNKNOWN))
    yield Record("snapshot", f"{tags.get('dataset', '')}/{tags.get('snapshot', _UNKNOWN)}")
    try:
        lineage = Artefact(outputs["lake_blob_endpoint"], "models", run_id).json("lineage.json")
    except ArtefactError as error:
        yield Record("", str(error))
        return
    data = lineage["data"]
    yield Record("joined table", f"{data['digest'][:16]}  {data['rows']:,} rows, {data['clicks']:,} clicks")
    yield Record("files", ", ".join(table["file"] for table in data["tables"].values()))
    yield Record("spec", lineage["spec_digest"][:16])
    yield Record("versions", ", ".join(f"{name} {version}" for name, version in lineage["versions"].items()))
    start = lineage["warm_start"]
    if start and start["trees"]:  # without trees, it holds the reason why the fit started from scratch
        yield Record("warm start", f"from training run {start['run_id']}")
    yield Record("MLflow run", lineage.get("mlflow_run_id") or _UNKNOWN)
    yield Record("trained at", lineage["trained_at"])
