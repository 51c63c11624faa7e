"""The provider against a running sandbox: create, read, update and delete, also with faults."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import jwt
import pytest
from pulumi.runtime.proto import provider_pb2 as proto
from pulumi.runtime.proto import status_pb2

from testing.arm.azure_native import Provider, serving
from testing.sandbox.process import RunningSandbox, running_sandbox
from testing.waiting import eventually

GROUP = "resources:ResourceGroup"
ACCOUNT = "storage:StorageAccount"
CLUSTER = "containerservice:ManagedCluster"
IDENTITY = "managedidentity:UserAssignedIdentity"
BLOBS = "storage:BlobServiceProperties"
POOL = "containerservice:AgentPool"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud") / "sandbox") as running:
        yield running


@pytest.fixture
def provider(cloud: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    with serving() as served:
        served.configure(location="westeurope")
        yield served
    cloud.faults()
    cloud.arm("DELETE", "resourceGroups/g")


@pytest.fixture
def group(provider: Provider) -> str:
    return provider.create(GROUP, provider.checked(GROUP, {"resourceGroupName": "g"}))[0]


def an_account(provider: Provider, **more: Any) -> dict[str, Any]:
    account = {"resourceGroupName": "g", "accountName": "lake", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
    return provider.checked(ACCOUNT, {**account, **more})


def a_cluster(provider: Provider, **more: Any) -> dict[str, Any]:
    pool = {"name": "system", "mode": "System", "count": 2, "vmSize": "Standard_D4s_v5"}
    cluster = {"resourceGroupName": "g", "resourceName": "cluster", "agentPoolProfiles": [pool], **more}
    return provider.checked(CLUSTER, cluster)


def test_created_resource_has_the_outputs_that_the_sdk_expects(
    provider: Provider, group: str, cloud: RunningSandbox
) -> None:
    identity, outputs = provider.create(ACCOUNT, an_account(provider, isHnsEnabled=True))
    assert identity == f"{group}/providers/Microsoft.Storage/storageAccounts/lake"
    assert outputs["primaryEndpoints"]["dfs"] == f"{cloud.url}/blob/lake/"
    assert (outputs["name"], outputs["isHnsEnabled"], outputs["azureApiVersion"]) == ("lake", True, "2024-01-01")
    assert "id" not in outputs
    assert "properties" not in outputs


def test_create_refuses_an_existing_resource(provider: Provider, group: str) -> None:
    account = an_account(provider)
    provider.create(ACCOUNT, account)
    with pytest.raises(grpc.RpcError, match=r"cannot create already existing resource '/subscriptions/.*/lake'"):
        provider.create(ACCOUNT, account)


def test_location_of_the_resource_group_is_the_default(provider: Provider, group: str) -> None:
    provider.configure()
    assert an_account(provider)["location"] == "westeurope"


def test_update_changes_the_resource_in_place(provider: Provider, group: str) -> None:
    account = an_account(provider, tags={"owner": "a"})
    identity, outputs = provider.create(ACCOUNT, account)
    changed = provider.update(ACCOUNT, identity, outputs, {**account, "tags": {"owner": "b"}})
    assert changed["tags"] == {"owner": "b"}
    assert changed["systemData"]["createdAt"] == outputs["systemData"]["createdAt"]


def test_refresh_without_drift_leaves_inputs_as_the_program_wrote_them(provider: Provider, group: str) -> None:
    identity = provider.checked(
        "managedidentity:UserAssignedIdentity", {"resourceGroupName": "g", "resourceName": "who"}
    )
    mine = provider.create("managedidentity:UserAssignedIdentity", identity)[0]
    inputs = a_cluster(
        provider,
        identity={"type": "UserAssigned", "userAssignedIdentities": [mine]},
        oidcIssuerProfile={"enabled": True},
        autoScalerProfile={"scaleDownUnneededTime": "5m"},
    )
    address, outputs = provider.create(CLUSTER, inputs)
    assert list(outputs["identity"]["userAssignedIdentities"]) == [mine]
    assert outputs["oidcIssuerProfile"]["issuerURL"].startswith("https://")
    assert provider.read(CLUSTER, address, outputs, inputs)[2] == inputs
    imported = provider.read(CLUSTER, address, {}, {})[2]
    assert {**inputs, **imported} == imported
    assert "identityProfile" not in imported


def test_refresh_adds_only_drift_to_the_inputs(provider: Provider, group: str, cloud: RunningSandbox) -> None:
    account = an_account(
        provider, networkRuleSet={"defaultAction": "Deny", "ipRules": [{"iPAddressOrRange": "1.2.3.4"}]}
    )
    address, outputs = provider.create(ACCOUNT, account)
    body = cloud.arm("GET", address).json()
    assert body["properties"]["networkAcls"]["ipRules"] == [{"value": "1.2.3.4"}]
    body["properties"]["networkAcls"]["ipRules"] = [{"value": "5.6.7.8"}]
    body["tags"] = {"by": "hand"}
    cloud.settle(cloud.arm("PUT", address, body))
    _, refreshed, inputs = provider.read(ACCOUNT, address, outputs, account)
    assert refreshed["networkRuleSet"]["ipRules"] == [{"iPAddressOrRange": "5.6.7.8"}]
    assert inputs == {
        **account,
        "tags": {"by": "hand"},
        "networkRuleSet": {"defaultAction": "Deny", "ipRules": [{"iPAddressOrRange": "5.6.7.8"}]},
    }


def test_deleted_resource_reads_as_absent_and_deletes_without_error(provider: Provider, group: str) -> None:
    address, outputs = provider.create(ACCOUNT, an_account(provider))
    provider.delete(ACCOUNT, address)
    provider.delete(ACCOUNT, address)
    assert provider.read(ACCOUNT, address, outputs, {}) == ("", {}, {})


def test_singleton_is_adopted_and_reset_never_created_or_deleted(
    provider: Provider, group: str, cloud: RunningSandbox
) -> None:
    provider.create(ACCOUNT, an_account(provider))
    container = {"resourceGroupName": "g", "accountName": "lake", "containerName": "raw"}
    provider.create("storage:BlobContainer", provider.checked("storage:BlobContainer", container))
    retention = {"deleteRetentionPolicy": {"enabled": True, "days": 7}}
    place = {"resourceGroupName": "g", "accountName": "lake", "blobServicesName": "default"}
    blobs = provider.checked(BLOBS, {**place, **retention})
    address, outputs = provider.create(BLOBS, blobs)
    assert outputs["deleteRetentionPolicy"] == {"enabled": True, "days": 7}
    provider.delete(BLOBS, address)
    assert "deleteRetentionPolicy" not in cloud.arm("GET", address).json()["properties"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, "Busy") for status in (408, 429, 500, 502, 503, 504)),
        *((409, code) for code in ("AnotherOperationInProgress", "StorageAccountOperationInProgress")),
    ],
)
def test_requests_are_repeated_three_times_for_the_errors_of_the_genuine_provider(
    provider: Provider, group: str, cloud: RunningSandbox, status: int, code: str
) -> None:
    busy = {"method": "PUT", "path": "storageAccounts/lake$", "status": status, "headers": {"retry-after-ms": "10"}}
    cloud.faults({**busy, "body": {"error": {"code": code, "message": "busy"}}, "times": 4})
    with pytest.raises(grpc.RpcError) as refused:
        provider.create(ACCOUNT, an_account(provider))
    assert f'Status={status} Code="{code}"' in refused.value.details()  # type: ignore[attr-defined]
    cloud.faults({**busy, "body": {"error": {"code": code, "message": "busy"}}, "times": 3})
    assert provider.create(ACCOUNT, an_account(provider))[1]["provisioningState"] == "Succeeded"


def test_operation_not_allowed_is_not_repeated(provider: Provider, group: str, cloud: RunningSandbox) -> None:
    cloud.faults({"method": "PUT", "path": "managedClusters/cluster$", "operation_delay": 1})
    made: list[Any] = []
    creation = threading.Thread(target=lambda: made.append(provider.create(CLUSTER, a_cluster(provider))))
    creation.start()
    cluster = f"{group}/providers/Microsoft.ContainerService/managedClusters/cluster"
    eventually(lambda: cloud.arm("GET", cluster).is_success)
    pool = {"resourceGroupName": "g", "resourceName": "cluster", "agentPoolName": "user", "vmSize": "Standard_D4s_v5"}
    with pytest.raises(grpc.RpcError) as refused:
        provider.create(POOL, provider.checked(POOL, pool))
    assert refused.value.details() == (  # type: ignore[attr-defined]
        'Status=409 Code="OperationNotAllowed" Message="Operation is not allowed: Another operation (Creating) is in '
        "progress, please wait for it to finish before starting a new operation. See "
        'https://aka.ms/aks-pending-operation for more details"'
    )
    creation.join()
    assert made


def test_refusal_is_shown_with_status_code_and_message(provider: Provider, cloud: RunningSandbox) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        provider.create(ACCOUNT, an_account(provider))
    assert refused.value.details().startswith('Status=404 Code="ResourceGroupNotFound" Message="')  # type: ignore[attr-defined]


def test_failed_operation_keeps_the_incomplete_resource(provider: Provider, group: str, cloud: RunningSandbox) -> None:
    failure = {"code": "QuotaExceeded", "message": "no cores left"}
    cloud.faults({"method": "PUT", "path": "managedClusters/cluster$", "operation_failure": failure})
    cluster = a_cluster(provider)
    with pytest.raises(grpc.RpcError) as failed:
        provider.create(CLUSTER, cluster)
    assert 'Code="QuotaExceeded" Message="no cores left"' in failed.value.details()  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(dict(failed.value.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[attr-defined]
    half_made = proto.ErrorResourceInitFailed()
    status.details[0].Unpack(half_made)
    assert half_made.properties["provisioningState"] == "Failed"
    assert provider.update(CLUSTER, half_made.id, {}, cluster)["provisioningState"] == "Succeeded"


def test_client_config_is_read_from_the_token(provider: Provider, cloud: RunningSandbox) -> None:
    found = provider.invoke("authorization:getClientConfig")
    environment = cloud.environment
    assert (found["clientId"], found["tenantId"], found["subscriptionId"]) == (
        environment["ARM_CLIENT_ID"],
        environment["ARM_TENANT_ID"],
        environment["ARM_SUBSCRIPTION_ID"],
    )
    assert found["objectId"] == jwt.decode(cloud.token(), options={"verify_signature": False})["oid"]
