"""From rows to a registered model: snapshot, catalog, workload, experiment, job, training run, gate.

Where a version is pinned, nothing trains and nothing is judged, whatever rows and code have become. Does not serve it.
"""

import hashlib
import json
from typing import Any

import pulumi

from infra.components.data_lake import CONTAINERS
from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.checks.candidate import Candidate, newest
from infra.release.checks.gate import verdict
from infra.release.training_stage.catalog import Catalog
from infra.release.training_stage.experiment import Experiment
from infra.release.training_stage.job import SYNAPSEML, JobSpec, TrainingJob, job_settings
from infra.release.training_stage.model import ModelVersion
from infra.release.training_stage.snapshot import Snapshot, snapshot_name
from infra.release.training_stage.training_run import TrainingRun
from infra.release.training_stage.workload import Workload, sources_digest


class Trained(pulumi.ComponentResource):
    code: str
    """Digest of the workload, short."""
    rows: str
    """The snapshot that the stack names."""
    volumes: pulumi.Output[str]
    spec: pulumi.Output[JobSpec]
    experiment: Experiment
    job_id: pulumi.Output[str]
    run: TrainingRun | Candidate
    metrics: pulumi.Output[dict[str, Any]]
    """What training measured, and under `gate` the verdict on it."""
    registered: ModelVersion
    version: pulumi.Output[str]
    """Of the model that is to serve: what was registered, or what is pinned."""
    snapshot: pulumi.Output[str]
    """What the model of `run` was trained on."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:release:Trained", name, None, opts)
        training, wanted = args.settings.training, args.settings.release.model
        child = pulumi.ResourceOptions(parent=self)
        held = ["*"] if isinstance(wanted, int) else None
        sources = sources_digest()
        self.code = sources[:16]

        assert training.local_data or training.snapshot  # `Settings` refuses a release without rows
        # The name reads every byte of local rows, so it is computed once.
        self.rows = snapshot_name(training.local_data) if training.local_data else str(training.snapshot)
        uploaded = [self._uploaded(name, args, self.rows, child)] if training.local_data else []
        job_name = f"{args.names.catalog}-train"

        catalog = Catalog(
            f"{name}-catalog",
            **args.workspace,
            connector_id=args.databricks.connector_id,
            identity_id=args.databricks.connector_identity_id,
            catalog=args.names.catalog,
            locations={container: args.lake.location_of(container) for container in CONTAINERS},
            opts=child,
        )
        self.volumes = catalog.volumes
        workload = Workload(
            f"{name}-workload",
            **args.workspace,
            folder=args.code,
            digest=sources,
            team=args.settings.access.team,
            opts=child,
        )
        self.experiment = Experiment(f"{name}-experiment", **args.workspace, path=f"{args.shared}/training", opts=child)
        self.spec = pulumi.Output.all(catalog.volumes, workload.path, self.experiment.path).apply(
            lambda found: JobSpec(
                name=job_name,
                dataset=training.dataset,
                snapshot=self.rows,
                volumes=found[0],
                wheel=found[1],
                code=self.code,
                experiment=found[2],
                spark_version=training.spark_version,
                node_type=training.node_type,
                workers=training.workers,
                spot=training.spot,
                schedule=training.schedule,
                schedule_enabled=training.schedule_enabled,
                timeout_minutes=training.timeout_minutes,
                tags={"environment": args.settings.environment},
            )
        )
        job = TrainingJob(
            f"{name}-job",
            **args.workspace,
            job_name=job_name,
            settings=self.spec.apply(lambda spec: json.dumps(job_settings(spec))),
            opts=child,
        )
        # The id of the resource is the job's, and stays known in the preview of an update, as no other output does.
        self.job_id = job.id

        lineage: pulumi.Input[dict[str, str]] = {
            "dataset": training.dataset,
            "snapshot": self.rows,
            "code": self.code,
        }
        floors = args.settings.quality.limits
        if wanted == "latest":
            where = {name: value for name, value in args.workspace.items() if name != "workspace_uid"}
            self.run = newest(
                **where,
                **args.models,
                job_id=job.job_id,
                ml_workspace_id=args.machine_learning.workspace_id,
                endpoint_name=args.names.endpoint,
                floors=floors,
            )
            lineage = self.run.lineage
        else:
            self.run = TrainingRun(
                f"{name}-training",
                **args.workspace,
                **args.models,
                **args.lake_identity,
                job_id=job.job_id,
                raw_container=args.lake.containers["raw"],
                dataset=training.dataset,
                snapshot=self.rows,
                input_digest=_digest(lineage, training.spark_version, SYNAPSEML),
                volumes=catalog.volumes,
                ml_workspace_id=args.machine_learning.workspace_id,
                endpoint_name=args.names.endpoint,
                timeout_minutes=training.timeout_minutes,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[*uploaded, self.experiment], ignore_changes=held),
            )
        self.metrics = self.run.metrics.apply(lambda metrics: {**metrics, "gate": verdict(metrics, floors)})
        self.registered = ModelVersion(
            f"{name}-model",
            **args.models,
            **args.registry_of_models,
            model_name=MODEL,
            datastore=args.machine_learning.models_datastore,
            run_id=self.run.run_id,
            metrics=self.run.metrics,
            floors=floors,
            lineage=lineage,
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=held),
        )
        self.snapshot = self.registered.lineage.apply(lambda tags: tags["snapshot"])
        self.version = pulumi.Output.from_input(str(wanted)) if held else self.registered.version
        self.register_outputs({})

    @staticmethod
    def _uploaded(name: str, args: ReleaseArgs, snapshot: str, opts: pulumi.ResourceOptions) -> Snapshot:
        """Upload local rows; rows that `training:snapshot` names are already in the lake."""
        return Snapshot(
            f"{name}-snapshot",
            blob_endpoint=args.lake.blob_endpoint,
            **args.lake_identity,
            container=args.lake.containers["raw"],
            dataset=args.settings.training.dataset,
            data=str(args.settings.training.local_data),
            snapshot=snapshot,
            opts=opts,
        )


def _digest(*decides: object) -> str:
    """Everything that decides a training run's result."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
