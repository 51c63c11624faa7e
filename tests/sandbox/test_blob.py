"""The blob endpoint with the unmodified Azure SDK; and the same calls against azurite, if node is installed."""

import asyncio
import base64
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from azure.core import MatchConditions
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient

from sandbox import blob
from sandbox.identity import authority, entra
from testing.sandbox.data import Served, put_as_written, served


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("sandbox")) as running:
        account = running.account("lake")
        running.assign(account, running.sandbox.identity.object_id)
        yield running


def service(cloud: Served, account: str = "lake", **options: Any) -> BlobServiceClient:
    return BlobServiceClient(
        f"{cloud.sandbox.url}/blob/{account}",
        credential=options.pop("credential", cloud.credential),
        connection_verify=str(authority.ca_bundle(cloud.sandbox.folder)),
        retry_total=0,
        **options,
    )


@pytest.fixture
def raw(cloud: Served, request: pytest.FixtureRequest) -> ContainerClient:
    name = request.node.name.replace("_", "-")[:40].strip("-[]").lower()
    cloud.container("lake", name)
    return service(cloud).get_container_client(name)


def test_large_blob_in_parallel_blocks_comes_back_unchanged_in_parallel_ranges(cloud: Served) -> None:
    cloud.container("lake", "large")
    content = os.urandom(3 << 20) * 3 + b"end"
    client = service(cloud, max_single_put_size=1 << 20, max_block_size=1 << 20, max_single_get_size=1 << 20)
    one = client.get_blob_client("large", "a/b/big.bin")
    one.upload_blob(content, max_concurrency=4)
    assert (cloud.sandbox.container_folder("lake", "large") / "a/b/big.bin").read_bytes() == content
    assert one.download_blob(max_concurrency=4).readall() == content
    assert list((cloud.sandbox.folder / "accounts/lake/.aside/large/staging").rglob("*.*")) == []


def test_file_that_another_process_wrote_into_the_folder_is_a_blob(cloud: Served, raw: ContainerClient) -> None:
    folder = cloud.sandbox.container_folder("lake", raw.container_name)
    (folder / "day=1").mkdir()
    (folder / "day=1/part-0.parquet").write_bytes(b"PAR1")
    assert [found.name for found in raw.list_blobs()] == ["day=1/part-0.parquet"]
    properties = raw.get_blob_client("day=1/part-0.parquet").get_blob_properties()
    assert (properties.size, properties.content_settings.content_type) == (4, "application/octet-stream")


def test_metadata_belongs_to_one_version_of_a_blob(raw: ContainerClient) -> None:
    one = raw.upload_blob("x", b"one", metadata={"snapshot": "s1"})
    assert one.get_blob_properties().metadata == {"snapshot": "s1"}
    one.set_blob_metadata({"snapshot": "s2"})
    assert one.get_blob_properties().metadata == {"snapshot": "s2"}
    assert [found.metadata for found in raw.list_blobs(include=["metadata"])] == [{"snapshot": "s2"}]
    one.upload_blob(b"two", overwrite=True)
    assert one.get_blob_properties().metadata == {}


def test_listing_pages_by_marker_and_shows_each_name_once(raw: ContainerClient) -> None:
    names = [f"d{number % 3}/f{number}" for number in range(12)] + ["e0", "z"]
    for name in names:
        raw.upload_blob(name, b"")
    pages = [[found.name for found in page] for page in raw.list_blobs(results_per_page=5).by_page()]
    assert [len(page) for page in pages] == [5, 5, 4]
    assert [name for page in pages for name in page] == sorted(names)
    assert [found.name for found in raw.walk_blobs(results_per_page=1)] == ["d0/", "d1/", "d2/", "e0", "z"]
    assert [found.name for found in raw.list_blobs(name_starts_with="d1/f1")] == ["d1/f1", "d1/f10"]


