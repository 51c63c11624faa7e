"""The program's role assignments, as one table, each on the one resource that needs it.

Those that must be in effect earlier are elsewhere in `infra/components/`: `identities.py` assigns the control plane's
roles before the cluster is created, and `inference.py` the Azure ML workspace's role on the cluster before the attach.

Does not create identities. Grants no access by key: all data access in this program uses Entra identities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pulumi

from infra.components.container_registry import ContainerRegistry
from infra.components.data_lake import DataLake
from infra.components.identities import Identities
from infra.components.inference import Inference
from infra.components.ml_workspace import MachineLearning
from infra.components.roles import Grant, Role, assign
from infra.config.settings import Settings
from infra.runner.runner import Runner


@dataclass(frozen=True, kw_only=True)
class AccessArgs:
    subscription_id: str
    deployers: Mapping[str, str]
    """Kind (`User`, `ServicePrincipal`, `Group`) by Entra object id."""
    lake: DataLake
    registry: ContainerRegistry
    machine_learning: MachineLearning
    identities: Identities
    inference: Inference
    runner: Runner | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        subscription_id: str,
        lake: DataLake,
        registry: ContainerRegistry,
        machine_learning: MachineLearning,
        identities: Identities,
        inference: Inference,
        runner: Runner | None,
    ) -> Self:
        return cls(
            subscription_id=subscription_id,
            deployers=settings.access.deployers,
            lake=lake,
            registry=registry,
            machine_learning=machine_learning,
            identities=identities,
            inference=inference,
            runner=runner,
        )


class Access(pulumi.ComponentResource):
    assignments: Sequence[pulumi.Resource]
    """Dependencies of a release, which would otherwise fail late and with an unclear message."""

    def __init__(self, name: str, args: AccessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:security:Access", name, None, opts)
        self.assignments = [assign(grant, args.subscription_id, self) for grant in grants(args)]
        self.register_outputs({})


def grants(args: AccessArgs) -> list[Grant]:
    """Return the table of role assignments, one row each."""
    lake, registry = args.lake.account_id, args.registry.registry_id
    raw, models = args.lake.container_id("raw"), args.lake.container_id("models")
    workspace = args.machine_learning.workspace_id
    databricks, machine_learning = args.identities.databricks.principal_id, args.machine_learning.principal_id
    kubelet, endpoint = args.identities.kubelet.principal_id, args.identities.endpoint.principal_id
    extension = args.inference.extension_principal_id
    table = [
        Grant("databricks", Role.STORAGE_BLOB_DATA_CONTRIBUTOR, "lake", databricks, lake),
        Grant("machine-learning", Role.STORAGE_BLOB_DATA_READER, "models", machine_learning, models),
        Grant("kubelet", Role.ACR_PULL, "registry", kubelet, registry),
        Grant("extension", Role.ACR_PULL, "registry", extension, registry),
        Grant("extension", Role.STORAGE_BLOB_DATA_READER, "models", extension, models),
        Grant("endpoint", Role.ACR_PULL, "registry", endpoint, registry),
        Grant("endpoint", Role.STORAGE_BLOB_DATA_READER, "models", endpoint, models),
        Grant("endpoint", Role.AZUREML_METRICS_WRITER, "workspace", endpoint, workspace),
    ]
    for number, (object_id, kind) in enumerate(sorted(args.deployers.items())):
        deployer = f"deployer-{number}"
        table += [
            Grant(deployer, Role.STORAGE_BLOB_DATA_CONTRIBUTOR, "raw", object_id, raw, kind),
            # Reads artefacts, and writes the gate's verdict next to them.
            Grant(deployer, Role.STORAGE_BLOB_DATA_CONTRIBUTOR, "models", object_id, models, kind),
            Grant(deployer, Role.AZUREML_DATA_SCIENTIST, "workspace", object_id, workspace, kind),
        ]
    if args.runner:
        runner, secret = args.runner.principal_id, args.runner.secret_id
        table.append(Grant("runner", Role.KEY_VAULT_SECRETS_USER, "secret", runner, secret))
    return table
