"""One release as a component: rows, workload, training run, model version, image, environment, rollout, notebooks.

Does not create infrastructure: it is handed what it runs on.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.capacity import plan
from infra.container_registry import ContainerRegistry
from infra.data_lake import CONTAINERS, DataLake
from infra.databricks import Databricks
from infra.inference import INSTANCE_TYPE, Inference
from infra.ml_workspace import MachineLearning
from infra.naming import Names
from infra.release import interactive
from infra.release.candidate import Candidate, newest
from infra.release.catalog import Catalog
from infra.release.environment import EnvironmentVersion
from infra.release.experiment import Experiment
from infra.release.gate import verdict
from infra.release.image import ScoringImage, context_digest
from infra.release.job import SYNAPSEML, JobSpec, TrainingJob, job_settings
from infra.release.model import ModelVersion
from infra.release.notebooks import Notebooks, notebooks_digest
from infra.release.rollout import Rollout
from infra.release.secret import EndpointKey
from infra.release.snapshot import Snapshot, snapshot_name
from infra.release.training import TrainingRun
from infra.release.workload import Workload, sources_digest
from infra.settings import Settings

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
    """Role assignments and node pool a release cannot do without."""


class Release(pulumi.ComponentResource):
    model_version: pulumi.Output[str]
    snapshot: pulumi.Output[str]
    """What the model of `run` was trained on."""
    run: TrainingRun | Candidate
    metrics: pulumi.Output[dict[str, Any]]
    """What training measured, and under `gate` the verdict on it."""
    interactive: tuple[interactive.ClusterPolicy, interactive.InteractiveCluster] | None
    experiment: Experiment
    experiment_path: str
    image: ScoringImage
    rollout: Rollout
    notebooks: pulumi.Output[str]
    """Their folder in the workspace."""
    says: dict[str, str]
    """What decides the release, known before anything is done: as an output, every preview shows what will flip."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:release:Release", name, None, opts)
        settings, lake = args.settings, args.lake
        training, serving = settings.training, settings.serving
        child = pulumi.ResourceOptions(parent=self)
        granted = pulumi.ResourceOptions(parent=self, depends_on=list(args.ready))
        workspace: dict[str, pulumi.Input[str]] = {
            "workspace_url": args.databricks.workspace_url,
            "workspace_id": args.databricks.workspace_id,
        }

        # Rows: uploaded from here, or already in the lake.
        if training.data:
            snapshot = snapshot_name(training.data)
            rows: list[pulumi.Resource] = [
                Snapshot(
                    f"{name}-snapshot",
                    blob_endpoint=lake.blob_endpoint,
                    container=lake.containers["raw"],
                    dataset=training.dataset,
                    data=training.data,
                    opts=granted,
                )
            ]
        else:
            assert training.snapshot is not None  # `Settings` refuses a release without rows
            snapshot, rows = training.snapshot, []

        # Code, and where it reads and writes.
        catalog = Catalog(
            f"{name}-catalog",
            **workspace,
            connector_id=args.databricks.connector_id,
            identity_id=args.databricks.connector_identity_id,
            catalog=args.names.catalog,
            locations={container: lake.location_of(container) for container in CONTAINERS},
            opts=granted,
        )
        code, shared = sources_digest(), f"/Shared/{args.names.catalog}"
        workload = Workload(f"{name}-workload", **workspace, folder=shared, digest=code, opts=child)
        self.experiment_path = f"{shared}/training"
        self.experiment = Experiment(f"{name}-experiment", **workspace, path=self.experiment_path, opts=child)

        # Training. Where a version is pinned, nothing trains and nothing is judged, whatever rows and code have become.
        wanted = settings.release.model
        held = ["*"] if isinstance(wanted, int) else None
        job_name = f"{args.names.catalog}-train"
        spec = pulumi.Output.all(catalog.volumes, workload.path).apply(
            lambda found: JobSpec(
                name=job_name,
                dataset=training.dataset,
                snapshot=snapshot,
                volumes=found[0],
                wheel=found[1],
                code=code[:16],
                experiment=self.experiment_path,
                spark_version=training.spark_version,
                node_type=training.node_type,
                workers=training.workers,
                spot=training.spot,
                schedule=training.schedule,
                schedule_enabled=training.schedule_enabled,
                timeout_minutes=training.timeout_minutes,
                tags={"environment": settings.environment},
            )
        )
        job = TrainingJob(
            f"{name}-job",
            **workspace,
            job_name=job_name,
            settings=spec.apply(lambda spec: json.dumps(job_settings(spec))),
            opts=child,
        )
        self.interactive = None
        if settings.has_interactive_cluster:
            self.interactive = interactive.declare(
                name,
                spec,
                workspace=workspace,
                catalog=args.names.catalog,
                minutes=training.interactive_minutes,
                team=settings.access.team,
                opts=child,
            )
        lineage: pulumi.Input[dict[str, str]] = {"dataset": training.dataset, "snapshot": snapshot, "code": code[:16]}
        floors = settings.quality.model_dump()
        if wanted == "latest":
            self.run = newest(
                **workspace,
                job_id=job.job_id,
                blob_endpoint=lake.blob_endpoint,
                models_container=lake.containers["models"],
                floors=floors,
            )
            lineage = self.run.lineage
        else:
            self.run = TrainingRun(
                f"{name}-training",
                **workspace,
                job_id=job.job_id,
                blob_endpoint=lake.blob_endpoint,
                models_container=lake.containers["models"],
                snapshot=snapshot,
                input_digest=_digest(lineage, training.spark_version, SYNAPSEML),
                volumes=catalog.volumes,
                ml_workspace_id=args.machine_learning.workspace_id,
                endpoint_name=args.names.endpoint,
                timeout_minutes=training.timeout_minutes,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[*rows, self.experiment], ignore_changes=held),
            )

        # Gate and registry.
        self.metrics = self.run.metrics.apply(lambda metrics: {**metrics, "gate": verdict(metrics, floors)})
        trained = ModelVersion(
            f"{name}-model",
            workspace_id=args.machine_learning.workspace_id,
            model_name=MODEL,
            datastore=args.machine_learning.models_datastore,
            run_id=self.run.run_id,
            metrics=self.run.metrics,
            floors=floors,
            lineage=lineage,
            blob_endpoint=lake.blob_endpoint,
            models_container=lake.containers["models"],
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=held),
        )
        self.snapshot = trained.lineage.apply(lambda tags: tags["snapshot"])
        self.model_version = pulumi.Output.from_input(str(wanted)) if held else trained.version

        # Image, environment, traffic.
        context = context_digest()
        self.says = {
            "model": str(wanted),
            "rows": f"{training.dataset} {snapshot}",
            "code": code[:16],
            "image": context[:16],
            "engine": serving.engine,
            "steps": " ".join(map(str, settings.release.rollout)),
        }
        self.image = ScoringImage(
            f"{name}-image",
            registry_id=args.registry.registry_id,
            login_server=args.registry.login_server,
            engine=serving.engine,
            digest=context,
            build_pool=args.registry.build_pool,
            opts=child,
        )
        environment_name, planned = f"scoring-{serving.engine}", plan(serving)
        environment = EnvironmentVersion(
            f"{name}-environment",
            workspace_id=args.machine_learning.workspace_id,
            environment_name=environment_name,
            image=self.image.image,
            opts=child,
        )
        self.rollout = Rollout(
            f"{name}-rollout",
            workspace_id=args.machine_learning.workspace_id,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            model_name=MODEL,
            model_version=self.model_version,
            environment=environment.version.apply(lambda version: f"{environment_name}:{version}"),
            engine=serving.engine,
            instance_type=INSTANCE_TYPE,
            scale={
                "min": planned.replicas_min,
                "max": planned.replicas_max,
                "cpu": serving.cpu,
                "memory": serving.memory,
                "concurrency": serving.concurrency,
                "utilisation": planned.utilisation,
            },
            rollout=settings.release.rollout,
            limits=settings.release.limits,
            blob_endpoint=lake.blob_endpoint,
            models_container=lake.containers["models"],
            # Endpoint and model are named through outputs; the roles that let it pull and read are not.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[trained, *args.ready]),
        )

        # For people: notebooks on what serves now, and the key they ask it with.
        key = EndpointKey(
            f"{name}-endpoint-key",
            **workspace,
            scope=args.names.catalog,
            ml_workspace_id=args.machine_learning.workspace_id,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            opts=granted,
        )
        notebooks = Notebooks(
            f"{name}-notebooks",
            **workspace,
            folder=f"/Shared/{args.names.catalog}/notebooks",
            digest=notebooks_digest(),
            ml_workspace_id=args.machine_learning.workspace_id,
            model_name=MODEL,
            model_version=self.model_version,
            volumes=catalog.volumes,
            scoring_uri=args.inference.scoring_uri,
            scope=args.names.catalog,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[key, self.rollout]),
        )
        self.notebooks = notebooks.path
        self.register_outputs({})


def _digest(*decides: object) -> str:
    """Everything that decides a training run's result."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
