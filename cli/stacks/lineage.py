"""From the live endpoint back to the rows it was trained on, and from a snapshot to what serves it.

Reads Azure ML's records and the artefacts' `lineage.json`, and changes nothing. What was deployed or registered by hand
is shown as far as it says where it came from.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.tree import Tree

from infra.cloud.artefact import Artefact, ArtefactError
from infra.cloud.clients import AzureClients
from infra.release.serving_stage.live_record import read_reference

_UNKNOWN = "not recorded"


def of_endpoint(outputs: Mapping[str, Any]) -> Tree:
    """Every deployment of the stack's endpoint with its share of traffic, and below each what it was made of."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    endpoint = client.online_endpoints.get(outputs["endpoint_name"])
    tree = Tree(f"endpoint {endpoint.name}  {endpoint.scoring_uri}")
    traffic = endpoint.traffic or {}
    deployments = client.online_deployments.list(endpoint.name)
    for deployment in sorted(deployments, key=lambda found: -traffic.get(found.name, 0)):
        branch = tree.add(f"deployment {_share(deployment, traffic)}")
        name, version = reference(deployment.environment)
        branch.add(f"image {client.environments.get(name, version).image}" if version else f"image {_UNKNOWN}")
        name, version = reference(deployment.model)
        if version:
            _add_model(branch, outputs, client.models.get(name, version))
    _add_history(tree, outputs)
    return tree


def _add_history(tree: Tree, outputs: Mapping[str, Any]) -> None:
    """Every deployment that was live, with the settings that bring it back."""
    recorded = read_reference(outputs["lake_blob_endpoint"], "models")
    if recorded:
        branch = tree.add("live, newest first")
        for found in recorded["deployments"]:
            _, _, digest = found["image"].rpartition("@")
            settings = (
                f"release:model {found['model_version']}, release:image {digest}, serving:engine {found['engine']}"
            )
            branch.add(f"{found['deployment']} since {found['since']}: {settings}")


def of_snapshot(outputs: Mapping[str, Any], snapshot: str) -> Tree:
    """Every model version trained on the snapshot, and the deployments that serve it."""
    client = AzureClients.discover().machine_learning(outputs["ml_workspace_id"])
    traffic = client.online_endpoints.get(outputs["endpoint_name"]).traffic or {}
    serving: dict[str, list[str]] = {}
    for deployment in client.online_deployments.list(outputs["endpoint_name"]):
        _, version = reference(deployment.model)
        serving.setdefault(version, []).append(_share(deployment, traffic))
    tree = Tree(f"snapshot {snapshot}")
    for model in client.models.list(name=outputs["model_name"]):
        if model.tags.get("snapshot") == snapshot:
            branch = _add_model(tree, outputs, model)
            for served_by in serving.get(str(model.version), ["no deployment"]):
                branch.add(f"served by {served_by}")
    if not tree.children:
        tree.add("no model version was trained on it")
    return tree


def _share(deployment: Any, traffic: Mapping[str, int]) -> str:
    return f"{deployment.name}  {traffic.get(deployment.name, 0)} % of traffic"


def reference(asset: Any) -> tuple[str, str]:
    """(name, version) from `azureml:name:version` or the resource's id; version is empty where it is neither."""
    text = str(asset or "")
    if "/versions/" in text:
        *_, name, _, version = text.split("/")
        return name, version
    name, _, version = text.removeprefix("azureml:").rpartition(":")
    return name, version


def _add_model(tree: Tree, outputs: Mapping[str, Any], model: Any) -> Tree:
    tags = model.tags
    branch = tree.add(f"model {model.name}:{model.version}  AUC {tags.get('auc', _UNKNOWN)}")
    run_id = tags.get("run_id")
    if not run_id:
        branch.add(f"training run {_UNKNOWN}")
        return branch
    run = branch.add(f"training run {run_id}")
    for line in _trained(outputs, run_id, tags):
        run.add(line)
    return branch


def _trained(outputs: Mapping[str, Any], run_id: str, tags: Mapping[str, str]) -> Iterator[str]:
    yield f"code {tags.get('code', _UNKNOWN)}"
    yield f"snapshot {tags.get('dataset', '')}/{tags.get('snapshot', _UNKNOWN)}"
    try:
        lineage = Artefact(outputs["lake_blob_endpoint"], "models", run_id).json("lineage.json")
    except ArtefactError as error:
        yield str(error)
        return
    data = lineage["data"]
    yield f"joined table {data['digest'][:16]}  {data['rows']:,} rows, {data['clicks']:,} clicks"
    yield "files " + ", ".join(table["file"] for table in data["tables"].values())
    yield f"spec {lineage['spec_digest'][:16]}"
    yield "versions " + ", ".join(f"{name} {version}" for name, version in lineage["versions"].items())
    start = lineage["warm_start"]
    if start and start["trees"]:  # without trees it says why the fit began anew
        yield f"went on from training run {start['run_id']}"
    yield f"MLflow run {lineage.get('mlflow_run_id') or _UNKNOWN}"
    yield f"trained at {lineage['trained_at']}"