def test_refused_upload_leaves_the_blob_and_no_file_behind(cloud: Served, raw: ContainerClient) -> None:
    one = raw.upload_blob("x", b"first")
    with pytest.raises(ResourceExistsError):
        one.upload_blob(b"second" * 500_000)
    with pytest.raises(HttpResponseError) as refused:
        one.upload_blob(b"s", overwrite=True, etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    assert refused.value.error_code == "ConditionNotMet"
    assert one.download_blob().readall() == b"first"
    staging = cloud.sandbox.folder / "accounts/lake/.aside" / raw.container_name / "staging"
    assert [found for found in staging.rglob("*") if found.is_file()] == []


@pytest.mark.parametrize("path", ["..%2F..%2Fsecret", "a/%2E%2E/%2E%2E/b", "a//b", "a/./b", "%00", "a/.."])
def test_no_name_reaches_outside_its_container(cloud: Served, path: str) -> None:
    cloud.container("lake", "walls")
    assert put_as_written(cloud, f"/blob/lake/walls/{path}", entra.STORAGE).startswith(b"HTTP/1.1 400")
    assert list(cloud.sandbox.container_folder("lake", "walls").iterdir()) == []


def test_account_or_container_missing_in_arm_is_not_found(cloud: Served) -> None:
    with pytest.raises(ResourceNotFoundError) as missing:
        service(cloud).get_container_client("nowhere").upload_blob("x", b"")
    assert missing.value.error_code == "ContainerNotFound"
    with pytest.raises(ResourceNotFoundError):
        service(cloud, "otheraccount").get_container_client("raw").upload_blob("x", b"")


def test_shared_keys_are_refused_with_the_reason(cloud: Served, raw: ContainerClient) -> None:
    key = base64.b64encode(b"key").decode()
    with pytest.raises(HttpResponseError) as refused:
        service(cloud, credential={"account_name": "lake", "account_key": key}).get_container_client("raw").exists()
    assert refused.value.error_code == "KeyBasedAuthenticationNotPermitted"


def test_token_for_another_audience_or_from_another_issuer_is_refused(cloud: Served, raw: ContainerClient) -> None:
    class Forged:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            expiry = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
            return AccessToken(jwt.encode({"aud": entra.STORAGE, "exp": expiry}, "secret" * 8), expiry)

    class ForAnother:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return cloud.credential.get_token(f"{entra.DATABRICKS}/.default")

    for credential in (Forged(), ForAnother()):
        with pytest.raises(HttpResponseError) as refused:
            service(cloud, credential=credential).get_container_client(raw.container_name).upload_blob("x", b"")
        assert (refused.value.status_code, refused.value.error_code) == (401, "InvalidAuthenticationInfo")


def test_blob_access_requires_a_data_role(cloud: Served) -> None:
    account = cloud.account("private", "raw")
    client = service(cloud, "private").get_container_client("raw")
    with pytest.raises(HttpResponseError, match="Storage Blob Data Contributor") as refused:
        client.upload_blob("x", b"")
    assert refused.value.error_code == "AuthorizationPermissionMismatch"
    reader = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
    cloud.assign(account, cloud.sandbox.identity.object_id, reader)
    assert list(client.list_blobs()) == []
    with pytest.raises(HttpResponseError):
        client.upload_blob("x", b"")


def test_deleting_a_container_in_arm_deletes_its_blobs(cloud: Served, raw: ContainerClient) -> None:
    raw.upload_blob("x", b"1")
    record = blob.container_id(f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake", raw.container_name)
    hook = blob.BlobService(cloud.sandbox).behaviours()[blob.CONTAINER].on_delete
    assert hook is not None
    asyncio.run(hook(cloud.sandbox, record, {}))
    assert not cloud.sandbox.container_folder("lake", raw.container_name).exists()


def conversation(client: BlobServiceClient) -> dict[str, Any]:
    """A client's results of the same calls on any store: names, sizes, ranges, statuses and error codes."""
    seen: dict[str, Any] = {}

    def refusal(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
            seen[name] = "done"
        except HttpResponseError as error:
            seen[name] = (error.status_code, error.error_code)

    container = client.get_container_client("nowhere")
    seen["absent container"] = container.exists()
    refusal("upload to no container", lambda: container.upload_blob("a", b""))
    container = client.get_container_client("oracle")
    seen["container"] = container.exists()
    content = bytes(range(256)) * 10
    names = ["a/one", "a/two", "a/deep/three", "b", "ü und +%.txt", "empty"]
    for name in names:
        one = container.upload_blob(name, b"" if name == "empty" else content, metadata={"k": "v"})
    seen["names"] = [(found.name, found.size) for found in container.list_blobs()]
    seen["walked"] = [found.name for found in container.walk_blobs()]
    seen["walked below"] = [found.name for found in container.walk_blobs(name_starts_with="a/")]
    seen["pages"] = [[found.name for found in page] for page in container.list_blobs(results_per_page=4).by_page()]
    one = container.get_blob_client("b")
    properties = one.get_blob_properties()
    seen["properties"] = (properties.size, properties.metadata, str(properties.blob_type))
    part = one.download_blob(offset=100, length=50)
    seen["range"] = (part.readall(), part.properties.content_range)
    seen["range past the end"] = one.download_blob(offset=2500, length=500).readall()
    refusal("range beyond the end", lambda: one.download_blob(offset=5000, length=5).readall())
    seen["empty"] = container.get_blob_client("empty").download_blob().readall()
    refusal("no overwrite", lambda: one.upload_blob(b"x"))
    refusal("absent blob", lambda: container.get_blob_client("nothing").download_blob())
    refusal("absent properties", lambda: container.get_blob_client("nothing").get_blob_properties())
    refusal("absent delete", lambda: container.get_blob_client("nothing").delete_blob())
    wrong = {"etag": '"0x0"', "match_condition": MatchConditions.IfNotModified}
    refusal("stale read", lambda: one.download_blob(**wrong))
    refusal("stale write", lambda: one.upload_blob(b"x", overwrite=True, **wrong))
    refusal("stale delete", lambda: one.delete_blob(**wrong))
    refusal("unmodified", lambda: one.download_blob(etag=properties.etag, match_condition=MatchConditions.IfModified))
    refusal("unknown block", lambda: container.get_blob_client("c").commit_block_list(["AAAA"]))
    one.stage_block("block-one", b"1" * 10)
    one.stage_block("block-two", b"2" * 10)
    seen["staged"] = one.get_blob_properties().size
    one.commit_block_list(["block-two", "block-one"])
    seen["committed"] = one.download_blob().readall()
    one.delete_blob()
    seen["deleted"] = one.exists()
    return seen


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory, cloud: Served) -> Iterator[BlobServiceClient]:
    """Microsoft's emulator over TLS, with the sandbox's certificate; installed once into the user's cache."""
    if not (node := shutil.which("node")) or not (npm := shutil.which("npm")):
        pytest.skip("node and npm are not installed, so azurite cannot be run")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personalization-azure" / "azurite-3.37.0"
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(home), "azurite@3.37.0"]
        if (installed := subprocess.run(command, capture_output=True, text=True, timeout=300)).returncode:
            pytest.skip(f"azurite could not be installed: {installed.stderr.strip()[-300:]}")
    certificate, key = authority.certificate_files(cloud.sandbox.folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--blobPort", str(port), "--cert", str(certificate), "--key", str(key), "--oauth", "basic"]
    flags += ["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry", "--silent"]
    where = tmp_path_factory.mktemp("azurite")
    with subprocess.Popen(
        [node, str(program), *flags], cwd=where, env=os.environ | {"AZURITE_ACCOUNTS": "lake:a2V5"}
    ) as run:
        try:
            bundle = str(authority.ca_bundle(cloud.sandbox.folder))
            address = f"https://127.0.0.1:{port}/lake"
            wait_until_open(port, run)
            client = BlobServiceClient(address, credential=_Entra(), connection_verify=bundle)
            client.create_container("oracle")
            yield client
        finally:
            run.terminate()


def wait_until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "azurite ended before it listened"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("azurite did not listen within a minute")


class _Entra:
    """A token that azurite accepts: it checks issuer, audience and times, but not the signature."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        now = int(time.time())
        claims = {"aud": entra.STORAGE, "iss": "https://sts.windows.net/t/", "iat": now, "nbf": now, "exp": now + 3600}
        return AccessToken(jwt.encode(claims, "secret" * 8), now + 3600)


def test_sandbox_answers_as_azurite_does(cloud: Served, azurite: BlobServiceClient) -> None:
    cloud.container("lake", "oracle")
    assert conversation(service(cloud)) == conversation(azurite)
