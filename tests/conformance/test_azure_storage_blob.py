"""The unmodified azure-storage-blob with faults: roles without effect yet, a busy server, broken connections, races.

`tests/sandbox/test_blob.py` tests it without faults, and compares with azurite.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ServiceResponseError
from azure.storage.blob import BlobServiceClient, ContainerClient, LinearRetry

from infra.cloud.retry import retry_until_authorized
from sandbox.identity import authority
from testing.sandbox.data import Served, served_lake


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_lake(tmp_path_factory.mktemp("sandbox"), "raw") as running:
        yield running


def container(cloud: Served, account: str = "lake", **options: Any) -> ContainerClient:
    bundle = str(authority.ca_bundle(cloud.sandbox.folder))
    again = options.pop("retry_policy", LinearRetry(backoff=0, random_jitter_range=0, retry_total=2))
    address = f"{cloud.sandbox.url}/blob/{account}"
    service = BlobServiceClient(
        address, credential=cloud.credential, connection_verify=bundle, retry_policy=again, **options
    )
    return service.get_container_client("raw")


def test_new_role_takes_effect_after_its_propagation(cloud: Served) -> None:
    lake = container(cloud)
    lake.upload_blob("x", b"1")
    with cloud.settings(role_propagation=7200), pytest.raises(HttpResponseError) as denied:
        lake.upload_blob("x", b"1", overwrite=True)
    assert (denied.value.status_code, denied.value.error_code) == (403, "AuthorizationPermissionMismatch")
    lake.upload_blob("x", b"1", overwrite=True)


def test_program_waits_for_a_role_to_spread(cloud: Served) -> None:
    account, lake = cloud.account("fresh", "raw"), container(cloud, "fresh")
    cloud.assign(account, cloud.sandbox.identity.object_id, seconds_ago=0)
    retry_until_authorized(lambda: lake.upload_blob("x", b"1"), (HttpResponseError,), what="upload")
    assert lake.get_blob_client("x").exists()


def test_request_to_a_busy_server_is_repeated(cloud: Served) -> None:
    busy = {"status": 503, "body": {"error": {"code": "ServerBusy", "message": "Egress is over the account limit."}}}
    cloud.faults({"path": "/raw/busy$", "method": "PUT", "times": 2, **busy})
    container(cloud).upload_blob("busy", b"1")
    cloud.faults({"path": "/raw/busy$", "method": "GET", "times": 3, **busy})
    with pytest.raises(HttpResponseError) as given_up:
        container(cloud).download_blob("busy")
    assert given_up.value.error_code == "ServerBusy"


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_upload_in_blocks_survives_broken_connections(cloud: Served, how: str) -> None:
    content, lake = os.urandom(1 << 18), container(cloud, max_single_put_size=1 << 16, max_block_size=1 << 16)
    cloud.faults({"path": f"/raw/{how}$", "method": "PUT", "times": 2, how: True})
    lake.upload_blob(how, content)
    assert cloud.faults_left() == []
    assert lake.download_blob(how).readall() == content


def test_upload_without_overwrite_fails_after_its_own_lost_success(cloud: Served) -> None:
    cloud.faults({"path": "/raw/own$", "method": "PUT", "lost": True})
    with pytest.raises(ResourceExistsError):
        container(cloud).upload_blob("own", b"1")
    assert container(cloud).download_blob("own").readall() == b"1"


def test_client_without_retries_shows_a_broken_connection(cloud: Served) -> None:
    cloud.faults({"path": "/raw/once$", "method": "PUT", "reset": True})
    with pytest.raises(ServiceResponseError):
        container(cloud, retry_policy=LinearRetry(retry_total=0)).upload_blob("once", b"1")
    assert not container(cloud).get_blob_client("once").exists()


def test_second_conditional_write_of_a_blob_is_refused(cloud: Served) -> None:
    one = container(cloud).upload_blob("pointer", b"old")
    seen = one.get_blob_properties().etag
    unless_changed = {"overwrite": True, "etag": seen, "match_condition": MatchConditions.IfNotModified}
    one.upload_blob(b"first", **unless_changed)
    with pytest.raises(ResourceModifiedError) as late:
        one.upload_blob(b"second", **unless_changed)
    assert late.value.error_code == "ConditionNotMet"
    assert one.download_blob().readall() == b"first"
