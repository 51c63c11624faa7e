"""Models of Azure's clients, by the answer of ARM that they read.

A list's items have the model of their type, unless `ITEMS` has another. Types without a model in an installed client
are in `WITHOUT_MODEL`, with the reason.
"""

import re
from collections.abc import Iterator
from typing import Any

from testing.arm.answers import Exchange
from testing.arm.models import faults_of_answer

_LEARNING = "azure.ai.ml._restclient.arm_ml_service.models"
_STORAGE, _RESOURCES = "azure.mgmt.storage.models", "azure.mgmt.resource.resources.models"
_ROLES, _TASKS = "azure.mgmt.authorization.v2022_04_01.models", "azure.mgmt.containerregistrytasks.models"
_CONTAINERS, _NETWORK = "azure.mgmt.containerservice.models", "azure.mgmt.network.models"
_ML = "Microsoft.MachineLearningServices/workspaces"
_AKS = "Microsoft.ContainerService/managedClusters"
_ACCOUNT = "Microsoft.Storage/storageAccounts"

RESOURCES = {
    "Microsoft.Authorization/roleAssignments": f"{_ROLES}:RoleAssignment",
    "Microsoft.Authorization/roleDefinitions": f"{_ROLES}:RoleDefinition",
    "Microsoft.Consumption/budgets": "azure.mgmt.consumption.models:Budget",
    "Microsoft.ContainerRegistry/registries": "azure.mgmt.containerregistry.models:Registry",
    "Microsoft.ContainerRegistry/registries/agentPools": f"{_TASKS}:AgentPool",
    "Microsoft.ContainerRegistry/registries/runs": f"{_TASKS}:Run",
    "Microsoft.Compute/virtualMachineScaleSets": "azure.mgmt.compute.models:VirtualMachineScaleSet",
    _AKS: f"{_CONTAINERS}:ManagedCluster",
    f"{_AKS}/agentPools": f"{_CONTAINERS}:AgentPool",
    f"{_AKS}/maintenanceConfigurations": f"{_CONTAINERS}:MaintenanceConfiguration",
    f"{_AKS}/trustedAccessRoleBindings": f"{_CONTAINERS}:TrustedAccessRoleBinding",
    "Microsoft.Databricks/accessConnectors": "azure.mgmt.databricks.models:AccessConnector",
    "Microsoft.Databricks/workspaces": "azure.mgmt.databricks.models:Workspace",
    "Microsoft.Insights/actionGroups": "azure.mgmt.monitor.models:ActionGroupResource",
    "Microsoft.Insights/components": "azure.mgmt.applicationinsights.v2020_02_02.models:ApplicationInsightsComponent",
    "Microsoft.Insights/dataCollectionRuleAssociations": "azure.mgmt.monitor.models:"
    "DataCollectionRuleAssociationProxyOnlyResource",
    "Microsoft.Insights/dataCollectionRules": "azure.mgmt.monitor.models:DataCollectionRuleResource",
    "Microsoft.Insights/metricAlerts": "azure.mgmt.monitor.models:MetricAlertResource",
    "Microsoft.Insights/scheduledQueryRules": "azure.mgmt.monitor.models:ScheduledQueryRuleResource",
    "Microsoft.Insights/workbooks": "azure.mgmt.applicationinsights.v2023_06_01.models:Workbook",
    "Microsoft.KeyVault/deletedVaults": "azure.mgmt.keyvault.models:DeletedVault",
    "Microsoft.KeyVault/vaults": "azure.mgmt.keyvault.models:Vault",
    "Microsoft.KubernetesConfiguration/extensions": "azure.mgmt.kubernetesconfiguration.v2023_05_01.models:Extension",
    _ML: f"{_LEARNING}:Workspace",
    f"{_ML}/computes": f"{_LEARNING}:ComputeResource",
    f"{_ML}/datastores": f"{_LEARNING}:Datastore",
    f"{_ML}/environments": f"{_LEARNING}:EnvironmentContainer",
    f"{_ML}/environments/versions": f"{_LEARNING}:EnvironmentVersion",
    f"{_ML}/models": f"{_LEARNING}:ModelContainer",
    f"{_ML}/models/versions": f"{_LEARNING}:ModelVersion",
    f"{_ML}/onlineEndpoints": f"{_LEARNING}:OnlineEndpoint",
    f"{_ML}/onlineEndpoints/deployments": f"{_LEARNING}:OnlineDeployment",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "azure.mgmt.msi.v2024_11_30.models:Identity",
    "Microsoft.Network/natGateways": f"{_NETWORK}:NatGateway",
    "Microsoft.Network/networkSecurityGroups": f"{_NETWORK}:NetworkSecurityGroup",
    "Microsoft.Network/privateDnsZones": "azure.mgmt.privatedns.models:PrivateZone",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "azure.mgmt.privatedns.models:VirtualNetworkLink",
    "Microsoft.Network/privateEndpoints": f"{_NETWORK}:PrivateEndpoint",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": f"{_NETWORK}:PrivateDnsZoneGroup",
    "Microsoft.Network/publicIPAddresses": f"{_NETWORK}:PublicIPAddress",
    "Microsoft.Network/virtualNetworks": f"{_NETWORK}:VirtualNetwork",
    "Microsoft.Network/virtualNetworks/subnets": f"{_NETWORK}:Subnet",
    "Microsoft.OperationalInsights/workspaces": "azure.mgmt.loganalytics.models:Workspace",
    "Microsoft.OperationalInsights/workspaces/tables": "azure.mgmt.loganalytics.models:Table",
    "Microsoft.Resources/resourceGroups": f"{_RESOURCES}:ResourceGroup",
    "Microsoft.Resources/tags": f"{_RESOURCES}:TagsResource",
    _ACCOUNT: f"{_STORAGE}:StorageAccount",
    f"{_ACCOUNT}/blobServices": f"{_STORAGE}:BlobServiceProperties",
    f"{_ACCOUNT}/blobServices/containers": f"{_STORAGE}:BlobContainer",
}
ITEMS = {
    f"{_ACCOUNT}/blobServices/containers": f"{_STORAGE}:ListContainerItem",
    "Microsoft.Authorization/permissions": f"{_ROLES}:Permission",
    "Microsoft.Compute/locations/usages": "azure.mgmt.compute.models:Usage",
    "Microsoft.Compute/skus": "azure.mgmt.compute.models:ResourceSku",
}
ACTIONS = {
    f"{_ACCOUNT}/listKeys": f"{_STORAGE}:StorageAccountListKeysResult",
    f"{_AKS}/listClusterUserCredential": f"{_CONTAINERS}:CredentialResults",
    f"{_AKS}/listClusterAdminCredential": f"{_CONTAINERS}:CredentialResults",
    "Microsoft.ContainerRegistry/registries/listBuildSourceUploadUrl": f"{_TASKS}:SourceUploadDefinition",
    "Microsoft.ContainerRegistry/registries/scheduleRun": f"{_TASKS}:Run",
    "Microsoft.ContainerRegistry/registries/runs/listLogSasUrl": f"{_TASKS}:RunGetLogResult",
    f"{_ML}/onlineEndpoints/listKeys": f"{_LEARNING}:EndpointAuthKeys",
    f"{_ML}/onlineEndpoints/regenerateKeys": "",
    f"{_ML}/onlineEndpoints/token": f"{_LEARNING}:EndpointAuthToken",
    f"{_ML}/onlineEndpoints/deployments/getLogs": f"{_LEARNING}:DeploymentLogs",
    "Microsoft.KeyVault/locations/deletedVaults/purge": "",
    "Microsoft.Storage/checkNameAvailability": f"{_STORAGE}:CheckNameAvailabilityResult",
    "Microsoft.ContainerRegistry/checkNameAvailability": "azure.mgmt.containerregistry.models:RegistryNameStatus",
    "Microsoft.KeyVault/checkNameAvailability": "azure.mgmt.keyvault.models:CheckNameAvailabilityResult",
    "Microsoft.Storage/register": f"{_RESOURCES}:Provider",
}
"""Name of the model; empty for an action without an answer."""
WITHOUT_MODEL = {
    "Microsoft.Insights/diagnosticSettings": "azure-mgmt-monitor 7.0.0 (2025-07) dropped them",
    "Microsoft.Resources/subscriptions": "azure-mgmt-resource moved them to a separate package",
    "Microsoft.Resources/locations": "azure-mgmt-resource moved them to a separate package",
}
OPERATION = "azure.mgmt.kubernetesconfiguration.v2023_05_01.models:OperationStatusResult"
ERROR = "azure.mgmt.kubernetesconfiguration.v2023_05_01.models:ErrorResponse"


