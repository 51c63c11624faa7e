"""Manual changes of a deployed stack, as people make them with the tools of Azure and Databricks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sandbox_fixtures import in_environment
from stack_fixtures import LocalRun
from waiting import eventually

from infra.release.cloud import Cloud

_ML, _ACR, _DATABRICKS = "2025-12-01", "2023-01-01-preview", "2026-01-01"


class ByHand:
    def __init__(self, cloud: Cloud, outputs: dict[str, Any]) -> None:
        self._cloud, self._outputs = cloud, outputs
        host, workspace_id = outputs["databricks_url"].removeprefix("https://"), outputs["databricks_workspace_id"]
        self.databricks = cloud.databricks(host, workspace_id)
        self._group = workspace_id.partition("/providers/")[0]
        self._endpoint = f"{outputs['ml_workspace_id']}/onlineEndpoints/{outputs['endpoint_name']}"

    def delete_in_databricks(self) -> None:
        """The job, the policy, the folders of the wheel and the notebooks, and the secret scope."""
        (job,) = self.databricks.jobs.list(expand_tasks=True)
        (wheel,) = (found.whl for found in job.settings.tasks[0].libraries if found.whl)
        self.databricks.workspace.delete(wheel.removeprefix("/Workspace").rpartition("/")[0], recursive=True)
        self.databricks.jobs.delete(job.job_id)
        for policy in list(self.databricks.cluster_policies.list()):
            self.databricks.cluster_policies.delete(policy.policy_id)
        self.databricks.workspace.delete(self._outputs["notebooks"], recursive=True)
        for scope in list(self.databricks.secrets.list_scopes()):
            self.databricks.secrets.delete_scope(scope.name)

    def change_job_and_traffic(self) -> None:
        (job,) = self.databricks.jobs.list()
        schedule = {"quartz_cron_expression": "0 * * * * ?", "timezone_id": "UTC", "pause_status": "UNPAUSED"}
        body = {"job_id": job.job_id, "new_settings": {"schedule": schedule}}
        self.databricks.api_client.do("POST", "/api/2.2/jobs/update", body=body)
        endpoint = self._cloud.resource(self._endpoint, _ML)
        assert endpoint
        properties = {**endpoint["properties"], "traffic": {}}
        assert self._cloud.request("PUT", self._endpoint, _ML, {**endpoint, "properties": properties}).ok
        eventually(lambda: self._state(self._endpoint, _ML) == "Succeeded")

    def regenerate_key(self) -> None:
        key = {"keyType": "Primary"}
        assert self._cloud.request("POST", f"{self._endpoint}/regenerateKeys", _ML, key).ok

    def delete_endpoint(self) -> None:
        self._delete(self._endpoint, _ML)

    def delete_registry(self) -> None:
        listed = self._cloud.resource(f"{self._group}/providers/Microsoft.ContainerRegistry/registries", _ACR)
        assert listed
        self._delete(listed["value"][0]["id"], _ACR)

    def delete_databricks(self) -> None:
        self._delete(self._outputs["databricks_workspace_id"], _DATABRICKS)

    def _delete(self, resource_id: str, api_version: str) -> None:
        assert self._cloud.request("DELETE", resource_id, api_version).ok
        eventually(lambda: self._cloud.resource(resource_id, api_version) is None)

    def _state(self, resource_id: str, api_version: str) -> Any:
        return (self._cloud.resource(resource_id, api_version) or {})["properties"].get("provisioningState")


@contextmanager
def by_hand(run: LocalRun) -> Iterator[ByHand]:
    with in_environment(run.environment):
        yield ByHand(Cloud.discover(), json.loads((run.state / "run.json").read_text())["outputs"])
