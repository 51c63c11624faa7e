"""Azure's unmodified management SDKs with faults: busy parents, throttling, failed operations, taken names.

`tests/sandbox/arm/test_service.py` tests the same requests without faults.
"""

import time
from collections.abc import Iterator

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient

from testing.sandbox.data import Served, served
from testing.sandbox.management import ACCOUNT, CLUSTER, HOME, POOL, client


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("sandbox")) as running:
        client(ResourceManagementClient, running).resource_groups.create_or_update("rg", HOME)
        yield running


def test_resource_client_waits_for_retry_after(cloud: Served) -> None:
    groups = client(ResourceManagementClient, cloud).resource_groups
    cloud.faults({"path": "/resourcegroups/rg$", "status": 429, "headers": {"Retry-After": "1"}})
    began = time.monotonic()
    assert groups.get("rg").name == "rg"
    assert time.monotonic() - began >= 1


def test_resource_client_creates_one_group_after_a_lost_answer(cloud: Served) -> None:
    groups = client(ResourceManagementClient, cloud).resource_groups
    cloud.faults({"method": "PUT", "path": "/resourcegroups/twice$", "lost": True})
    assert groups.create_or_update("twice", HOME).properties.provisioning_state == "Succeeded"
    assert [group.name for group in groups.list()].count("twice") == 1


def test_resource_client_finds_a_group_busy_during_its_deletion(cloud: Served) -> None:
    resources = client(ResourceManagementClient, cloud)
    resources.resource_groups.create_or_update("ending", HOME)
    cloud.faults({"method": "DELETE", "path": "/resourcegroups/ending$", "operation_delay": 0.5})
    deletion = resources.resource_groups.begin_delete("ending")
    assert resources.resource_groups.get("ending").properties.provisioning_state == "Deleting"
    accounts = client(StorageManagementClient, cloud).storage_accounts
    with pytest.raises(ResourceExistsError, match="Another operation is in progress"):
        accounts.begin_create("ending", "late", ACCOUNT)
    deletion.result()
    with pytest.raises(HttpResponseError, match="could not be found"):
        accounts.begin_create("ending", "late", ACCOUNT)


def test_storage_refuses_the_name_of_a_container_during_its_deletion(cloud: Served) -> None:
    storage = client(StorageManagementClient, cloud)
    storage.storage_accounts.begin_create("rg", "lake", ACCOUNT).result()
    storage.blob_containers.create("rg", "lake", "raw", {})
    with cloud.settings(container_deletion=0.5):
        storage.blob_containers.delete("rg", "lake", "raw")
        with pytest.raises(ResourceExistsError) as held:
            storage.blob_containers.create("rg", "lake", "raw", {})
        assert held.value.error.code == "ContainerBeingDeleted"
        storage.blob_containers.create("rg", "lake", "other", {})
        time.sleep(0.5)
    storage.blob_containers.create("rg", "lake", "raw", {})


def test_storage_shows_a_containers_etag_and_another_after_each_change(cloud: Served) -> None:
    storage = client(StorageManagementClient, cloud)
    storage.storage_accounts.begin_create("rg", "tagged", ACCOUNT).result()
    made = storage.blob_containers.create("rg", "tagged", "raw", {}).etag
    assert made
    assert storage.blob_containers.get("rg", "tagged", "raw").etag == made
    changed = storage.blob_containers.update("rg", "tagged", "raw", {"properties": {"metadata": {"a": "b"}}})
    assert changed.etag != made


