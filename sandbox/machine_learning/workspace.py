"""What an Azure ML workspace holds besides endpoints: itself, attached compute, versions of models and environments.

They are stored like every resource; here is only what the service checks or computes. Does not run training or
build environments: a deployment's environment names an image.
"""

import re
from collections.abc import Mapping
from typing import Any

from sandbox import private_endpoints
from sandbox.cloud import Behaviour, CloudError, Sandbox
from sandbox.resource_body import dig
from sandbox.store import Body

WORKSPACE = "microsoft.machinelearningservices/workspaces"
# Source: Azure/AML-Kubernetes files/deployextension.json
_EXTENSION = "microsoft.azureml.kubernetes"
# Source: Azure/AML-Kubernetes docs/azureml-aks-ta-support.md
_ROLE = "microsoft.machinelearningservices/workspaces/mlworkload"
# Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-kubernetes-instance-types.md ("Create a
# default instance type")
_DEFAULT_TYPE = "defaultinstancetype"
_DEFAULT_TYPES = {_DEFAULT_TYPE: {"resources": {"limits": {"cpu": "2", "memory": "2Gi"}}}}


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    versions = Behaviour(on_put=_put_version, on_delete=_delete_version)
    return {
        WORKSPACE: Behaviour(on_put=_put_workspace),
        f"{WORKSPACE}/computes": Behaviour(on_put=_attach_compute),
        f"{WORKSPACE}/models/versions": versions,
        f"{WORKSPACE}/environments/versions": versions,
    }


def kubernetes_compute(sandbox: Sandbox, compute_id: str | None) -> Mapping[str, Any]:
    """The properties of an attached cluster, or `CloudError`."""
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
        raise CloudError(400, "InvalidComputeInformation", f"Compute '{compute_id}' is no Kubernetes compute.")
    return properties


def cluster_network(sandbox: Sandbox, compute: Mapping[str, Any]) -> str | None:
    """Id of the virtual network that the nodes of an attached cluster are in."""
    cluster = sandbox.store.get(str(compute.get("resourceId")))
    pools = dig(cluster, "properties.agentPoolProfiles") or [{}]
    return private_endpoints.network_of(pools[0].get("vnetSubnetID"))


def private_router(sandbox: Sandbox, compute_id: str) -> str | None:
    """The network in which alone the cluster's router has an address; None where it has a public one.

    Source: Azure/AML-Kubernetes files/deployextension.json (`isInternalLoadBalancer`)
    """
    compute = sandbox.store.get(compute_id)
    below = sandbox.store.below(str(dig(compute, "properties.resourceId")))
    found = (body.get("properties") or {} for _, body in below)
    settings = [
        it.get("configurationSettings") or {} for it in found if str(it.get("extensionType")).lower() == _EXTENSION
    ]
    internal = any(str(it.get("scoringFe.serviceType.internalLoadBalancer")).lower() == "true" for it in settings)
    return cluster_network(sandbox, compute["properties"]) if compute and internal else None


