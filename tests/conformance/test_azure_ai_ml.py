"""The unmodified azure-ai-ml with faults: throttling, lost answers, failed operations, soft-deleted names.

No deployment starts a process here. `tests/sandbox/machine_learning/test_service.py` tests it without faults.
"""

from collections.abc import Iterator

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import KubernetesOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient

from sandbox.identity import authority
from testing.sandbox.data import Served, served

ML = "Microsoft.MachineLearningServices/workspaces"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("sandbox")) as running:
        group = {"id": running.group, "name": "rg", "type": "Microsoft.Resources/resourceGroups"}
        running.sandbox.store.put(running.group, group)
        for name in ("mlw", "brief", "gone"):
            running.put(f"{ML}/{name}", location="westeurope", properties={})
        running.put(f"{ML}/mlw/computes/serving", properties={"computeType": "Kubernetes"})
        lake = {"datastoreType": "AzureBlob", "accountName": "lake", "containerName": "models"}
        running.put(f"{ML}/mlw/datastores/lake", properties=lake)
        yield running


@pytest.fixture(scope="module")
def ml(cloud: Served) -> MLClient:
    names = "azure_portal resource_manager active_directory aml_resource_id storage_endpoint"
    return MLClient(
        cloud.credential,
        cloud.sandbox.identity.subscription_id,
        "rg",
        "mlw",
        cloud=cloud.sandbox.url,
        cloud_metadata=dict.fromkeys([*names.split(), "registry_discovery_endpoint"], cloud.sandbox.url),
        enable_telemetry=False,
        show_progress=False,
        connection_verify=str(authority.ca_bundle(cloud.sandbox.folder)),
    )


def model(**more: str) -> Model:
    return Model(**{"name": "clicks", "path": "azureml://datastores/lake/paths/run-1", **more})


def test_model_whose_first_answer_is_lost_is_registered_once(cloud: Served, ml: MLClient) -> None:
    cloud.faults({"method": "PUT", "path": "/models/lost/versions/1$", "lost": True})
    assert ml.models.create_or_update(model(name="lost", version="1")).version == "1"
    assert [found.version for found in ml.models.list("lost")] == ["1"]


def test_throttled_registration_is_sent_again(cloud: Served, ml: MLClient) -> None:
    throttled = {"status": 429, "headers": {"Retry-After": "0"}}
    cloud.faults({"method": "PUT", "path": "/models/throttled/versions/1$", **throttled})
    assert ml.models.create_or_update(model(name="throttled", version="1")).version == "1"


def test_failed_operation_reports_the_reason_and_the_endpoint_stays_failed_until_the_next_put(
    cloud: Served, ml: MLClient
) -> None:
    failure = {"code": "InferencingClientCallFailed", "message": "azureml-fe has no address: is port 80 open?"}
    cloud.faults({"method": "PUT", "path": "/onlineEndpoints/scoring$", "operation_failure": failure})
    endpoint = KubernetesOnlineEndpoint(name="scoring", compute="serving", auth_mode="key")
    with pytest.raises(HttpResponseError, match="is port 80 open") as failed:
        ml.online_endpoints.begin_create_or_update(endpoint).result()
    assert failed.value.error.code == failure["code"]
    assert ml.online_endpoints.get("scoring").provisioning_state == "Failed"
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    assert ml.online_endpoints.get("scoring").provisioning_state == "Succeeded"


def test_endpoint_is_busy_during_its_creation(cloud: Served, ml: MLClient) -> None:
    cloud.faults({"method": "PUT", "path": "/onlineEndpoints/busy$", "operation_delay": 0.5})
    endpoint = KubernetesOnlineEndpoint(name="busy", compute="serving", auth_mode="key")
    creation = ml.online_endpoints.begin_create_or_update(endpoint)
    with pytest.raises(ResourceExistsError, match="Another operation is in progress"):
        ml.online_endpoints.begin_delete("busy")
    creation.result()


def test_deleted_workspace_keeps_its_name_unless_it_is_deleted_permanently(cloud: Served, ml: MLClient) -> None:
    workspaces = MachineLearningServicesMgmtClient(
        cloud.credential,
        cloud.sandbox.identity.subscription_id,
        base_url=cloud.sandbox.url,
        credential_scopes=[f"{cloud.sandbox.url}/.default"],
        connection_verify=str(authority.ca_bundle(cloud.sandbox.folder)),
    ).workspaces
    ml.workspaces.begin_delete("brief", delete_dependent_resources=False).result()
    ml.workspaces.begin_delete("gone", delete_dependent_resources=False, permanently_delete=True).result()
    assert [found.name for found in ml.workspaces.list()] == ["mlw"]
    with pytest.raises(HttpResponseError, match="Soft-deleted") as refused:
        workspaces.begin_create_or_update("rg", "brief", {"location": "westeurope"})
    assert refused.value.status_code == 400
    vault = cloud.put("Microsoft.KeyVault/vaults/kv", location="westeurope", properties={})
    linked = {"location": "westeurope", "properties": {"keyVault": vault}}
    workspaces.begin_create_or_update("rg", "gone", linked).result()
    assert ml.workspaces.get("gone").name == "gone"
