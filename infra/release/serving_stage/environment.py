"""The scoring image as an Azure ML environment version, with the routes the inference router probes and calls.

The image already exists and is named by digest, so Azure ML builds nothing. Does not delete versions.
"""

import pulumi

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, replaces
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource

PORT = 5001
ROUTES = {
    "liveness_route": {"path": "/live", "port": PORT},
    "readiness_route": {"path": "/ready", "port": PORT},
    "scoring_route": {"path": "/score", "port": PORT},
}


class EnvironmentInputs(Inputs):
    workspace_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()
    environment_name: InputField[str] = replaces()
    image: InputField[str] = replaces()


class EnvironmentOutputs(Outputs):
    version: str


class _EnvironmentProvider(ReleaseProvider[EnvironmentInputs, EnvironmentOutputs]):
    def create_object(self, inputs: EnvironmentInputs) -> Creation[EnvironmentOutputs]:
        from azure.ai.ml.entities import Environment

        # Versions cannot be changed. The version is the image's digest, so a repeated create finds the same one.
        version = inputs.image.rpartition("@sha256:")[2][:16]
        AzureClients.discover().machine_learning(inputs.workspace_id).environments.create_or_update(
            Environment(
                name=inputs.environment_name,
                version=version,
                image=inputs.image,
                inference_config=ROUTES,
                description="Scoring service behind the contract in scoring/",
            )
        )
        return Creation(f"{inputs.environment_name}:{version}", EnvironmentOutputs(version=version))

    def read_object(self, state: ResourceState[EnvironmentInputs, EnvironmentOutputs]) -> EnvironmentInputs | None:
        from azure.core.exceptions import ResourceNotFoundError

        registry = AzureClients.discover().machine_learning(state.inputs.workspace_id)
        try:
            registry.environments.get(state.inputs.environment_name, state.outputs.version)
        except ResourceNotFoundError:
            return None
        return state.inputs


class EnvironmentVersion(
    DynamicResource[EnvironmentInputs],
    module="machinelearning",
    name="EnvironmentVersion",
    provider=_EnvironmentProvider,
):
    version: pulumi.Output[str]
