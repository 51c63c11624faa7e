"""Leftovers of a destroyed stack, from its state: resources that keep a name, and data that cannot be restored.

Does not look for resources in Azure that are not in the state; `teardown.py` does.
"""

from collections.abc import Iterator, Sequence

from cli.stacks.state import Resource

VAULT, WORKSPACE, GROUP = "keyvault:Vault", "machinelearningservices:Workspace", "resources:ResourceGroup"


def own_groups(resources: Sequence[Resource]) -> list[str]:
    """Return the ids of the resource groups that the stack itself created."""
    return [resource.id for resource in resources if resource.kind == GROUP]


def managed_groups(resource: Resource) -> Iterator[str]:
    """Yield the ids of the resource groups that Databricks or AKS created for this resource, and will delete."""
    if managed := resource.outputs.get("managedResourceGroupId"):
        yield managed
    if nodes := resource.outputs.get("nodeResourceGroup"):
        yield "/".join((*resource.id.split("/")[:3], "resourceGroups", nodes))


def within(resource_id: str, groups: Sequence[str]) -> bool:
    """Return whether the resource is one of `groups` or below one of them."""
    return any(f"{resource_id}/".lower().startswith(f"{group}/".lower()) for group in groups)


def remains(resources: Sequence[Resource]) -> Iterator[str]:
    """Yield one line for the user per leftover, in the order of the state."""
    groups = own_groups(resources)
    for resource in resources:
        outputs, name = resource.outputs, resource.name
        if resource.kind == VAULT:
            properties = outputs.get("properties") or {}
            days = properties.get("softDeleteRetentionInDays") or 90
            protected = properties.get("enablePurgeProtection")
            remedy = "purge protection forbids purging it earlier" if protected else "--purge deletes it at once"
            yield f"key vault {name} is soft-deleted and keeps its name for {days:.0f} days; {remedy}"
        elif resource.kind == WORKSPACE:
            kept = f"Azure ML workspace {name} is soft-deleted and keeps its name for 14 days"
            yield f"{kept}; --purge deletes it at once"
            yield f"model versions of {name} are lost: they cannot be restored without its storage account"
        elif resource.kind == "operationalinsights:Workspace":
            yield f"logs in {name} are kept for 14 days: create it again in the same group to restore them"
        elif resource.kind == "storage:BlobServiceProperties":
            days = (outputs.get("deleteRetentionPolicy") or {}).get("days") or 0
            account = resource.id.split("/")[8]
            yield f"blobs in {account} are deleted at once: their {days:.0f} days of soft delete end with the account"
        elif resource.retained and not within(resource.id, groups):
            yield f"{resource.id} is retained and not in a group of the stack: it stays and continues to cost money"
        for managed in managed_groups(resource):
            yield f"resource group {managed.rpartition('/')[2]} is managed by Azure: it is deleted together with {name}"
