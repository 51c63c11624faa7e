"""What a stack leaves behind when it is destroyed, read from its state: what keeps a name, and what nobody gets back.

Says nothing of what stands in Azure without being in the state; `teardown.py` asks Azure for that.
"""

from collections.abc import Iterator, Sequence

from cli.stacks.state import Resource

VAULT, WORKSPACE, GROUP = "keyvault:Vault", "machinelearningservices:Workspace", "resources:ResourceGroup"


def own_groups(standing: Sequence[Resource]) -> list[str]:
    return [resource.id for resource in standing if resource.kind == GROUP]


def managed_groups(resource: Resource) -> Iterator[str]:
    """Ids of the resource groups that Databricks and AKS make for themselves, and delete."""
    if managed := resource.outputs.get("managedResourceGroupId"):
        yield managed
    if nodes := resource.outputs.get("nodeResourceGroup"):
        yield "/".join((*resource.id.split("/")[:3], "resourceGroups", nodes))


def within(resource_id: str, groups: Sequence[str]) -> bool:
    return any(f"{resource_id}/".lower().startswith(f"{group}/".lower()) for group in groups)


def remains(standing: Sequence[Resource]) -> Iterator[str]:
    """Lines for people, in the order of the state."""
    groups = own_groups(standing)
    for resource in standing:
        found, name = resource.outputs, resource.name
        if resource.kind == VAULT:
            kept = found.get("properties") or {}
            days = kept.get("softDeleteRetentionInDays") or 90
            ends = "purge protection: nobody ends that" if kept.get("enablePurgeProtection") else "--purge ends that"
            yield f"key vault {name} is kept for {days:.0f} days, and its name with it; {ends}"
        elif resource.kind == WORKSPACE:
            yield f"Azure ML workspace {name} is kept for 14 days, and its name with it; --purge ends that"
            yield f"model versions of {name} go with it: without its storage account nobody restores them"
        elif resource.kind == "operationalinsights:Workspace":
            yield f"logs in {name} are kept for 14 days; who makes it again in the same group has them back"
        elif resource.kind == "storage:BlobServiceProperties":
            days = (found.get("deleteRetentionPolicy") or {}).get("days") or 0
            account = resource.id.split("/")[8]
            yield f"blobs in {account} are gone at once: their {days:.0f} days of soft delete end with the account"
        elif resource.retained and not within(resource.id, groups):
            yield f"{resource.id} is retained and in no group of the stack: it stays and goes on costing"
        for managed in managed_groups(resource):
            yield f"resource group {managed.rpartition('/')[2]} is Azure's own: it goes with {name}"
