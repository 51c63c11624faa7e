"""The training workload in the workspace: the wheel of `workloads/`, in a folder named by the digest of its sources.

Does not run it: `job.py` defines the job, `training_run.py` runs it. Does not contain the notebooks: a change of
one causes no training: `notebooks.py` uploads them.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import databricks_of
from infra.dynamic.ownership import WorkspaceProvider, make_folder
from infra.dynamic.provider import gone

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


def delete_folder(props: Mapping[str, Any], folder: str) -> None:
    """Delete a folder of the resource's workspace with its content, if it exists."""
    from databricks.sdk.errors import NotFound

    with contextlib.suppress(NotFound):
        databricks_of(props).workspace.delete(folder, recursive=True)


def _written(client: Any, path: str) -> str:
    """Time of the file's last write in milliseconds, as text, because the engine keeps numbers as floats."""
    return str(client.workspace.get_status(path.removeprefix("/Workspace")).modified_at)


class _WorkloadProvider(WorkspaceProvider):
    object_name = ("folder", "digest")
    identity = ("workspace_id", "workspace_uid", "folder", "digest")
    inputs = ("team",)
    optional = ("workspace_url",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        from databricks.sdk.service.workspace import ImportFormat

        client = databricks_of(props)
        folder = _folder(props)
        with tempfile.TemporaryDirectory() as temporary:
            wheel = build_wheel(Path(temporary))
            self._make_folder(props)
            client.workspace.upload(
                f"{folder}/{wheel.name}", wheel.read_bytes(), format=ImportFormat.AUTO, overwrite=True
            )
        path = f"/Workspace{folder}/{wheel.name}"
        return CreateResult(path, {**props, "path": path, "written": _written(client, path)})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import NotFound

        try:
            written = _written(databricks_of(props), props["path"])
        except NotFound:
            return gone()
        # Another file with this name is not the wheel that the digest of the training runs names.
        return ReadResult(id_, props) if props.get("written") in (None, written) else gone()

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        self._make_folder(news)
        return UpdateResult({**olds, **news})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        delete_folder(props, _folder(props))

    @staticmethod
    def _make_folder(props: dict[str, Any]) -> None:
        """The team reads the wheel: on dedicated compute a library is installed with "the identity of the assigned
        principal" (Databricks, "Compute compatibility with libraries and init scripts")."""
        make_folder(databricks_of(props), _folder(props), "CAN_READ", props["team"])


def _folder(props: Mapping[str, Any]) -> str:
    return f"{props['folder']}/{props['digest'][:16]}"


class Workload(Resource, module="databricks", name="Workload"):
    path: pulumi.Output[str]
    """Workspace path of the wheel, as a cluster library names it."""

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        folder: str,
        digest: str,
        team: str | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`folder`: write access to it is the right to run code with the rights of the job and of the clusters."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "folder": folder,
            "digest": digest,
            "team": team,
        }
        super().__init__(_WorkloadProvider(), name, {**props, "path": None}, opts)
