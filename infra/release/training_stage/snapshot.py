"""Raw rows in the lake: local files uploaded under `raw/<dataset>/<snapshot>/`, the snapshot named by its content.

Does not delete: the lineage of a model refers to its snapshot. Stacks whose rows arrive in another way set
`training:snapshot` and have no such resource.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource

from infra.cloud.clients import AzureClients, has_lake
from infra.cloud.retry import retry_until_authorized
from infra.dynamic.provider import ReleaseProvider, gone


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


class _SnapshotProvider(ReleaseProvider):
    identity = ("blob_endpoint", "lake_uid", "container", "dataset", "snapshot")
    optional = ("lake_id", "data")

    def create(self, props: dict[str, Any]) -> CreateResult:
        from azure.core.exceptions import HttpResponseError

        folder = f"{props['dataset']}/{props['snapshot']}"
        container = AzureClients.discover().blobs(props["blob_endpoint"]).get_container_client(props["container"])

        def upload(path: Path) -> None:
            with path.open("rb") as content:
                container.upload_blob(f"{folder}/{path.name}", content, overwrite=True, max_concurrency=4)

        for path in files_of(props["data"]):
            retry_until_authorized(partial(upload, path), (HttpResponseError,), what=f"upload of {path.name}")
        names = [path.name for path in files_of(props["data"])]
        return CreateResult(f"{props['container']}/{folder}", {**props, "files": names})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from azure.core.exceptions import ResourceNotFoundError

        if not has_lake(props):
            return gone()
        container = AzureClients.discover().blobs(props["blob_endpoint"]).get_container_client(props["container"])
        folder = f"{props['dataset']}/{props['snapshot']}/"
        try:
            stored = {blob.name.removeprefix(folder) for blob in container.list_blobs(name_starts_with=folder)}
        except ResourceNotFoundError:
            return gone()
        return ReadResult(id_, props) if stored and stored >= set(props.get("files") or ()) else gone()


class Snapshot(Resource, module="lake", name="Snapshot"):
    snapshot: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        blob_endpoint: pulumi.Input[str],
        lake_id: pulumi.Input[str],
        lake_uid: pulumi.Input[str],
        container: pulumi.Input[str],
        dataset: str,
        data: str,
        snapshot: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`data`: local file or folder of the rows; `snapshot`: `snapshot_name(data)`, which reads all of them."""
        props = {
            "blob_endpoint": blob_endpoint,
            "lake_id": lake_id,
            "lake_uid": lake_uid,
            "container": container,
            "dataset": dataset,
            "data": data,
            "snapshot": snapshot,
        }
        super().__init__(_SnapshotProvider(), name, props, opts)