def subject(exchange: Exchange) -> str:
    """Resource type of the answer, with `/<action>` for an action; `operation` for an operation's status."""
    path = exchange.path.rstrip("/")
    if re.search(r"/Microsoft\.Resources/operations/[^/]+$", path):
        return "operation"
    if "/providers/" not in path or re.fullmatch(r"(/subscriptions/[^/]+)?/providers(/[^/]+)?(/register)?", path):
        return _of_subscription(path)
    namespace, *rest = path.rpartition("/providers/")[2].split("/")
    types = rest[::2]
    if exchange.method == "POST":
        types = [*rest[:-1:2], rest[-1]]
    return "/".join([namespace, *types])


def _of_subscription(path: str) -> str:
    parts = path.strip("/").split("/")
    if parts[-1] == "register":
        return f"{parts[-2]}/register"
    if len(parts) > 2 and parts[2].lower() == "providers":
        return "Microsoft.Resources/providers"
    if parts[-1] in ("locations", "resources"):
        return f"Microsoft.Resources/{parts[-1]}"
    return "Microsoft.Resources/resourceGroups" if len(parts) > 2 else "Microsoft.Resources/subscriptions"


def is_list(exchange: Exchange) -> bool:
    return exchange.method == "GET" and isinstance(exchange.answer, dict) and "value" in exchange.answer


