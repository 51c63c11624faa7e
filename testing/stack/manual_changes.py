"""Manual changes of a deployed stack, made with the SDKs of Azure and Databricks instead of Pulumi."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.resource.resources import ResourceManagementClient
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.jobs import JobSettings

from infra.cloud.clients import AzureClients
from testing.sandbox.process import in_environment
from testing.stack.local_run import LocalRun
from testing.waiting import eventually

_ML, _ACR, _DATABRICKS, _AKS = "2025-12-01", "2023-01-01-preview", "2026-01-01", "2025-09-01"


class ByHand:
    def __init__(self, cloud: AzureClients, outputs: dict[str, Any]) -> None:
        self._cloud, self._outputs = cloud, outputs
        host, workspace_id = outputs["databricks_url"].removeprefix("https://"), outputs["databricks_workspace_id"]
        self.databricks = cloud.databricks(host, workspace_id)
        self._group = workspace_id.partition("/providers/")[0]
        self._endpoint = f"{outputs['ml_workspace_id']}/onlineEndpoints/{outputs['endpoint_name']}"

    def delete_in_databricks(self) -> None:
        """Delete the job, the policy, the folders of the wheel and the notebooks, and the secret scope."""
        (job,) = self.databricks.jobs.list(expand_tasks=True)
        (wheel,) = (library.whl for library in job.settings.tasks[0].libraries if library.whl)
        self.databricks.workspace.delete(wheel.removeprefix("/Workspace").rpartition("/")[0], recursive=True)
        self.databricks.jobs.delete(job.job_id)
        for policy in list(self.databricks.cluster_policies.list()):
            self.databricks.cluster_policies.delete(policy.policy_id)
        self.databricks.workspace.delete(self._outputs["notebooks"], recursive=True)
        for scope in list(self.databricks.secrets.list_scopes()):
            self.databricks.secrets.delete_scope(scope.name)

    def change_job_cluster(self) -> None:
        (job,) = self.databricks.jobs.list(expand_tasks=True)
        (cluster,) = job.settings.job_clusters
        cluster.new_cluster.num_workers += 7
        self.databricks.jobs.update(job.job_id, new_settings=JobSettings(job_clusters=[cluster]))

    def change_policy(self) -> None:
        (policy,) = self.databricks.cluster_policies.list()
        self.databricks.cluster_policies.edit(policy.policy_id, name=policy.name, definition="{}")

    def revoke_grant(self, team: str) -> None:
        (scope,) = self.databricks.secrets.list_scopes()  # has the same name as the catalog
        change = PermissionsChange(principal=team, remove=[Privilege.READ_VOLUME])
        self.databricks.grants.update("catalog", scope.name, changes=[change])

    def delete_secret_scope(self) -> None:
        for scope in list(self.databricks.secrets.list_scopes()):
            self.databricks.secrets.delete_scope(scope.name)

    def change_deployment(self) -> None:
        client = self._cloud.machine_learning(self._outputs["ml_workspace_id"])
        deployment = client.online_deployments.get(self._outputs["deployment"], self._outputs["endpoint_name"])
        deployment.scale_settings.max_instances += 1
        client.online_deployments.begin_create_or_update(deployment).result()

    def take_traffic(self) -> None:
        """Set the endpoint's traffic to zero.

        Not through Azure ML's SDK, which would drop properties of the endpoint that it does not know.
        """
        resources = self._client(ResourceManagementClient).resources
        endpoint = resources.get_by_id(self._endpoint, api_version=_ML)
        endpoint.properties["traffic"] = {}
        resources.begin_create_or_update_by_id(self._endpoint, endpoint, api_version=_ML).result()

    def resize_pools(self) -> None:
        """Add a node to the system pool, and to the maximum of the scoring pool's autoscaler."""
        (cluster,) = self._list(f"{self._group}/providers/Microsoft.ContainerService/managedClusters", _AKS)
        group, name = self._group.rpartition("/")[2], cluster["name"]
        pools = self._client(ContainerServiceClient).agent_pools
        for pool in list(pools.list(group, name)):
            properties = pool.properties or pool
            if properties.max_count:
                properties.max_count += 1
            else:
                properties.count += 1
            pools.begin_create_or_update(group, name, pool.name, pool).result()

    def delete_role_assignment(self) -> None:
        """Delete the role assignment of one identity that pulls images."""
        (registry,) = self._list(f"{self._group}/providers/Microsoft.ContainerRegistry/registries", _ACR)
        assignments = self._client(AuthorizationManagementClient).role_assignments
        listed = assignments.list_for_scope(registry["id"])
        first, *_ = (assignment for assignment in listed if assignment.scope == registry["id"])
        assignments.delete_by_id(first.id)

    def regenerate_key(self) -> None:
        key = {"keyType": "Primary"}
        assert self._cloud.request("POST", f"{self._endpoint}/regenerateKeys", _ML, key).ok

    def delete_endpoint(self) -> None:
        self._delete(self._endpoint, _ML)

    def delete_registry(self) -> None:
        (registry,) = self._list(f"{self._group}/providers/Microsoft.ContainerRegistry/registries", _ACR)
        self._delete(registry["id"], _ACR)

    def delete_databricks(self) -> None:
        self._delete(self._outputs["databricks_workspace_id"], _DATABRICKS)

    def _list(self, collection: str, api_version: str) -> list[dict[str, Any]]:
        listed = self._cloud.resource(collection, api_version)
        assert listed
        return list(listed["value"])

    def _client(self, kind: Any) -> Any:
        """A client of Azure's management SDK."""
        cloud, subscription = self._cloud, self._group.split("/")[2]
        return kind(cloud.credential(), subscription, base_url=cloud.resource_manager, credential_scopes=[cloud.scope])

    def _delete(self, resource_id: str, api_version: str) -> None:
        assert self._cloud.request("DELETE", resource_id, api_version).ok
        eventually(lambda: self._cloud.resource(resource_id, api_version) is None)


@contextmanager
def by_hand(run: LocalRun) -> Iterator[ByHand]:
    with in_environment(run.environment):
        yield ByHand(AzureClients.discover(), json.loads((run.state / "run.json").read_text())["outputs"])
