"""Rules of Azure ML workspaces, attached compute, and versions of models and environments.

The ARM store has the resources; this module has only the service's checks and computed properties. Does not run
training or build environments: a deployment's environment names an image.
"""

import re
from collections.abc import Mapping
from typing import Any

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox
from sandbox.identity import access_checks
from sandbox.machine_learning import extension
from sandbox.resource_rules import private_endpoints

WORKSPACE = "microsoft.machinelearningservices/workspaces"
# Source: Azure/AML-Kubernetes docs/azureml-aks-ta-support.md
_ROLE = "microsoft.machinelearningservices/workspaces/mlworkload"
# An action of Contributor, and of no role that only reads or manages extensions.
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md (roles)
_ADMIN_ACTION = "Microsoft.ContainerService/managedClusters/listClusterAdminCredential/action"
# Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md ("Create a
# default instance type")
_DEFAULT_TYPE = "defaultinstancetype"
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md
_DEFAULT_SIZE = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}


def behaviours() -> dict[str, Behaviour]:
    versions = Behaviour(on_put=_put_version, on_delete=_delete_version)
    return {
        WORKSPACE: Behaviour(on_put=_put_workspace),
        f"{WORKSPACE}/computes": Behaviour(before_put=_check_compute, on_put=_put_compute),
        f"{WORKSPACE}/models/versions": versions,
        f"{WORKSPACE}/environments/versions": versions,
    }


def kubernetes_compute(sandbox: Sandbox, compute_id: str | None) -> Mapping[str, Any]:
    """The properties of an attached cluster. Raises `CloudError`."""
    compute = sandbox.store.get(compute_id) if compute_id else None
    if compute is None:
        message = f"Compute '{compute_id}' is not attached to the workspace. Attach the Kubernetes cluster first."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`ComputeNotFound`)
        raise CloudError(400, "ComputeNotFound", message)
    properties: Mapping[str, Any] = compute["properties"]
    if properties.get("computeType") != "Kubernetes":
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`InvalidComputeInformation`)
        raise CloudError(400, "InvalidComputeInformation", f"Compute '{compute_id}' is not a Kubernetes compute.")
    return properties


def cluster_network(sandbox: Sandbox, compute: Mapping[str, Any]) -> str | None:
    """Id of the virtual network that the nodes of an attached cluster are in."""
    cluster = sandbox.store.get(str(compute.get("resourceId")))
    pools = dig(cluster, "properties.agentPoolProfiles") or [{}]
    return private_endpoints.network_of(pools[0].get("vnetSubnetID"))


def private_router(sandbox: Sandbox, compute_id: str) -> str | None:
    """The only network in which the cluster's router has an address; None for a public address."""
    compute = sandbox.store.get(compute_id)
    if compute is None or not extension.is_internal(sandbox, str(dig(compute, "properties.resourceId"))):
        return None
    return cluster_network(sandbox, compute["properties"])


def instance_types(sandbox: Sandbox) -> dict[str, Any]:
    """Instance types of the cluster: the default, and those created with `kubectl` (`SandboxSettings.instance_types`).

    `instanceTypes` in the request that attaches the cluster creates none.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md;
    microsoft/edge-ai src/000-cloud/080-azureml/terraform/modules/inference-cluster-integration/main.tf ("Ignore
    server-computed properties that cannot be set in configuration")
    """
    made = {
        name: {"resources": {"requests": limits, "limits": limits}}
        for name, limits in sandbox.settings.instance_types.items()
    }
    return {_DEFAULT_TYPE: {"resources": _DEFAULT_SIZE}, **made}


