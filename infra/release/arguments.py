"""Arguments of a release, passed to each of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import pulumi

from infra.components.container_registry import ContainerRegistry
from infra.components.data_lake import DataLake
from infra.components.databricks import Databricks
from infra.components.inference import Inference
from infra.components.ml_workspace import MachineLearning
from infra.config.naming import Names
from infra.config.settings import Settings
from infra.dynamic.ownership import FOLDER

MODEL = "click-probability"


class WorkspaceArgs(TypedDict):
    workspace_url: pulumi.Input[str]
    workspace_id: pulumi.Input[str]
    workspace_uid: pulumi.Input[str]


class ModelRegistryArgs(TypedDict):
    workspace_id: pulumi.Input[str]
    workspace_uid: pulumi.Input[str]


class ModelsArgs(TypedDict):
    blob_endpoint: pulumi.Input[str]
    models_container: pulumi.Input[str]


class LakeArgs(TypedDict):
    lake_id: pulumi.Input[str]
    lake_uid: pulumi.Input[str]


@dataclass(frozen=True)
class ReleaseArgs:
    settings: Settings
    names: Names
    lake: DataLake
    registry: ContainerRegistry
    databricks: Databricks
    machine_learning: MachineLearning
    inference: Inference
    ready: Sequence[pulumi.Resource]
    """Dependencies of all resources of a release: role assignments, private endpoints with their names, node pool."""

    @property
    def workspace(self) -> WorkspaceArgs:
        """The Databricks workspace, as inputs of every resource in it."""
        return {
            "workspace_url": self.databricks.workspace_url,
            "workspace_id": self.databricks.workspace_id,
            "workspace_uid": self.databricks.workspace_uid,
        }

    @property
    def model_registry(self) -> ModelRegistryArgs:
        """The Azure ML workspace, as inputs of every resource in it."""
        return {
            "workspace_id": self.machine_learning.workspace_id,
            "workspace_uid": self.machine_learning.workspace_uid,
        }

    @property
    def models(self) -> ModelsArgs:
        """Container of the artefacts, as inputs of every resource that reads one."""
        return {"blob_endpoint": self.lake.blob_endpoint, "models_container": self.lake.containers["models"]}

    @property
    def lake_identity(self) -> LakeArgs:
        """The lake, as inputs of every resource that keeps files in it."""
        return {"lake_id": self.lake.account_id, "lake_uid": self.lake.lake_uid}

    @property
    def shared(self) -> str:
        """Folder in the Databricks workspace for the stack's experiment; every user may write it."""
        return f"/Shared/{self.names.catalog}"

    @property
    def code(self) -> str:
        """Folder for code that runs with the rights of its users, so that only admins may write it."""
        return f"{FOLDER}/{self.names.catalog}"
