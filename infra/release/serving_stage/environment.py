"""The scoring image as an Azure ML environment version, with the routes the inference router probes and calls.

The image already exists and is named by digest, so Azure ML builds nothing. Does not delete versions.
"""

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource

from infra.cloud.clients import AzureClients
from infra.dynamic.provider import ReleaseProvider, gone

PORT = 5001
ROUTES = {
    "liveness_route": {"path": "/live", "port": PORT},
    "readiness_route": {"path": "/ready", "port": PORT},
    "scoring_route": {"path": "/score", "port": PORT},
}


class _EnvironmentProvider(ReleaseProvider):
    identity = ("workspace_id", "workspace_uid", "environment_name", "image")

    def create(self, props: dict[str, Any]) -> CreateResult:
        from azure.ai.ml.entities import Environment

        # Versions cannot be changed. The version is the image's digest, so a repeated create finds the same one.
        version = props["image"].rpartition("@sha256:")[2][:16]
        AzureClients.discover().machine_learning(props["workspace_id"]).environments.create_or_update(
            Environment(
                name=props["environment_name"],
                version=version,
                image=props["image"],
                inference_config=ROUTES,
                description="Scoring service behind the contract in scoring/",
            )
        )
        return CreateResult(f"{props['environment_name']}:{version}", {**props, "version": version})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from azure.core.exceptions import ResourceNotFoundError

        registry = AzureClients.discover().machine_learning(props["workspace_id"])
        try:
            registry.environments.get(props["environment_name"], props["version"])
        except ResourceNotFoundError:
            return gone()
        return ReadResult(id_, props)


class EnvironmentVersion(Resource, module="machinelearning", name="EnvironmentVersion"):
    version: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        environment_name: str,
        image: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "environment_name": environment_name,
            "image": image,
        }
        super().__init__(_EnvironmentProvider(), name, {**props, "version": None}, opts)