def fit_instance_type(sandbox: Sandbox, instance_type: str | None, resources: Mapping[str, Any]) -> tuple[float, int]:
    """CPU and memory limits of a deployment. Raises `CloudError` if its instance type is unknown or too small.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md ("Resource
    section validation": "the resource limits must be less than the instance type limits"); Azure/AML-Kubernetes#249 (a
    type that nobody created)
    """
    types, name = instance_types(sandbox), instance_type or _DEFAULT_TYPE
    if name not in types:
        message = f"Instance type '{name}' is not one of {', '.join(sorted(types))}."
        # Source: Azure/AML-Kubernetes#249 (201, then the code of the failed operation; its message names no type)
        raise CloudError(400, "InferencingClientCreateDeploymentFailed", message)
    allowed = types[name]["resources"]["limits"]
    requests, limits = (resources.get(f"containerResource{kind}") or {} for kind in ("Requests", "Limits"))
    effective = []
    for unit in ("cpu", "memory"):
        most, limit, request = allowed[unit], limits.get(unit), requests.get(unit)
        if limit is not None and not _quantity(limit) < _quantity(most):
            message = f"The deployment's {unit} limit {limit} must be less than {most}, that of instance type '{name}'."
            # No source: deploy with the limits of the instance type on Azure, and read the code.
            raise CloudError(400, "BadArgument", message)
        if request is not None and not _quantity(request) <= _quantity(limit or most):
            message = f"The deployment's {unit}: request {request} is above its limit {limit or most}."
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
            # (`BadArgument`: requests greater than limits)
            raise CloudError(400, "BadArgument", message)
        effective.append(_quantity(limit or most))
    return effective[0], int(effective[1])


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-workspace.md ("Associated resources")
async def _put_workspace(sandbox: Sandbox, workspace_id: str, body: Body) -> None:
    if not body["properties"].get("keyVault"):
        # Source: Azure/azure-rest-api-specs#15878; Azure/azure-service-operator#5696
        raise CloudError(400, "ValidationError", "Missing dependent resources in workspace json")
    for name in ("storageAccount", "keyVault", "applicationInsights", "containerRegistry"):
        linked_id = body["properties"].get(name)
        linked = sandbox.store.get(linked_id) if linked_id else {}
        if linked is None:
            # No source: create a workspace on Azure with a key vault that does not exist, and read the code.
            raise CloudError(400, "ValidationError", f"Workspace property {name}: '{linked_id}' does not exist.")
        if name == "storageAccount" and linked.get("properties", {}).get("isHnsEnabled"):
            # Source: microsoft/AzureTRE#1920 (code and message)
            raise CloudError(400, "BadRequest", "Cannot use storage with HNS enabled.")


def _check_compute(sandbox: Sandbox, compute_id: str, sent: Body, existing: Body | None) -> None:
    """Source: Azure/azureml-examples#3030 ("k8s compute doesn't support update")"""
    if existing and existing["properties"].get("computeType") == "Kubernetes":
        message = f"The compute '{compute_id}' is attached already, and cannot be updated. Detach it first."
        # No source: send the same PUT twice on Azure, and read the code.
        raise CloudError(400, "ComputeAlreadyAttached", message)


async def _put_compute(sandbox: Sandbox, compute_id: str, body: Body) -> None:
    """Attach the compute. If that fails, store the reason in its body.

    Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (Compute.provisioning_errors)
    """
    try:
        _attach_compute(sandbox, compute_id, body)
    except CloudError as error:
        failed = sandbox.store.get(compute_id) or body
        failed["properties"]["provisioningErrors"] = [{"error": {"code": error.code, "message": error.message}}]
        sandbox.store.put(compute_id, failed)
        raise


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md;
# Azure/AML-Kubernetes docs/azureml-aks-ta-support.md
def _attach_compute(sandbox: Sandbox, compute_id: str, body: Body) -> None:
    properties = body["properties"]
    if properties.get("computeType") == "AmlCompute":
        _check_nodes_address(sandbox, compute_id.rsplit("/", 2)[0], properties)
        return  # only stored, without nodes
    if properties.get("computeType") != "Kubernetes":
        raise CloudError(400, "BadRequest", "The sandbox has compute of type Kubernetes and AmlCompute only.")
    cluster_id, workspace_id = properties.get("resourceId") or "", compute_id.rsplit("/", 2)[0]
    cluster = sandbox.store.get(cluster_id)
    if cluster is None:
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`ClusterNotFound`)
        raise CloudError(400, "ClusterNotFound", f"The cluster '{cluster_id}' does not exist.")
    _require_role(sandbox, workspace_id, cluster_id)
    if not extension.is_true(extension.settings_of(sandbox, cluster_id), "enableInference"):
        message = f"The cluster lacks the extension '{extension.NAME}' with the setting enableInference 'True'."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`InvalidComputeNoKubernetesConfiguration`)
        raise CloudError(400, "InvalidComputeNoKubernetesConfiguration", message)
    if cluster["properties"].get("disableLocalAccounts"):
        below = [found["properties"] for _, found in sandbox.store.below(cluster_id) if "properties" in found]
        bound = [it for it in below if str(it.get("sourceResourceId")).lower() == workspace_id.lower()]
        if not any(role.lower() == _ROLE for it in bound for role in it["roles"]):
            message = (
                "The cluster's local accounts are disabled, and no trusted access binding gives this workspace "
                f"the role '{_ROLE}'. Create the trustedAccessRoleBinding before attaching the cluster."
            )
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
            # (`ComputeNotAccessible`)
            raise CloudError(400, "ComputeNotAccessible", message)
    found = {"defaultInstanceType": _DEFAULT_TYPE, "instanceTypes": instance_types(sandbox)}
    properties["properties"] = {**(properties.get("properties") or {}), **found}


