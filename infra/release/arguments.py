"""What a release stands on, handed to each of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Role assignments, private endpoints with their names, and the node pool: all of a release waits for these."""

    @property
    def workspace(self) -> dict[str, pulumi.Input[str]]:
        """Databricks', as every resource in it is told."""
        return {
            "workspace_url": self.databricks.workspace_url,
            "workspace_id": self.databricks.workspace_id,
            "workspace_uid": self.databricks.workspace_uid,
        }

    @property
    def registry_of_models(self) -> dict[str, pulumi.Input[str]]:
        """The Azure ML workspace, as inputs of every resource in it."""
        return {
            "workspace_id": self.machine_learning.workspace_id,
            "workspace_uid": self.machine_learning.workspace_uid,
        }

    @property
    def models(self) -> dict[str, pulumi.Input[str]]:
        """Where artefacts lie, as every resource that reads one is told."""
        return {"blob_endpoint": self.lake.blob_endpoint, "models_container": self.lake.containers["models"]}

    @property
    def lake_identity(self) -> dict[str, pulumi.Input[str]]:
        """The lake, as inputs of every resource that keeps files in it."""
        return {"lake_id": self.lake.account_id, "lake_uid": self.lake.lake_uid}

    @property
    def shared(self) -> str:
        """Folder for the stack's experiment in the Databricks workspace, which every user may write."""
        return f"/Shared/{self.names.catalog}"

    @property
    def code(self) -> str:
        """Folder for what runs with the rights of others: admins alone may write it."""
        return f"{FOLDER}/{self.names.catalog}"
