"""The training workload in the workspace: the wheel of `workloads/`, in a folder named by the digest of its sources.

Does not run it: `job.py` defines the job, `training_run.py` runs it. Does not contain the notebooks: a change of
one causes no training: `notebooks.py` uploads them.
"""

import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from infra.dynamic.inputs import InputField, Outputs, not_compared, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider, make_folder
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_SOURCES = Path(__file__).parents[3] / "workloads"
NOTEBOOKS = _SOURCES / "notebooks"
_SUFFIXES = {".py", ".yaml", ".toml", ".sql", ".html", ".ipynb"}


def sources_digest(folder: Path = _SOURCES, suffixes: frozenset[str] | set[str] | None = _SUFFIXES) -> str:
    """sha-256 of the files' relative names and bytes, without caches and hidden files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
        notebook = folder != NOTEBOOKS and NOTEBOOKS in path.parents
        if path.is_file() and not hidden and not notebook and (suffixes is None or path.suffix in suffixes):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build_wheel(folder: Path) -> Path:
    """Build the workload's wheel into `folder`; the same sources give the same bytes."""
    from hatchling.builders.wheel import WheelBuilder

    return Path(next(WheelBuilder(str(_SOURCES)).build(directory=str(folder), versions=["standard"])))


def delete_folder(inputs: WorkspaceInputs, folder: str) -> None:
    """Delete a folder of the resource's workspace with its content, if it exists."""
    from databricks.sdk.errors import NotFound

    with contextlib.suppress(NotFound):
        databricks_of(inputs).workspace.delete(folder, recursive=True)


def _written(client: "WorkspaceClient", path: str) -> str:
    """Time of the file's last write in milliseconds, as text, because the engine keeps numbers as floats."""
    return str(client.workspace.get_status(path.removeprefix("/Workspace")).modified_at)


class WorkloadInputs(WorkspaceInputs):
    workspace_url: InputField[str] = not_compared()
    folder: InputField[str] = replaces()
    """Write access to it is the right to run code with the rights of the job and of the clusters."""
    digest: InputField[str] = replaces()
    team: InputField[str | None] = updates()


class WorkloadOutputs(Outputs):
    path: str
    written: str | None
    """None in the state of an earlier version."""


class _WorkloadProvider(WorkspaceProvider[WorkloadInputs, WorkloadOutputs]):
    object_name = ("folder", "digest")

    def create_object(self, inputs: WorkloadInputs) -> Creation[WorkloadOutputs]:
        from databricks.sdk.service.workspace import ImportFormat

        client = databricks_of(inputs)
        folder = _folder(inputs)
        with tempfile.TemporaryDirectory() as temporary:
            wheel = build_wheel(Path(temporary))
            self._make_folder(inputs)
            client.workspace.upload(
                f"{folder}/{wheel.name}", wheel.read_bytes(), format=ImportFormat.AUTO, overwrite=True
            )
        path = f"/Workspace{folder}/{wheel.name}"
        return Creation(path, WorkloadOutputs(path=path, written=_written(client, path)))

    def read_object(self, state: ResourceState[WorkloadInputs, WorkloadOutputs]) -> WorkloadInputs | None:
        from databricks.sdk.errors import NotFound

        try:
            written = _written(databricks_of(state.inputs), state.outputs.path)
        except NotFound:
            return None
        # Another file with this name is not the wheel that the digest of the training runs names.
        return state.inputs if state.outputs.written in (None, written) else None

    def update_object(
        self, state: ResourceState[WorkloadInputs, WorkloadOutputs], inputs: WorkloadInputs
    ) -> WorkloadOutputs:
        self._make_folder(inputs)
        return state.outputs

    def delete_object(self, state: ResourceState[WorkloadInputs, WorkloadOutputs]) -> None:
        delete_folder(state.inputs, _folder(state.inputs))

    @staticmethod
    def _make_folder(inputs: WorkloadInputs) -> None:
        """The team reads the wheel: on dedicated compute a library is installed with "the identity of the assigned
        principal" (Databricks, "Compute compatibility with libraries and init scripts")."""
        make_folder(databricks_of(inputs), _folder(inputs), "CAN_READ", inputs.team)


def _folder(inputs: WorkloadInputs) -> str:
    return f"{inputs.folder}/{inputs.digest[:16]}"


class Workload(DynamicResource[WorkloadInputs], module="databricks", name="Workload", provider=_WorkloadProvider):
    path: pulumi.Output[str]
    """Workspace path of the wheel, as a cluster library names it."""
