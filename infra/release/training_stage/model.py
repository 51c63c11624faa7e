"""A model version in the Azure ML registry, created only for a model that passed the gate.

A refused model fails here, before the live deployment is changed. In both cases the verdict is written next to the
artefact, as `verdict.json`. `create` may be killed: the next one finds the version by its training run. Does not copy
the artefact, which stays in the lake; the version refers to it through the workspace's datastore. Does not delete
versions: a rollback needs them.
"""

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.artefact import Artefact
from infra.cloud.clients import AzureClients
from infra.dynamic.provider import ReleaseProvider, gone
from infra.release.checks.gate import verdict


class ModelRefused(Exception):
    """The gate refused the model; the message lists the broken rules."""


class _ModelVersionProvider(ReleaseProvider):
    identity = ("workspace_id", "workspace_uid", "model_name", "run_id")
    inputs = ("floors",)
    optional = ("datastore", "metrics", "lineage", "blob_endpoint", "models_container")

    def create(self, props: dict[str, Any]) -> CreateResult:
        from azure.ai.ml.entities import Model

        self._gate(props)
        client = AzureClients.discover().machine_learning(props["workspace_id"])
        versions = _versions(client, props["model_name"])
        version = next((v for v, model in versions.items() if model.tags.get("run_id") == props["run_id"]), None)
        if version is None:
            version = max(versions, default=0) + 1
            metrics = props["metrics"]
            tracked = _artefact(props).json("lineage.json").get("mlflow_run_id")
            client.models.create_or_update(
                Model(
                    name=props["model_name"],
                    version=str(version),
                    type="custom_model",
                    path=f"azureml://datastores/{props['datastore']}/paths/{props['run_id']}",
                    description="Click probability of a user for an item",
                    tags={
                        **props["lineage"],
                        "run_id": props["run_id"],
                        "auc": f"{metrics['auc']:.6f}",
                        "log_loss": f"{metrics['log_loss']:.6f}",
                        **({"mlflow_run_id": tracked} if tracked else {}),
                    },
                )
            )
        return CreateResult(f"{props['model_name']}:{version}", {**props, "version": str(version)})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from azure.core.exceptions import ResourceNotFoundError

        registry = AzureClients.discover().machine_learning(props["workspace_id"])
        try:
            registry.models.get(props["model_name"], props["version"])
        except ResourceNotFoundError:
            return gone()
        return ReadResult(id_, props)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        self._gate(news)
        return UpdateResult({**news, "version": olds["version"]})

    @staticmethod
    def _gate(props: dict[str, Any]) -> None:
        """Write the verdict. Raises `ModelRefused` if a rule is broken."""
        compared = props["metrics"].get("live") or {}
        if "skipped" in compared:
            pulumi.log.warn(
                f"the model of training run {props['run_id']} could not be compared with the live model, of run "
                f"{compared['run_id']}: {compared['skipped']}"
            )
        rules = verdict(props["metrics"], props["floors"])
        _artefact(props).write_verdict(rules)
        if reasons := [rule["message"] for rule in rules if not rule["passed"]]:
            raise ModelRefused(
                f"the model of training run {props['run_id']} is refused, and the live model stays live:\n"
                + "\n".join(f"  - {reason}" for reason in reasons)
            )


def _artefact(props: dict[str, Any]) -> Artefact:
    return Artefact(props["blob_endpoint"], props["models_container"], props["run_id"])


def _versions(client: Any, name: str) -> dict[int, Any]:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return {int(model.version): model for model in client.models.list(name=name) if model.version.isdigit()}
    except ResourceNotFoundError:
        return {}


class ModelVersion(Resource, module="machinelearning", name="ModelVersion"):
    version: pulumi.Output[str]
    lineage: pulumi.Output[dict[str, str]]

    def __init__(
        self,
        name: str,
        *,
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        model_name: str,
        datastore: pulumi.Input[str],
        run_id: pulumi.Input[str],
        metrics: pulumi.Input[dict[str, Any]],
        floors: dict[str, float],
        lineage: pulumi.Input[dict[str, str]],
        blob_endpoint: pulumi.Input[str],
        models_container: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`floors`: the gate's thresholds, under their name in existing states."""
        props = {
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "model_name": model_name,
            "datastore": datastore,
            "run_id": run_id,
            "metrics": metrics,
            "floors": floors,
            "lineage": lineage,
            "blob_endpoint": blob_endpoint,
            "models_container": models_container,
        }
        super().__init__(_ModelVersionProvider(), name, {**props, "version": None}, opts)
