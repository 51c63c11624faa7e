"""The data lake: one hierarchical storage account that holds raw data, feature tables and model artefacts.

Does not create Azure ML's own storage account: Azure ML refuses hierarchical namespaces for its default account.
Does not grant anyone access: `access.py` owns the role assignments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import storage

from infra.components.protection import stateful
from infra.components.storage_account import storage_account
from infra.config.naming import Names
from infra.config.settings import Settings

# `catalog` holds the data that Unity Catalog manages itself; it must not overlap the volumes of the other three.
CONTAINERS = ("raw", "features", "models", "catalog")


@dataclass(frozen=True, kw_only=True)
class DataLakeArgs:
    resource_group_name: pulumi.Input[str]
    account_name: str
    zone_redundant: bool
    private: bool
    containers: Sequence[str] = CONTAINERS
    protect: bool = False

    @classmethod
    def of(cls, settings: Settings, resource_group_name: pulumi.Input[str], names: Names) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            account_name=names.lake,
            zone_redundant=settings.zone_redundant,
            private=settings.network.is_private,
            protect=settings.production,
        )


class DataLake(pulumi.ComponentResource):
    account_id: pulumi.Output[str]
    account_name: pulumi.Output[str]
    blob_endpoint: pulumi.Output[str]
    lake_uid: pulumi.Output[str]
    """Time of the account's creation: an account that is created again under its name is empty.

    Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/models/_models.py (StorageAccountProperties.creation_time)
    """
    dfs_endpoint: pulumi.Output[str]
    """`https://…/`, as Azure reports it: domain suffixes differ between clouds."""
    containers: dict[str, pulumi.Output[str]]
    """Names by purpose. A resource that uses one depends on the container."""

    def __init__(self, name: str, args: DataLakeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:data:DataLake", name, None, opts)

        account = storage_account(
            name,
            account_name=args.account_name,
            resource_group_name=args.resource_group_name,
            zone_redundant=args.zone_redundant,
            hierarchical=True,
            private=args.private,
            opts=stateful(self, args.protect),
        )
        storage.BlobServiceProperties(
            name,
            account_name=account.name,
            # Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/operations/_operations.py (`blobServices/default`)
            blob_services_name="default",
            resource_group_name=args.resource_group_name,
            delete_retention_policy={"enabled": True, "days": 14},
            container_delete_retention_policy={"enabled": True, "days": 14},
            opts=pulumi.ResourceOptions(parent=account),
        )
        self.containers = {
            container: storage.BlobContainer(
                f"{name}-{container}",
                account_name=account.name,
                container_name=container,
                public_access=storage.PublicAccess.NONE,
                resource_group_name=args.resource_group_name,
                opts=stateful(account, args.protect),
            ).name
            for container in args.containers
        }

        self.account_id = account.id
        self.account_name = account.name
        self.blob_endpoint = account.primary_endpoints.blob
        self.dfs_endpoint = account.primary_endpoints.dfs
        self.lake_uid = account.creation_time
        self.register_outputs({"account_id": self.account_id, "dfs_endpoint": self.dfs_endpoint})

    def container_id(self, container: str) -> pulumi.Output[str]:
        return pulumi.Output.format(
            "{0}/blobServices/default/containers/{1}", self.account_id, self.containers[container]
        )

    def location_of(self, container: str) -> pulumi.Output[str]:
        """URL `abfss://<container>@<host of the dfs endpoint>/`, the form for Spark and Unity Catalog."""
        return pulumi.Output.all(self.containers[container], self.dfs_endpoint).apply(
            lambda known: f"abfss://{known[0]}@{known[1].split('://', 1)[1].rstrip('/')}/"
        )
