"""Unity Catalog over the lake: refusals that pass, refusals that stay, and the deployer's login."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied
from databricks.sdk.service.catalog import PermissionsChange, Privilege

from infra.cloud import retry
from infra.cloud.clients import AzureClients
from infra.release.training_stage import catalog
from infra.release.training_stage.catalog import VOLUMES, _CatalogProvider
from sandbox.identity import entra
from testing.sandbox.data import Served
from testing.sandbox.databricks import CONNECTOR, lake_workspace, trusted, url

CATALOG = _CatalogProvider()


@pytest.fixture
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.login.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def workspace(cloud: Served) -> WorkspaceClient:
    client = lake_workspace(cloud)
    cloud.assign(cloud.account("shop", *VOLUMES, "catalog"), CONNECTOR)
    return client


def props(cloud: Served) -> dict[str, Any]:
    return {
        "workspace_url": cloud.sandbox.authority,
        "workspace_id": f"{cloud.group}/providers/Microsoft.Databricks/workspaces/ws",
        "catalog": "shop",
        "connector_id": f"{cloud.group}/providers/Microsoft.Databricks/accessConnectors/connector",
        "locations": {name: url(cloud, name, "shop") for name in (*VOLUMES, "catalog")},
    }


@pytest.mark.parametrize("late", ["storage-credentials", "external-locations", "catalogs", "schemas", "volumes"])
def test_late_permission_is_waited_for(
    cloud: Served, workspace: WorkspaceClient, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_PAUSE_SECONDS", (0,))
    refusal = {"error_code": "PERMISSION_DENIED", "message": "User does not have the privilege yet."}
    cloud.faults({"method": "POST", "path": f"unity-catalog/{late}$", "status": 403, "body": refusal, "times": 2})
    assert CATALOG.create(props(cloud)).outs["volumes"] == "/Volumes/shop/personalization"
    assert cloud.faults_left() == []


def test_missing_permission_is_reported_with_its_remedy(
    cloud: Served, workspace: WorkspaceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    metastore = workspace.metastores.current().metastore_id
    admins = PermissionsChange(principal="workspace admins", remove=[Privilege.CREATE_STORAGE_CREDENTIAL])
    workspace.grants.update("METASTORE", str(metastore), changes=[admins])
    monkeypatch.setattr(catalog, "retry_until_authorized", partial(retry.retry_until_authorized, seconds=0))
    with pytest.raises(PermissionDenied, match=r"CREATE STORAGE CREDENTIAL on Metastore .* preflight"):
        CATALOG.create(props(cloud))


def test_databricks_token_has_the_audience_of_the_management_endpoint(
    cloud: Served, workspace: WorkspaceClient
) -> None:
    found = AzureClients.discover()
    assert found.management == entra.management_audience(cloud.sandbox)
    given = props(cloud)
    assert found.databricks(given["workspace_url"], given["workspace_id"]).current_user.me().user_name
    other = AzureClients(**{**vars(found), "management": found.resource_manager})
    with pytest.raises(PermissionDenied, match="management endpoint"):
        other.databricks(given["workspace_url"], given["workspace_id"]).current_user.me()
