"""Raw rows in the lake: local files uploaded under `raw/<dataset>/<snapshot>/`, the snapshot named by its content.

Does not delete: the lineage of a model refers to its snapshot. Stacks whose rows arrive in another way set
`training:snapshot` and have no such resource.
"""

import hashlib
from functools import partial
from pathlib import Path

import pulumi

from infra.cloud.clients import AzureClients, has_lake
from infra.cloud.retry import retry_until_authorized
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource


class SnapshotError(Exception):
    """The rows cannot be used; the message names the path and the remedy."""


def files_of(data: str) -> list[Path]:
    """Files of a snapshot: `data` itself, or all files in that folder without its sub-folders."""
    path = Path(data).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SnapshotError(
            f"training:local_data {data!r}: no such file or folder (looked at {path.absolute()}). "
            "Name a file such as train.txt, or a folder that holds the dataset's files."
        )
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise SnapshotError(f"training:local_data {data!r} is an empty folder. Put the dataset's files there.")
    return files


def snapshot_name(data: str) -> str:
    """Sixteen hex digits of sha-256 over names and bytes: the same rows are the same snapshot on any machine."""
    digest = hashlib.sha256()
    for path in files_of(data):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def landed(blob_endpoint: str, container: str, dataset: str, snapshot: str) -> bool:
    """Whether the lake has a file that is not empty below `<dataset>/<snapshot>/`.

    Raises `azure.core.exceptions.AzureError` if the lake does not answer or refuses the login.
    """
    rows = AzureClients.discover().blobs(blob_endpoint).get_container_client(container)
    return any(blob.size for blob in rows.list_blobs(name_starts_with=f"{dataset}/{snapshot}/"))


def require_landed(blob_endpoint: str, container: str, dataset: str, snapshot: str) -> None:
    """Raise `SnapshotError` if the snapshot has no rows in the lake, so that no machine is started for it."""
    from azure.core.exceptions import HttpResponseError

    check = partial(landed, blob_endpoint, container, dataset, snapshot)
    if not retry_until_authorized(check, (HttpResponseError,), what=f"list of {container}/{dataset}/{snapshot}"):
        raise SnapshotError(
            f"training:snapshot {snapshot}: {blob_endpoint}{container} has no rows below {dataset}/{snapshot}/. "
            "Upload the dataset's files there, or set training:snapshot to a folder that holds them."
        )


class SnapshotInputs(Inputs):
    blob_endpoint: InputField[str] = replaces()
    lake_id: InputField[str] = not_compared()
    lake_uid: InputField[str] = replaces()
    container: InputField[str] = replaces()
    dataset: InputField[str] = replaces()
    data: InputField[str] = not_compared()
    """Local file or folder of the rows."""
    snapshot: InputField[str] = replaces()
    """`snapshot_name(data)`, which reads all of them."""


class SnapshotOutputs(Outputs):
    files: list[str] | None
    """None in the state of an earlier version."""


class _SnapshotProvider(ReleaseProvider[SnapshotInputs, SnapshotOutputs]):
    def create_object(self, inputs: SnapshotInputs) -> Creation[SnapshotOutputs]:
        from azure.core.exceptions import HttpResponseError

        folder = f"{inputs.dataset}/{inputs.snapshot}"
        container = AzureClients.discover().blobs(inputs.blob_endpoint).get_container_client(inputs.container)

        def upload(path: Path) -> None:
            with path.open("rb") as content:
                container.upload_blob(f"{folder}/{path.name}", content, overwrite=True, max_concurrency=4)

        for path in files_of(inputs.data):
            retry_until_authorized(partial(upload, path), (HttpResponseError,), what=f"upload of {path.name}")
        names = [path.name for path in files_of(inputs.data)]
        return Creation(f"{inputs.container}/{folder}", SnapshotOutputs(files=names))

    def read_object(self, state: ResourceState[SnapshotInputs, SnapshotOutputs]) -> SnapshotInputs | None:
        from azure.core.exceptions import ResourceNotFoundError

        inputs = state.inputs
        if not has_lake(inputs.lake_id, inputs.lake_uid):
            return None
        container = AzureClients.discover().blobs(inputs.blob_endpoint).get_container_client(inputs.container)
        folder = f"{inputs.dataset}/{inputs.snapshot}/"
        try:
            stored = {blob.name.removeprefix(folder) for blob in container.list_blobs(name_starts_with=folder)}
        except ResourceNotFoundError:
            return None
        return inputs if stored and stored >= set(state.outputs.files or ()) else None


class Snapshot(DynamicResource[SnapshotInputs], module="lake", name="Snapshot", provider=_SnapshotProvider):
    snapshot: pulumi.Output[str]