def model_of(exchange: Exchange) -> str:
    """The models of an answer. Raises `KeyError` for an answer without a model."""
    about = subject(exchange)
    if exchange.status >= 400:
        return ERROR
    if about == "operation":
        return OPERATION
    if exchange.method == "POST":
        return ACTIONS[about]
    if about == "Microsoft.Resources/providers":
        return f"{_RESOURCES}:Provider"
    if about == "Microsoft.Resources/resources":
        return f"{_RESOURCES}:GenericResourceExpanded"
    return (ITEMS.get(about) if is_list(exchange) else None) or RESOURCES[about]


def faults(exchange: Exchange) -> Iterator[str]:
    if subject(exchange) in WITHOUT_MODEL and exchange.status < 400:
        return
    if exchange.answer is None:
        # No content, the end of a deletion, or no result yet.
        if exchange.status not in (200, 202, 204):
            yield f"{exchange.status} has no body"
        return
    model = model_of(exchange)
    if not model:
        yield "an answer where there is none"
    elif is_list(exchange):
        if unknown := exchange.answer.keys() - {"value", "nextLink"}:
            yield f"{', '.join(sorted(unknown))}: not of a list"
        for item in exchange.answer["value"]:
            yield from (f"value[].{fault}" for fault in faults_of_answer(model, item))
    else:
        yield from faults_of_answer(model, exchange.answer)


def items(exchange: Exchange) -> list[Any]:
    """The resources in an answer."""
    if is_list(exchange):
        resources: list[Any] = exchange.answer["value"]
        return resources
    return [exchange.answer]