def test_containerservice_refuses_a_pool_during_the_creation_of_the_cluster(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    cloud.faults({"method": "PUT", "path": "managedClusters/slow$", "operation_delay": 0.5})
    creation = aks.managed_clusters.begin_create_or_update("rg", "slow", CLUSTER)
    assert aks.managed_clusters.get("rg", "slow").provisioning_state == "Creating"
    pool = {"properties": {"count": 1, "vmSize": "Standard_D4s_v5"}}
    with pytest.raises(ResourceExistsError) as busy:
        aks.agent_pools.begin_create_or_update("rg", "slow", "user", pool)
    assert busy.value.error.code == "OperationNotAllowed"
    assert creation.result().provisioning_state == "Succeeded"
    assert aks.agent_pools.begin_create_or_update("rg", "slow", "user", pool).result().name == "user"


def test_containerservice_reports_the_reason_of_a_failed_operation(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    failure = {"code": "ErrCode_InsufficientVCPUQuota", "message": "Insufficient regional vcpu quota left: 4 of 8."}
    cloud.faults({"method": "PUT", "path": "managedClusters/broken$", "operation_failure": failure})
    with pytest.raises(HttpResponseError, match="quota left: 4 of 8") as failed:
        aks.managed_clusters.begin_create_or_update("rg", "broken", CLUSTER).result()
    assert failed.value.error.code == failure["code"]
    assert aks.managed_clusters.get("rg", "broken").provisioning_state == "Failed"
    assert aks.managed_clusters.begin_create_or_update("rg", "broken", CLUSTER).result().name == "broken"


def test_containerservice_polls_through_throttling_and_broken_connections(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    cloud.faults(
        {"method": "PUT", "path": "managedClusters/polled$", "operation_delay": 0.2},
        {"path": "Microsoft.Resources/operations/", "reset": True},
        {"path": "Microsoft.Resources/operations/", "status": 429, "headers": {"retry-after-ms": "10"}},
    )
    assert aks.managed_clusters.begin_create_or_update("rg", "polled", CLUSTER).result().name == "polled"
    assert cloud.faults_left() == []


def test_containerservice_refuses_a_stale_etag(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud).managed_clusters
    seen = aks.begin_create_or_update("rg", "shared", CLUSTER).result().e_tag
    assert seen
    unless_changed = {"etag": seen, "match_condition": MatchConditions.IfNotModified}
    aks.begin_create_or_update("rg", "shared", {**CLUSTER, "tags": {"by": "one"}}, **unless_changed).result()
    with pytest.raises(ResourceModifiedError):
        aks.begin_create_or_update("rg", "shared", {**CLUSTER, "tags": {"by": "two"}}, **unless_changed)
    with pytest.raises(HttpResponseError):
        aks.begin_create_or_update("rg", "shared", CLUSTER, etag="*", match_condition=MatchConditions.IfMissing)
    assert aks.get("rg", "shared").tags == {"by": "one"}


def test_machinelearningservices_refuses_the_name_of_a_soft_deleted_workspace(cloud: Served) -> None:
    workspaces = client(MachineLearningServicesMgmtClient, cloud).workspaces
    vault = cloud.put("Microsoft.KeyVault/vaults/kv-of-mlw", location="westeurope", properties={})
    linked = {**HOME, "properties": {"keyVault": vault}}
    assert workspaces.begin_create_or_update("rg", "mlw", linked).result().provisioning_state == "Succeeded"
    workspaces.begin_delete("rg", "mlw").result()
    assert list(workspaces.list_by_resource_group("rg")) == []
    with pytest.raises(HttpResponseError, match="Soft-deleted") as refused:
        workspaces.begin_create_or_update("rg", "mlw", HOME)
    assert refused.value.status_code == 400


def test_containerservice_finds_the_same_pools_as_children_and_in_the_cluster(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    aks.managed_clusters.begin_create_or_update("rg", "pools", CLUSTER).result()
    assert aks.agent_pools.get("rg", "pools", "system").vm_size == POOL["vmSize"]
    user = {"properties": {"count": 1, "mode": "User", "vmSize": "Standard_D4s_v5"}}
    aks.agent_pools.begin_create_or_update("rg", "pools", "scoring", user).result()
    aks.agent_pools.begin_create_or_update("rg", "pools", "system", {"properties": {**POOL, "count": 3}}).result()
    listed = {pool.name: pool.count for pool in aks.managed_clusters.get("rg", "pools").agent_pool_profiles}
    assert listed == {"system": 3, "scoring": 1}
    assert {pool.name: pool.count for pool in aks.agent_pools.list("rg", "pools")} == listed
    aks.agent_pools.begin_delete("rg", "pools", "scoring").result()
    assert [pool.name for pool in aks.managed_clusters.get("rg", "pools").agent_pool_profiles] == ["system"]


def test_containerservice_changes_the_pools_that_an_update_names_and_keeps_the_others(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    aks.managed_clusters.begin_create_or_update("rg", "kept", CLUSTER).result()
    user = {"properties": {"count": 1, "mode": "User", "vmSize": "Standard_D4s_v5"}}
    aks.agent_pools.begin_create_or_update("rg", "kept", "scoring", user).result()
    for profiles in ([{**POOL, "count": 4}], []):
        properties = {**CLUSTER["properties"], "agentPoolProfiles": profiles}
        aks.managed_clusters.begin_create_or_update("rg", "kept", {**CLUSTER, "properties": properties}).result()
        assert {pool.name: pool.count for pool in aks.agent_pools.list("rg", "kept")} == {"system": 4, "scoring": 1}


@pytest.mark.parametrize(
    ("profile", "code"),
    [({"name": "second"}, "BadRequest"), ({"vmSize": "Standard_D8s_v5"}, "PropertyChangeNotAllowed")],
)
def test_containerservice_may_not_add_or_resize_a_pool_through_its_cluster(
    cloud: Served, profile: dict[str, str], code: str
) -> None:
    clusters = client(ContainerServiceClient, cloud).managed_clusters
    clusters.begin_create_or_update("rg", "fixed", CLUSTER).result()
    properties = {**CLUSTER["properties"], "agentPoolProfiles": [{**POOL, **profile}]}
    with pytest.raises(HttpResponseError) as refused:
        clusters.begin_create_or_update("rg", "fixed", {**CLUSTER, "properties": properties})
    assert refused.value.error.code == code


def test_containerservice_keeps_the_last_system_pool_until_the_cluster_goes(cloud: Served) -> None:
    aks = client(ContainerServiceClient, cloud)
    aks.managed_clusters.begin_create_or_update("rg", "last", CLUSTER).result()
    user = {"properties": {"count": 1, "mode": "User", "vmSize": "Standard_D4s_v5"}}
    for pools, says in ([], "at least one agent pool"), (["scoring"], "at least one system agent pool"):
        for pool in pools:
            aks.agent_pools.begin_create_or_update("rg", "last", pool, user).result()
        with pytest.raises(HttpResponseError, match=says):
            aks.agent_pools.begin_delete("rg", "last", "system")
    aks.managed_clusters.begin_delete("rg", "last").result()
