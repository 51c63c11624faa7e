"""The Azure ML workspace: model registry, environments and the endpoint's control plane, with its own storage account.

The workspace's account is not hierarchical because Azure ML refuses that for its default account; models stay in the
lake, which is attached as a datastore without credentials. The datastore is of type blob storage, the only type from
which replicas on Kubernetes read models. Does not attach AKS: `inference.py` does. Has no compute for image builds. A
private workspace needs one only for environments with a build context or conda packages; here each environment is an
image that the registry has built.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-manage-environments-v2.md (Create an environment
from a Docker image); MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-workspace-vnet.md (image-build
compute)
"""

from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import machinelearningservices as ml
from pulumi_azure_native import storage

from infra.components.container_registry import ContainerRegistry
from infra.components.data_lake import DataLake
from infra.components.key_vault import KeyVault
from infra.components.protection import stateful
from infra.components.storage_account import storage_account
from infra.config.naming import Names
from infra.config.settings import Settings
from infra.monitoring.log_workspace import LogWorkspace

MODELS_DATASTORE = "lake_models"


@dataclass(frozen=True, kw_only=True)
class MachineLearningArgs:
    resource_group_name: pulumi.Input[str]
    workspace_name: str
    storage_account_name: str
    zone_redundant: bool
    key_vault_id: pulumi.Input[str]
    application_insights_id: pulumi.Input[str]
    container_registry_id: pulumi.Input[str]
    lake_account_name: pulumi.Input[str]
    models_container: pulumi.Input[str]
    private: bool
    protect: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        names: Names,
        vault: KeyVault,
        logs: LogWorkspace,
        registry: ContainerRegistry,
        lake: DataLake,
    ) -> Self:
        return cls(
            resource_group_name=resource_group_name,
            workspace_name=names.machine_learning_workspace,
            storage_account_name=names.machine_learning_storage,
            zone_redundant=settings.zone_redundant,
            key_vault_id=vault.vault_id,
            application_insights_id=logs.component_id,
            container_registry_id=registry.registry_id,
            lake_account_name=lake.account_name,
            models_container=lake.containers["models"],
            private=settings.network.is_private,
            protect=settings.production,
        )


class MachineLearning(pulumi.ComponentResource):
    workspace: ml.Workspace
    storage_account_id: pulumi.Output[str]
    workspace_id: pulumi.Output[str]
    workspace_name: pulumi.Output[str]
    workspace_uid: pulumi.Output[str]
    """Id that changes when the workspace is created again under its name.

    Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py (of `workspace_id`: "The
    immutable id associated with this workspace")
    """
    principal_id: pulumi.Output[str]
    models_datastore: pulumi.Output[str]

    def __init__(self, name: str, args: MachineLearningArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:registry:MachineLearning", name, None, opts)
        account = storage_account(
            f"{name}-storage",
            account_name=args.storage_account_name,
            resource_group_name=args.resource_group_name,
            zone_redundant=args.zone_redundant,
            hierarchical=False,
            private=args.private,
            opts=stateful(self, args.protect),
        )
        workspace = self._workspace(name, args, account)
        datastore = self._models_datastore(f"{name}-models", args, workspace)
        self.workspace = workspace
        self.storage_account_id = account.id
        self.workspace_id = workspace.id
        self.workspace_name = workspace.name
        self.workspace_uid = workspace.workspace_id
        self.principal_id = workspace.identity.principal_id
        self.models_datastore = datastore.name
        self.register_outputs({"workspace_id": self.workspace_id})

    def _workspace(self, name: str, args: MachineLearningArgs, account: storage.StorageAccount) -> ml.Workspace:
        """Declare the workspace, whose default storage is `account`."""
        access = ml.PublicNetworkAccessType
        return ml.Workspace(
            name,
            workspace_name=args.workspace_name,
            resource_group_name=args.resource_group_name,
            identity=ml.ManagedServiceIdentityArgs(type=ml.ManagedServiceIdentityType.SYSTEM_ASSIGNED),
            # Source: hashicorp/terraform-provider-azurerm
            # internal/services/machinelearning/machine_learning_workspace_resource.go (the only SKU)
            sku=ml.SkuArgs(name="Basic", tier=ml.SkuTier.BASIC),
            # Source: hashicorp/terraform-provider-azurerm
            # internal/services/machinelearning/machine_learning_workspace_resource.go (not a feature store)
            kind="Default",
            storage_account=account.id,
            key_vault=args.key_vault_id,
            application_insights=args.application_insights_id,
            container_registry=args.container_registry_id,
            public_network_access=access.DISABLED if args.private else access.ENABLED,
            # The account has no keys to fall back to.
            system_datastores_auth_mode=ml.SystemDatastoresAuthMode.IDENTITY,
            v1_legacy_mode=False,
            hbi_workspace=False,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )

    def _models_datastore(self, name: str, args: MachineLearningArgs, workspace: ml.Workspace) -> ml.Datastore:
        """Attach the lake's models container to the workspace, without credentials."""
        return ml.Datastore(
            name,
            name=MODELS_DATASTORE,
            workspace_name=workspace.name,
            resource_group_name=args.resource_group_name,
            # Source: Azure/AML-Kubernetes docs/faq.md ("only support Azure blob container")
            properties=ml.AzureBlobDatastoreArgs(
                # Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py
                # (`AzureBlobDatastore`)
                datastore_type="AzureBlob",
                account_name=args.lake_account_name,
                container_name=args.models_container,
                # Source: azure-ai-ml==1.35.2 azure/ai/ml/_restclient/arm_ml_service/models/_models.py
                # (`NoneDatastoreCredentials`)
                credentials=ml.NoneDatastoreCredentialsArgs(credentials_type="None"),
                service_data_access_auth_identity=ml.ServiceDataAccessAuthIdentity.WORKSPACE_SYSTEM_ASSIGNED_IDENTITY,
                description="Model artefacts in the lake, read by identity.",
            ),
            skip_validation=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
