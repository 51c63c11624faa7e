"""The Azure ML workspace: model registry, environments and the endpoint's control plane, with its own storage account.

The workspace's account is not hierarchical because Azure ML refuses that for its default account; models stay in the
lake, which is attached as a datastore without credentials. Does not create compute: `inference.py` attaches AKS.
"""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import machinelearningservices as ml
from pulumi_azure_native import storage

MODELS_DATASTORE = "lake_models"


@dataclass(frozen=True)
class MachineLearningArgs:
    resource_group_name: pulumi.Input[str]
    workspace_name: str
    storage_account_name: str
    storage_redundancy: str
    key_vault_id: pulumi.Input[str]
    application_insights_id: pulumi.Input[str]
    container_registry_id: pulumi.Input[str]
    lake_account_name: pulumi.Input[str]
    models_container: pulumi.Input[str]
    protect: bool = False


class MachineLearning(pulumi.ComponentResource):
    workspace_id: pulumi.Output[str]
    workspace_name: pulumi.Output[str]
    principal_id: pulumi.Output[str]
    models_datastore: pulumi.Output[str]

    def __init__(self, name: str, args: MachineLearningArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:registry:MachineLearning", name, None, opts)
        kept = pulumi.ResourceOptions(parent=self, protect=args.protect)

        account = storage.StorageAccount(
            f"{name}-storage",
            account_name=args.storage_account_name,
            resource_group_name=args.resource_group_name,
            kind=storage.Kind.STORAGE_V2,
            sku={"name": args.storage_redundancy},
            access_tier=storage.AccessTier.HOT,
            is_hns_enabled=False,
            allow_shared_key_access=False,
            default_to_o_auth_authentication=True,
            allow_blob_public_access=False,
            allow_cross_tenant_replication=False,
            minimum_tls_version=storage.MinimumTlsVersion.TLS1_2,
            enable_https_traffic_only=True,
            public_network_access=storage.PublicNetworkAccess.ENABLED,
            opts=kept,
        )
        workspace = ml.Workspace(
            name,
            workspace_name=args.workspace_name,
            resource_group_name=args.resource_group_name,
            identity=ml.ManagedServiceIdentityArgs(type=ml.ManagedServiceIdentityType.SYSTEM_ASSIGNED),
            sku=ml.SkuArgs(name="Basic", tier=ml.SkuTier.BASIC),
            kind="Default",
            storage_account=account.id,
            key_vault=args.key_vault_id,
            application_insights=args.application_insights_id,
            container_registry=args.container_registry_id,
            public_network_access=ml.PublicNetworkAccessType.ENABLED,
            # The account has no keys to fall back to.
            system_datastores_auth_mode=ml.SystemDatastoresAuthMode.IDENTITY,
            v1_legacy_mode=False,
            hbi_workspace=False,
            opts=kept,
        )
        datastore = ml.Datastore(
            f"{name}-models",
            name=MODELS_DATASTORE,
            workspace_name=workspace.name,
            resource_group_name=args.resource_group_name,
            properties=ml.AzureDataLakeGen2DatastoreArgs(
                datastore_type="AzureDataLakeGen2",
                account_name=args.lake_account_name,
                filesystem=args.models_container,
                credentials=ml.NoneDatastoreCredentialsArgs(credentials_type="None"),
                service_data_access_auth_identity=ml.ServiceDataAccessAuthIdentity.WORKSPACE_SYSTEM_ASSIGNED_IDENTITY,
                description="Model artefacts in the lake, read by identity.",
            ),
            skip_validation=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.workspace_id = workspace.id
        self.workspace_name = workspace.name
        self.principal_id = workspace.identity.principal_id
        self.models_datastore = datastore.name
        self.register_outputs({"workspace_id": self.workspace_id})
