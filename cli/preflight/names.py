"""Names: available in Azure, not reserved by a soft-deleted resource, and not used by a leftover group.

A resource of this stack with the name is not a conflict.
"""

from collections.abc import Iterator
from functools import partial

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import Anything, Deleted, NameAnswer
from cli.preflight.check import Check, Finding, Level, Target
from infra.cloud import azure_cli

_VAULT, _WORKSPACE = "Microsoft.KeyVault/vaults", "Microsoft.MachineLearningServices/workspaces"
_DATABRICKS, _CLUSTER = "Microsoft.Databricks/workspaces", "Microsoft.ContainerService/managedClusters"
_STORAGE, _REGISTRY = "Microsoft.Storage/storageAccounts", "Microsoft.ContainerRegistry/registries"
# Source: Azure/bicep-types-az generated/storage/microsoft.storage/2024-01-01/types.json;
# Azure/bicep-types-az generated/keyvault/microsoft.keyvault/2024-11-01/types.json;
# Azure/bicep-types-az generated/containerregistry_0/microsoft.containerregistry/2023-07-01/types.json;
# Azure/bicep-types-az generated/machinelearningservices/microsoft.machinelearningservices/2025-09-01/types.json;
# Azure/bicep-types-az generated/databricks/microsoft.databricks/2024-05-01/types.json;
# Azure/bicep-types-az generated/containerservice_1/microsoft.containerservice/2025-09-01/types.json
_VERSIONS = {
    _STORAGE: "2024-01-01",
    _VAULT: "2024-11-01",
    _REGISTRY: "2023-07-01",
    _WORKSPACE: "2025-09-01",
    _DATABRICKS: "2024-05-01",
    _CLUSTER: "2025-09-01",
}
# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
_GROUPS = "2021-04-01"


def checks(target: Target) -> Iterator[Check]:
    names = target.names
    unique = [
        (_STORAGE, names.lake),
        (_STORAGE, names.machine_learning_storage),
        (_VAULT, names.key_vault),
        (_REGISTRY, names.container_registry),
    ]
    for kind, name in unique:
        yield Check("names", name, partial(_unique, target, kind, name))
    yield Check(
        "soft-deleted", names.machine_learning_workspace, partial(_workspace, target, names.machine_learning_workspace)
    )
    for group, kind, owner in (
        (names.databricks_managed_group, _DATABRICKS, names.databricks_workspace),
        (names.kubernetes_node_group, _CLUSTER, names.kubernetes_cluster),
    ):
        yield Check("names", group, partial(_group, target, group, kind, owner))


def _unique(target: Target, kind: str, name: str) -> Iterator[Finding]:
    path = f"{target.scope}/providers/{kind.partition('/')[0]}/checkNameAvailability"
    answer = target.arm.post(NameAnswer, path, _VERSIONS[kind], {"name": name, "type": kind})
    if answer.name_available or _exists(target, kind, name):
        yield Finding("names", Level.OK, name)
        return
    if kind == _VAULT and (deleted := _deleted(target, kind, "deletedVaults", name)):
        yield _vault(target, deleted)
        return
    yield Finding(
        "names",
        Level.BLOCKING,
        f"{kind} {name}: {answer.message or answer.reason or 'not available'}",
        _renamed(target),
    )


def _vault(target: Target, deleted: Deleted) -> Finding:
    name, state = deleted.name, deleted.properties
    location = state.location or target.settings.location
    recover = f"az keyvault recover --name {name} --location {location}\n"
    recover += f"pulumi import --stack {target.stack} azure-native:keyvault:Vault vault {target.resource(_VAULT, name)}"
    message = f"key vault {name} is soft-deleted and keeps its name"
    if state.purge_protection_enabled:
        until = f" until {state.scheduled_purge_date}" if state.scheduled_purge_date else ""
        message += f"; purge protection forbids purging it{until}"
        return Finding("soft-deleted", Level.BLOCKING, message, f"{recover}\n{_renamed(target)}")
    return Finding(
        "soft-deleted", Level.BLOCKING, message, f"az keyvault purge --name {name} --location {location}\n{recover}"
    )


def _workspace(target: Target, name: str) -> Iterator[Finding]:
    remedy = f"{azure_cli.purge_workspace(target.resource(_WORKSPACE, name))}\n{_renamed(target)}"
    if _exists(target, _WORKSPACE, name):
        yield Finding("soft-deleted", Level.OK, name)
        return
    try:
        deleted = _deleted(target, _WORKSPACE, "deletedWorkspaces", name)
    except NotAnswered as error:
        if error.status not in (400, 404):
            raise
        # No documented API lists them in every region; the portal does, under "Recently deleted".
        message = f"Azure does not list soft-deleted Azure ML workspaces here; `up` fails if {name} is one of them"
        yield Finding("soft-deleted", Level.WARNING, message, remedy)
        return
    if deleted:
        message = f"Azure ML workspace {name} is soft-deleted and keeps its name for 14 days"
        yield Finding("soft-deleted", Level.BLOCKING, message, remedy)
    else:
        yield Finding("soft-deleted", Level.OK, f"none under {name}")


def _group(target: Target, group: str, kind: str, owner: str) -> Iterator[Finding]:
    """Check a group that the service creates itself: it refuses a group that exists before its resource."""
    if _exists_at(target, f"{target.scope}/resourceGroups/{group}", _GROUPS) and not _exists(target, kind, owner):
        message = f"resource group {group} exists without {owner}, which must create it"
        yield Finding("names", Level.BLOCKING, message, f"az group delete --name {group}")
    else:
        yield Finding("names", Level.OK, group)


def _deleted(target: Target, kind: str, collection: str, name: str) -> Deleted | None:
    path = f"{target.scope}/providers/{kind.partition('/')[0]}/{collection}"
    listed = target.arm.list(Deleted, path, _VERSIONS[kind])
    return next((deleted for deleted in listed if deleted.name.lower() == name.lower()), None)


def _exists(target: Target, kind: str, name: str) -> bool:
    return _exists_at(target, target.resource(kind, name), _VERSIONS[kind])


def _exists_at(target: Target, resource_id: str, version: str) -> bool:
    return target.arm.get(Anything, resource_id, version) is not None


def _renamed(target: Target) -> str:
    return target.set("generation", target.settings.generation + 1)