def fit_instance_type(
    compute: Mapping[str, Any], instance_type: str | None, resources: Mapping[str, Any]
) -> tuple[float, int]:
    """The CPU and memory limits a deployment gets, or `CloudError` if its instance type is missing or too small."""
    settings = compute.get("properties") or {}
    types = settings.get("instanceTypes") or _DEFAULT_TYPES
    name = instance_type or settings.get("defaultInstanceType") or _DEFAULT_TYPE
    if name not in types:
        # No source: deploy with an instance type that does not exist on Azure, and read the code.
        raise CloudError(
            400, "InvalidInstanceType", f"Instance type '{name}' is not one of {', '.join(sorted(types))}."
        )
    allowed = (types[name].get("resources") or {}).get("limits") or {}
    requests, limits = (resources.get(f"containerResource{kind}") or {} for kind in ("Requests", "Limits"))
    found = []
    for unit in ("cpu", "memory"):
        most = allowed.get(unit) or "1Ti"
        limit, request = limits.get(unit) or most, requests.get(unit) or "0"
        if not _quantity(request) <= _quantity(limit) <= _quantity(most):
            message = (
                f"The deployment's {unit}: request {request}, limit {limit}; instance type '{name}' allows {most}."
            )
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
            # (`BadArgument`: requests greater than limits); MicrosoftDocs/azure-ai-docs
            # articles/machine-learning/how-to-manage-kubernetes-instance-types.md ("Resource section validation")
            raise CloudError(400, "BadArgument", message)
        found.append(_quantity(limit))
    return found[0], int(found[1])


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-workspace.md ("Associated resources")
async def _put_workspace(sandbox: Sandbox, workspace_id: str, body: Body) -> None:
    for name in ("storageAccount", "keyVault", "applicationInsights", "containerRegistry"):
        linked_id = body["properties"].get(name)
        linked = sandbox.store.get(linked_id) if linked_id else {}
        if linked is None:
            # No source: create a workspace on Azure with a key vault that does not exist, and read the code.
            raise CloudError(400, "ValidationError", f"Workspace property {name}: '{linked_id}' does not exist.")
        if name == "storageAccount" and linked.get("properties", {}).get("isHnsEnabled"):
            # Source: microsoft/AzureTRE#1920 (code and message)
            raise CloudError(400, "BadRequest", "Cannot use storage with HNS enabled.")


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-attach-kubernetes-to-workspace.md;
# Azure/AML-Kubernetes docs/azureml-aks-ta-support.md
async def _attach_compute(sandbox: Sandbox, compute_id: str, body: Body) -> None:
    properties = body["properties"]
    if properties.get("computeType") == "AmlCompute":
        _check_nodes_address(sandbox, compute_id.rsplit("/", 2)[0], properties)
        return  # kept as a record: no node of it ever runs
    if properties.get("computeType") != "Kubernetes":
        raise CloudError(400, "BadRequest", "The sandbox has compute of type Kubernetes and AmlCompute only.")
    cluster_id = properties.get("resourceId") or ""
    cluster = sandbox.store.get(cluster_id)
    if cluster is None:
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`ClusterNotFound`)
        raise CloudError(400, "ClusterNotFound", f"The cluster '{cluster_id}' does not exist.")
    below = [found["properties"] for _, found in sandbox.store.below(cluster_id) if "properties" in found]
    extensions = [it for it in below if str(it.get("extensionType")).lower() == _EXTENSION]
    settings = (extensions[0].get("configurationSettings") or {}) if extensions else {}
    if str(settings.get("enableInference")).lower() != "true":
        message = f"The cluster lacks the extension '{_EXTENSION}' with the setting enableInference 'True'."
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
        # (`InvalidComputeNoKubernetesConfiguration`)
        raise CloudError(400, "InvalidComputeNoKubernetesConfiguration", message)
    if cluster["properties"].get("disableLocalAccounts"):
        workspace_id = compute_id.rsplit("/", 2)[0].lower()
        bound = [it for it in below if str(it.get("sourceResourceId")).lower() == workspace_id]
        if not any(role.lower() == _ROLE for it in bound for role in it["roles"]):
            message = (
                "The cluster's local accounts are disabled, and no trusted access binding gives this workspace "
                f"the role '{_ROLE}'. Create the trustedAccessRoleBinding before attaching the cluster."
            )
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md
            # (`ComputeNotAccessible`)
            raise CloudError(400, "ComputeNotAccessible", message)


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
    others = [found for found, _ in sandbox.store.below(f"{container_id}/versions")]
    versions = {found.rpartition("/")[2] for found in others} - {own} | ({added} if added else set())
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
        raise CloudError(400, "InvalidQuantity", f"'{text}' is no Kubernetes quantity such as 500m, 2 or 4Gi.")
    return float(match[1]) * _UNITS[match[2] or ""]
