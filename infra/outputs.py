"""Stack outputs: addresses, names and figures. Never a key: `scoring_key_command` is the command that prints one."""

import pulumi

from infra.cloud import azure_cli
from infra.components.data_lake import DataLake
from infra.components.databricks import Databricks
from infra.components.inference import Inference
from infra.components.key_vault import KeyVault
from infra.components.ml_workspace import MachineLearning
from infra.config.settings import Settings
from infra.planning import capacity
from infra.planning.cost import CostRecorder
from infra.release.arguments import MODEL
from infra.release.release import Release


def export_infrastructure(
    resource_group: pulumi.Output[str],
    vault: KeyVault,
    lake: DataLake,
    databricks: Databricks,
    machine_learning: MachineLearning,
    inference: Inference,
) -> None:
    pulumi.export("resource_group", resource_group)
    pulumi.export("key_vault_id", vault.vault_id)
    pulumi.export("lake_blob_endpoint", lake.blob_endpoint)
    pulumi.export("lake_dfs_endpoint", lake.dfs_endpoint)
    pulumi.export("databricks_url", databricks.workspace_url.apply(lambda host: f"https://{host}"))
    pulumi.export("databricks_workspace_id", databricks.workspace_id)
    pulumi.export("ml_workspace_id", machine_learning.workspace_id)
    pulumi.export("endpoint_name", inference.endpoint_name)
    pulumi.export("scoring_uri", inference.scoring_uri)
    pulumi.export(
        "scoring_key_command",
        pulumi.Output.all(machine_learning.workspace_id, inference.endpoint_name).apply(
            lambda ids: azure_cli.endpoint_key(ids[0], ids[1], auth_mode=inference.auth_mode)
        ),
    )


def export_release(release: Release, lake: DataLake) -> None:
    training, serving, access = release.training, release.serving, release.interactive_access
    run = training.run
    pulumi.export("model_name", MODEL)
    pulumi.export("model_version", training.version)
    pulumi.export("image", serving.image.image)
    pulumi.export("image_digest", serving.image.image_digest)
    pulumi.export("training_snapshot", training.snapshot)
    pulumi.export("training_run_id", run.run_id)
    pulumi.export("training_run_page", run.run_page_url)
    pulumi.export("tracking_experiment", training.experiment.path)
    pulumi.export("tracking_page", training.experiment.page)
    pulumi.export("metrics", training.metrics)
    pulumi.export("model_card", pulumi.Output.format("{0}models/{1}/model_card.html", lake.blob_endpoint, run.run_id))
    pulumi.export("release", release.decisions)
    pulumi.export("deployment", serving.rollout.deployment)
    pulumi.export("rollout", serving.rollout.checks)
    pulumi.export("notebooks", access.notebooks.path)
    if access.cluster and access.policy:
        pulumi.export("interactive_cluster_id", access.cluster.cluster_id)
        pulumi.export("interactive_cluster_page", access.cluster.page)
        pulumi.export("cluster_policy_id", access.policy.policy_id)


def export_plan(settings: Settings, recorder: CostRecorder) -> None:
    """Export the capacity plan and the cost, so that every preview shows how a change affects them."""
    pulumi.export("capacity", capacity.plan(settings.serving).as_output())
    pulumi.export("monthly_cost", recorder.estimate(settings).as_output())
