"""Every request fits the model of Azure's client for its type: keys, required fields, types of values, enums."""

from typing import Any

import pytest

from testing.arm.bodies import Put, puts, require_no_faults
from testing.arm.models import faults

__all__ = ["puts"]

pytestmark = pytest.mark.stack

_LEARNING = "azure.ai.ml._restclient.arm_ml_service.models"
MODELS = {
    "Microsoft.Authorization/roleAssignments": "azure.mgmt.authorization.v2022_04_01.models:"
    "RoleAssignmentCreateParameters",
    "Microsoft.Compute/virtualMachineScaleSets": "azure.mgmt.compute.models:VirtualMachineScaleSet",
    "Microsoft.Consumption/budgets": "azure.mgmt.consumption.models:Budget",
    "Microsoft.ContainerRegistry/registries": "azure.mgmt.containerregistry.models:Registry",
    "Microsoft.ContainerRegistry/registries/agentPools": "azure.mgmt.containerregistrytasks.models:AgentPool",
    "Microsoft.ContainerService/managedClusters": "azure.mgmt.containerservice.models:ManagedCluster",
    "Microsoft.ContainerService/managedClusters/agentPools": "azure.mgmt.containerservice.models:AgentPool",
    "Microsoft.ContainerService/managedClusters/maintenanceConfigurations": "azure.mgmt.containerservice.models:"
    "MaintenanceConfiguration",
    "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings": "azure.mgmt.containerservice.models:"
    "TrustedAccessRoleBinding",
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
    "Microsoft.KeyVault/vaults": "azure.mgmt.keyvault.models:VaultCreateOrUpdateParameters",
    "Microsoft.KubernetesConfiguration/extensions": "azure.mgmt.kubernetesconfiguration.v2023_05_01.models:Extension",
    "Microsoft.MachineLearningServices/workspaces": f"{_LEARNING}:Workspace",
    "Microsoft.MachineLearningServices/workspaces/computes": f"{_LEARNING}:ComputeResource",
    "Microsoft.MachineLearningServices/workspaces/datastores": f"{_LEARNING}:Datastore",
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints": f"{_LEARNING}:OnlineEndpoint",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "azure.mgmt.msi.v2024_11_30.models:Identity",
    "Microsoft.Network/natGateways": "azure.mgmt.network.models:NatGateway",
    "Microsoft.Network/networkSecurityGroups": "azure.mgmt.network.models:NetworkSecurityGroup",
    "Microsoft.Network/privateDnsZones": "azure.mgmt.privatedns.models:PrivateZone",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "azure.mgmt.privatedns.models:VirtualNetworkLink",
    "Microsoft.Network/privateEndpoints": "azure.mgmt.network.models:PrivateEndpoint",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "azure.mgmt.network.models:PrivateDnsZoneGroup",
    "Microsoft.Network/publicIPAddresses": "azure.mgmt.network.models:PublicIPAddress",
    "Microsoft.Network/virtualNetworks": "azure.mgmt.network.models:VirtualNetwork",
    "Microsoft.OperationalInsights/workspaces": "azure.mgmt.loganalytics.models:Workspace",
    "Microsoft.OperationalInsights/workspaces/tables": "azure.mgmt.loganalytics.models:Table",
    "Microsoft.Resources/resourceGroups": "azure.mgmt.resource.resources.models:ResourceGroup",
    "Microsoft.Storage/storageAccounts": "azure.mgmt.storage.models:StorageAccountCreateParameters",
    "Microsoft.Storage/storageAccounts/blobServices": "azure.mgmt.storage.models:BlobServiceProperties",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "azure.mgmt.storage.models:BlobContainer",
}
# azure-mgmt-monitor 7.0.0 (2025-07) dropped them; test_arm_bodies_examples.py checks them by the REST specification.
WITHOUT_MODEL = {"Microsoft.Insights/diagnosticSettings"}


def test_every_sent_type_has_a_model(puts: list[Put]) -> None:
    assert {put.type for put in puts} == MODELS.keys() | WITHOUT_MODEL


def test_every_request_fits_the_model_of_azures_client(puts: list[Put]) -> None:
    judged = [put for put in puts if put.type in MODELS]
    require_no_faults(lambda put: faults(MODELS[put.type], put.body), judged)


@pytest.mark.parametrize(
    ("resource_type", "body", "fault"),
    [
        # of the first generation of models
        ("Microsoft.Insights/actionGroups", {"properties": {}}, "location: is missing"),
        ("Microsoft.Insights/actionGroups", {"identity": "me"}, "identity: is not known"),
        ("Microsoft.Insights/actionGroups", {"properties": {"enabled": "yes"}}, "enabled: 'yes' is not of type bool"),
        ("Microsoft.Insights/actionGroups", {"id": "/a"}, "id: is read-only"),
        (
            "Microsoft.Insights/metricAlerts",
            {"properties": {"criteria": {"odataType": "x"}}},
            ".criteria.odata.type: None",
        ),
        # of the second
        ("Microsoft.Network/privateEndpoints", {"properties": {"subnet": {"name": 1}}}, "name: 1 is not of type str"),
        ("Microsoft.Storage/storageAccounts", {"sku": {"name": "ZRS"}}, "sku.name: 'ZRS' is none of"),
        ("Microsoft.Storage/storageAccounts", {"sku": {}}, "sku.name: is missing"),
        ("Microsoft.Storage/storageAccounts", {"sku": {"tier": "Standard"}}, "sku.tier: is read-only"),
        (
            "Microsoft.MachineLearningServices/workspaces/computes",
            {"properties": {"computeType": "K8s"}},
            "'K8s' is none of",
        ),
    ],
)
def test_each_kind_of_fault_in_a_request_is_found(resource_type: str, body: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in faults(MODELS[resource_type], body))