def _require_role(sandbox: Sandbox, workspace_id: str, cluster_id: str) -> None:
    """Refuse the attach if the workspace's identity cannot read the extension.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md (Contributor,
    for trusted access; without the roles, "extension not installed")
    """
    principal = dig(sandbox.store.get(workspace_id), "identity.principalId")
    if not access_checks.allowed(sandbox, str(principal), _ADMIN_ACTION, cluster_id):
        message = (
            f"The Azure ML extension is not installed on the cluster: identity {principal} of the workspace cannot see "
            "it without the role Contributor there."
        )
        # No source: attach without the role on Azure, and read the code.
        raise CloudError(400, "ExtensionNotInstalled", message)


def _check_nodes_address(sandbox: Sandbox, workspace_id: str, compute: Mapping[str, Any]) -> None:
    """Source: Azure/data-product-analytics#70; MicrosoftDocs/azure-ai-docs
    articles/machine-learning/how-to-secure-training-vnet.md (You must use a workspace private endpoint)
    """
    hidden = (compute.get("properties") or {}).get("enableNodePublicIp") is False
    if hidden and not private_endpoints.has_endpoint(sandbox, workspace_id):
        raise CloudError(400, "UserError", "Provided EnableNodePublicIp 'False' requires workspace private endpoint.")


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (`ModelVersionProperties`,
# `EnvironmentVersionProperties`: create only)
async def _put_version(sandbox: Sandbox, version_id: str, body: Body) -> None:
    before = (sandbox.store.get(version_id) or body)["properties"]
    for name in ("modelUri", "image"):
        if before.get(name) != body["properties"].get(name):
            message = f"'{version_id}' exists with {name} '{before.get(name)}': a version cannot change. Make another."
            # No source: change the address of a model's version on Azure, and read the code.
            raise CloudError(400, "UserError", message)
    _update_container(sandbox, version_id, version_id.rpartition("/")[2])


# Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py
# (`ModelContainerProperties.latest_version`)
async def _delete_version(sandbox: Sandbox, version_id: str, body: Body) -> None:
    _update_container(sandbox, version_id, None)


def _update_container(sandbox: Sandbox, version_id: str, added: str | None) -> None:
    container_id, own = version_id.rsplit("/", 2)[0], version_id.rpartition("/")[2]
    container = sandbox.store.get(container_id)
    if container is None:
        return
    others = {other.rpartition("/")[2] for other, _ in sandbox.store.below(f"{container_id}/versions")}
    versions = others - {own} | ({added} if added else set())
    numbers = [int(version) for version in versions if version.isdigit()]
    latest = str(max(numbers)) if numbers else max(versions, default=None)
    container["properties"] = {**container.get("properties", {}), "latestVersion": latest}
    container["properties"]["nextVersion"] = str(max(numbers, default=0) + 1)
    sandbox.store.put(container_id, container)


def _quantity(text: str | float) -> float:
    """A Kubernetes quantity, such as `100m` or `2Gi`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|[MGT]i?|Ki)?", str(text))
    if not match:
        # No source: deploy with cpu '2 cores' on Azure, and read the code.
        raise CloudError(400, "InvalidQuantity", f"'{text}' is not a Kubernetes quantity such as 500m, 2 or 4Gi.")
    return float(match[1]) * _UNITS[match[2] or ""]
