"""The notebooks of `workloads/notebooks/` in the workspace, with `settings.json`, the defaults of their parameters.

The live model determines these settings: its registry entry has the rows and the run that it comes from. Holds no key:
`endpoint_key.py` writes it into a secret scope. Does not run the notebooks, and overwrites changes in the workspace: a
user who wants to keep a changed notebook must clone it first.
"""

import json
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import AzureClients, databricks_of
from infra.dynamic.ownership import WorkspaceProvider, make_folder
from infra.dynamic.provider import gone
from infra.release.interactive_access.endpoint_key import KEY
from infra.release.training_stage.workload import NOTEBOOKS, delete_folder, sources_digest

_SETTINGS = "settings.json"


def notebooks_digest() -> str:
    return sources_digest(NOTEBOOKS, {".py"})


class _NotebooksProvider(WorkspaceProvider):
    object_name = ("folder",)
    identity = ("workspace_id", "workspace_uid", "folder")
    inputs = (
        *("workspace_url", "digest", "ml_workspace_id", "model_name", "model_version"),
        *("volumes", "scoring_uri", "scope", "team"),
    )

    def create(self, props: dict[str, Any]) -> CreateResult:
        _upload(props)
        return CreateResult(props["folder"], {**props, "path": props["folder"]})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if one of the files is. Does not compare their contents."""
        from databricks.sdk.errors import NotFound

        try:
            stored = {entry.path for entry in databricks_of(props).workspace.list(props["folder"])}
        except NotFound:
            return gone()
        names = (*(source.stem for source in NOTEBOOKS.glob("*.py")), _SETTINGS)
        return ReadResult(id_, props) if stored >= {f"{props['folder']}/{name}" for name in names} else gone()

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        _upload(news)
        return UpdateResult({**news, "path": news["folder"]})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        delete_folder(props, props["folder"])


def _upload(props: dict[str, Any]) -> None:
    from databricks.sdk.service.workspace import ImportFormat, Language

    cloud, folder = AzureClients.discover(), props["folder"]
    registry = cloud.machine_learning(props["ml_workspace_id"]).models
    settings = _settings(props, registry.get(props["model_name"], props["model_version"]).tags)
    client = databricks_of(props)
    files = client.workspace
    make_folder(client, folder, "CAN_RUN", props["team"])
    for source in sorted(NOTEBOOKS.glob("*.py")):
        path = f"{folder}/{source.stem}"
        files.upload(path, source.read_bytes(), format=ImportFormat.SOURCE, language=Language.PYTHON, overwrite=True)
    content = json.dumps(settings, indent=1).encode()
    files.upload(f"{folder}/{_SETTINGS}", content, format=ImportFormat.AUTO, overwrite=True)


def _settings(props: dict[str, Any], model_tags: dict[str, str]) -> dict[str, str]:
    return {
        "dataset": model_tags["dataset"],
        "features": f"{props['volumes']}/features/{model_tags['dataset']}/{model_tags['snapshot']}",
        "artefact": f"{props['volumes']}/models/{model_tags['run_id']}",
        "model": f"{props['model_name']}:{props['model_version']}",
        "scoring_uri": props["scoring_uri"],
        "secret_scope": props["scope"],
        "secret_key": KEY,
    }


class Notebooks(Resource, module="databricks", name="Notebooks"):
    path: pulumi.Output[str]
    """Workspace path of their folder; known once they are uploaded."""

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        folder: str,
        digest: str,
        ml_workspace_id: pulumi.Input[str],
        model_name: str,
        model_version: pulumi.Input[str],
        volumes: pulumi.Input[str],
        scoring_uri: pulumi.Input[str],
        scope: str,
        team: str | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`volumes`: the folder of the volumes; `scope`: the secret scope of `EndpointKey`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "folder": folder,
            "digest": digest,
            "ml_workspace_id": ml_workspace_id,
            "model_name": model_name,
            "model_version": model_version,
            "volumes": volumes,
            "scoring_uri": scoring_uri,
            "scope": scope,
            "team": team,
        }
        super().__init__(_NotebooksProvider(), name, {**props, "path": None}, opts)
