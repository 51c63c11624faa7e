"""The notebooks of `workloads/notebooks/` in the workspace, with `settings.json`, the defaults of their parameters.

The live model determines these settings: its registry entry has the rows and the run that it comes from. Holds no key:
`endpoint_key.py` writes it into a secret scope. Does not run the notebooks, and overwrites changes in the workspace: a
user who wants to keep a changed notebook must clone it first.
"""

import json
from collections.abc import Mapping

import pulumi

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Outputs, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider, make_folder
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of
from infra.release.interactive_access.endpoint_key import KEY
from infra.release.training_stage.workload import NOTEBOOKS, delete_folder, sources_digest

_SETTINGS = "settings.json"


def notebooks_digest() -> str:
    return sources_digest(NOTEBOOKS, {".py"})


class NotebooksInputs(WorkspaceInputs):
    folder: InputField[str] = replaces()
    digest: InputField[str] = updates()
    ml_workspace_id: InputField[str] = updates()
    model_name: InputField[str] = updates()
    model_version: InputField[str] = updates()
    volumes: InputField[str] = updates()
    """The folder of the volumes."""
    scoring_uri: InputField[str] = updates()
    scope: InputField[str] = updates()
    """The secret scope of `EndpointKey`."""
    team: InputField[str | None] = updates()


class NotebooksOutputs(Outputs):
    path: str


class _NotebooksProvider(WorkspaceProvider[NotebooksInputs, NotebooksOutputs]):
    object_name = ("folder",)

    def create_object(self, inputs: NotebooksInputs) -> Creation[NotebooksOutputs]:
        return Creation(inputs.folder, _upload(inputs))

    def read_object(self, state: ResourceState[NotebooksInputs, NotebooksOutputs]) -> NotebooksInputs | None:
        """Gone if one of the files is. Does not compare their contents."""
        from databricks.sdk.errors import NotFound

        inputs = state.inputs
        try:
            stored = {entry.path for entry in databricks_of(inputs).workspace.list(inputs.folder)}
        except NotFound:
            return None
        names = (*(source.stem for source in NOTEBOOKS.glob("*.py")), _SETTINGS)
        return inputs if stored >= {f"{inputs.folder}/{name}" for name in names} else None

    def update_object(
        self, _state: ResourceState[NotebooksInputs, NotebooksOutputs], inputs: NotebooksInputs
    ) -> NotebooksOutputs:
        return _upload(inputs)

    def delete_object(self, state: ResourceState[NotebooksInputs, NotebooksOutputs]) -> None:
        delete_folder(state.inputs, state.inputs.folder)


def _upload(inputs: NotebooksInputs) -> NotebooksOutputs:
    from databricks.sdk.service.workspace import ImportFormat, Language

    cloud, folder = AzureClients.discover(), inputs.folder
    registry = cloud.machine_learning(inputs.ml_workspace_id).models
    settings = _settings(inputs, registry.get(inputs.model_name, inputs.model_version).tags)
    client = databricks_of(inputs)
    files = client.workspace
    make_folder(client, folder, "CAN_RUN", inputs.team)
    for source in sorted(NOTEBOOKS.glob("*.py")):
        path = f"{folder}/{source.stem}"
        files.upload(path, source.read_bytes(), format=ImportFormat.SOURCE, language=Language.PYTHON, overwrite=True)
    content = json.dumps(settings, indent=1).encode()
    files.upload(f"{folder}/{_SETTINGS}", content, format=ImportFormat.AUTO, overwrite=True)
    return NotebooksOutputs(path=folder)


def _settings(inputs: NotebooksInputs, model_tags: Mapping[str, str]) -> dict[str, str]:
    return {
        "dataset": model_tags["dataset"],
        "features": f"{inputs.volumes}/features/{model_tags['dataset']}/{model_tags['snapshot']}",
        "artefact": f"{inputs.volumes}/models/{model_tags['run_id']}",
        "model": f"{inputs.model_name}:{inputs.model_version}",
        "scoring_uri": inputs.scoring_uri,
        "secret_scope": inputs.scope,
        "secret_key": KEY,
    }


class Notebooks(DynamicResource[NotebooksInputs], module="databricks", name="Notebooks", provider=_NotebooksProvider):
    path: pulumi.Output[str]
    """Workspace path of their folder; known once they are uploaded."""
