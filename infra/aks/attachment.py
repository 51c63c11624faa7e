"""The cluster attached to the Azure ML workspace as a compute: attached and detached, never updated.

Azure ML refuses an update of an attached cluster, so no setting changes a property of the compute: the size of a
replica is in the deployment (`release/serving_stage/rollout.py`), the choice of its nodes in the extension
(`inference_router.py`). azure-native would send updates, and its deletion lacks the query parameter that Azure ML
requires. While the workspace's access to the cluster may not be in effect yet, a failed attach is detached and
repeated. Does not create instance types: they are objects in the cluster, which only `kubectl` creates.

Source: Azure/azureml-examples#3030 ("k8s compute doesn't support update"); azure-ai-ml==1.35.2
azure/ai/ml/_restclient/arm_ml_service/operations/_operations.py (`underlying_resource_action` is required)
"""

import time
from dataclasses import replace
from typing import Any

import pulumi

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces
from infra.dynamic.polling import PollInterval
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource

# Source: pulumi-azure-native==3.29.0 pulumi_azure_native/machinelearningservices/compute.py
API_VERSION = "2025-12-01"
_SECONDS = 1800
"""Time limit of one attach or detach."""
# Source: MicrosoftDocs/azure-aks-docs articles/aks/trusted-access-feature.md (a role binding takes effect within five
# minutes); MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md (a role within ten)
_ACCESS_SECONDS = 900
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md ("extension not
# installed", "internal server"); MicrosoftDocs/azure-ai-docs
# articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md (ComputeNotAccessible, ClusterUnauthorized)
_NO_ACCESS = ("not installed", "internal server", "internalserver", "computenotaccessible", "clusterunauthorized")
_POLL = PollInterval(quick=0.2, quick_for=10, slow=10)
_DETACH = "?underlyingResourceAction=Detach"


class AttachFailed(Exception):
    """Azure ML refused or failed to attach or detach the cluster; the message holds its answer."""


class AttachmentInputs(Inputs):
    compute_id: InputField[str] = replaces()
    workspace_uid: InputField[str] = replaces()
    cluster_id: InputField[str] = replaces()
    cluster_uid: InputField[str] = replaces()
    location: InputField[str] = not_compared()
    namespace: InputField[str] = replaces()
    extension_uid: InputField[str] = replaces()
    """Principal id of the Azure ML extension's identity; a new extension has another one."""


class _AttachmentProvider(ReleaseProvider[AttachmentInputs, Outputs]):
    def create_object(self, inputs: AttachmentInputs) -> Creation[Outputs]:
        cloud, compute_id = AzureClients.discover(), inputs.compute_id
        _detach(cloud, compute_id)  # removes another cluster or a failed attach
        began = time.monotonic()
        while reason := _attach(cloud, inputs):
            _detach(cloud, compute_id)
            if time.monotonic() - began > _ACCESS_SECONDS or not any(sign in reason.lower() for sign in _NO_ACCESS):
                raise AttachFailed(f"{inputs.cluster_id} was not attached as {compute_id}: {reason}")
            _POLL.pause(began)
        return Creation(compute_id, Outputs())

    def read_object(self, state: ResourceState[AttachmentInputs, Outputs]) -> AttachmentInputs | None:
        inputs = state.inputs
        compute = AzureClients.discover().resource(inputs.compute_id, API_VERSION)
        properties = compute["properties"] if compute else {}
        if properties.get("provisioningState") in (None, "Failed"):
            return None
        attached = str(properties.get("resourceId"))
        if attached.lower() == inputs.cluster_id.lower():
            return inputs
        return replace(inputs, cluster_id=attached)

    def delete_object(self, state: ResourceState[AttachmentInputs, Outputs]) -> None:
        _detach(AzureClients.discover(), state.inputs.compute_id)


def attach_body(inputs: AttachmentInputs) -> dict[str, Any]:
    """Return the body of the attach request.

    Source: pulumi-azure-native==3.29.0 pulumi_azure_native/machinelearningservices/_inputs.py
    (`KubernetesPropertiesArgs`)
    """
    return {
        "location": inputs.location,
        "properties": {
            "computeType": "Kubernetes",
            "resourceId": inputs.cluster_id,
            "disableLocalAuth": True,
            "properties": {"namespace": inputs.namespace, "extensionPrincipalId": inputs.extension_uid},
        },
    }


def _attach(cloud: AzureClients, inputs: AttachmentInputs) -> str:
    """Attach the cluster. Return the reason for a failure; empty if it was attached."""
    began, compute_id = time.monotonic(), inputs.compute_id
    answer = cloud.request("PUT", compute_id, API_VERSION, attach_body(inputs))
    if not answer.ok:
        return f"HTTP {answer.status_code} {answer.text}"
    while (compute := cloud.resource(compute_id, API_VERSION)) is not None:
        properties = compute["properties"]
        if (state := properties.get("provisioningState")) == "Succeeded":
            return ""
        if state in ("Failed", "Canceled"):
            return f"{state} {properties.get('provisioningErrors') or ''}"
        if time.monotonic() - began > _SECONDS:
            return f"{state} for {_SECONDS // 60} minutes"
        _POLL.pause(began)
    return "the compute was created and then not found"


def _detach(cloud: AzureClients, compute_id: str) -> None:
    """Detach the cluster, which stays as it is, and wait until the compute is gone."""
    began = time.monotonic()
    while (compute := cloud.resource(compute_id, API_VERSION)) is not None:
        if time.monotonic() - began > _SECONDS:
            raise AttachFailed(
                f"{compute_id} was not detached within {_SECONDS // 60} minutes: {compute['properties']}"
            )
        if compute["properties"].get("provisioningState") != "Deleting":
            answer = cloud.request("DELETE", compute_id + _DETACH, API_VERSION)
            if not answer.ok and answer.status_code not in (404, 409):  # 409: another change of it is under way
                raise AttachFailed(f"{compute_id} was not detached: HTTP {answer.status_code} {answer.text}")
        _POLL.pause(began)


class Attachment(
    DynamicResource[AttachmentInputs],
    module="machinelearningservices",
    name="KubernetesCompute",
    provider=_AttachmentProvider,
):
    """Attached compute. Its id is the compute's resource id."""

    def __init__(self, name: str, inputs: AttachmentInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        # The name must be free first, and the endpoint cannot move to another cluster.
        # Source: Azure/azureml-examples#3030 ("detach compute before attaching")
        first = pulumi.ResourceOptions(delete_before_replace=True)
        super().__init__(name, inputs, pulumi.ResourceOptions.merge(opts, first))
