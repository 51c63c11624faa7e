"""The training stage: rows to a registered model, through snapshot, catalog, workload, experiment, job, run and gate.

With a pinned model version nothing is trained and the gate does not run, even if rows or code have changed. Does not
deploy the model: `serving_stage/stage.py` does.
"""

import hashlib
import json

import pulumi

from infra.components.data_lake import CONTAINERS
from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.checks.candidate import Candidate, newest
from infra.release.checks.gate import verdict
from infra.release.training_stage.catalog import Catalog, CatalogInputs
from infra.release.training_stage.experiment import Experiment, ExperimentInputs
from infra.release.training_stage.job import SYNAPSEML, JobInputs, JobSpec, TrainingJob, job_settings
from infra.release.training_stage.model import ModelVersion, ModelVersionInputs
from infra.release.training_stage.snapshot import Snapshot, SnapshotInputs, snapshot_name
from infra.release.training_stage.training_run import TrainingRun, TrainingRunInputs
from infra.release.training_stage.workload import Workload, WorkloadInputs, sources_digest


class TrainingStage(pulumi.ComponentResource):
    code: str
    """Digest of the workload's sources, its first sixteen digits."""
    rows: str
    """Name of the snapshot that the stack is configured with."""
    volumes: pulumi.Output[str]
    spec: pulumi.Output[JobSpec]
    experiment: Experiment
    job_id: pulumi.Output[str]
    run: TrainingRun | Candidate
    metrics: pulumi.Output[dict[str, object]]
    """Metrics of the training run, and under `gate` the verdict on them."""
    registered: ModelVersion
    version: pulumi.Output[str]
    """Version of the model to deploy: the registered one, or the pinned one."""
    snapshot: pulumi.Output[str]
    """Snapshot that the model of `run` was trained on."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        # The type token is in the state of every stack, so it keeps the class's earlier name.
        super().__init__("personalization:release:Trained", name, None, opts)
        training, wanted = args.settings.training, args.settings.release.model
        assert training.local_data or training.snapshot  # `Settings` refuses a release without rows
        sources = sources_digest()
        self.code = sources[:16]
        # The name reads every byte of local rows, so it is computed once.
        self.rows = snapshot_name(training.local_data) if training.local_data else str(training.snapshot)
        uploaded = [self._upload(f"{name}-snapshot", args)] if training.local_data else []
        job = self._job(name, args, sources)
        # The resource's id is the job's id. It stays known in the preview of an update, as no other output does.
        self.job_id = job.id

        thresholds = args.settings.quality.limits
        ignored = ["*"] if isinstance(wanted, int) else None
        lineage: pulumi.Input[dict[str, str]]
        if wanted == "latest":
            self.run = self._candidate(args, job, thresholds)
            lineage = self.run.lineage
        else:
            lineage = {"dataset": training.dataset, "snapshot": self.rows, "code": self.code}
            digest = _digest(lineage, training.spark_version, SYNAPSEML, training.refit)
            options = pulumi.ResourceOptions(
                parent=self, depends_on=[*uploaded, self.experiment], ignore_changes=ignored
            )
            self.run = self._training_run(f"{name}-training", args, job, digest, options)
        self.metrics = self.run.metrics.apply(lambda metrics: {**metrics, "gate": verdict(metrics, thresholds)})
        self.registered = ModelVersion(
            f"{name}-model",
            ModelVersionInputs(
                **args.models,
                **args.model_registry,
                model_name=MODEL,
                datastore=args.machine_learning.models_datastore,
                run_id=self.run.run_id,
                metrics=self.run.metrics,
                floors=thresholds,
                lineage=lineage,
            ),
            pulumi.ResourceOptions(parent=self, ignore_changes=ignored),
        )
        self.snapshot = self.registered.lineage.apply(lambda tags: tags["snapshot"])
        self.version = pulumi.Output.from_input(str(wanted)) if ignored else self.registered.version
        self.register_outputs({})

    def _upload(self, name: str, args: ReleaseArgs) -> Snapshot:
        """Upload local rows. Not needed for `training:snapshot`, whose rows are already in the lake."""
        inputs = SnapshotInputs(
            blob_endpoint=args.lake.blob_endpoint,
            **args.lake_identity,
            container=args.lake.containers["raw"],
            dataset=args.settings.training.dataset,
            data=str(args.settings.training.local_data),
            snapshot=self.rows,
        )
        return Snapshot(name, inputs, pulumi.ResourceOptions(parent=self))

    def _job(self, name: str, args: ReleaseArgs, sources: str) -> TrainingJob:
        """Declare the job and the workspace objects that it uses: catalog, wheel and experiment."""
        child = pulumi.ResourceOptions(parent=self)
        catalog = Catalog(
            f"{name}-catalog",
            CatalogInputs(
                **args.workspace,
                connector_id=args.databricks.connector_id,
                identity_id=args.databricks.connector_identity_id,
                catalog=args.names.catalog,
                locations=pulumi.Output.all(**{each: args.lake.location_of(each) for each in CONTAINERS}),
            ),
            child,
        )
        self.volumes = catalog.volumes
        workload = Workload(
            f"{name}-workload",
            WorkloadInputs(**args.workspace, folder=args.code, digest=sources, team=args.settings.access.team),
            child,
        )
        self.experiment = Experiment(
            f"{name}-experiment", ExperimentInputs(**args.workspace, path=f"{args.shared}/training"), child
        )
        job_name = f"{args.names.catalog}-train"
        self.spec = pulumi.Output.all(catalog.volumes, workload.path, self.experiment.path).apply(
            lambda paths: self._spec(job_name, args, *paths)
        )
        settings = self.spec.apply(lambda spec: json.dumps(job_settings(spec)))
        return TrainingJob(f"{name}-job", JobInputs(**args.workspace, job_name=job_name, settings=settings), child)

    def _spec(self, job_name: str, args: ReleaseArgs, volumes: str, wheel: str, experiment: str) -> JobSpec:
        training = args.settings.training
        return JobSpec(
            name=job_name,
            dataset=training.dataset,
            snapshot=self.rows,
            volumes=volumes,
            wheel=wheel,
            code=self.code,
            experiment=experiment,
            spark_version=training.spark_version,
            node_type=training.node_type,
            workers=training.workers,
            refit=training.refit,
            spot=training.spot,
            schedule=training.schedule,
            schedule_enabled=training.schedule_enabled,
            timeout_minutes=training.timeout_minutes,
            tags={"environment": args.settings.environment},
        )

    @staticmethod
    def _candidate(args: ReleaseArgs, job: TrainingJob, thresholds: dict[str, float]) -> Candidate:
        """Look up the newest run of the job whose model passes the gate (`release:model: latest`)."""
        return newest(
            workspace_url=args.databricks.workspace_url,
            workspace_id=args.databricks.workspace_id,
            **args.models,
            job_id=job.job_id,
            ml_workspace_id=args.machine_learning.workspace_id,
            endpoint_name=args.names.endpoint,
            thresholds=thresholds,
        )

    def _training_run(
        self, name: str, args: ReleaseArgs, job: TrainingJob, digest: str, opts: pulumi.ResourceOptions
    ) -> TrainingRun:
        """Declare the run that `digest` identifies."""
        training = args.settings.training
        inputs = TrainingRunInputs(
            **args.workspace,
            **args.models,
            **args.lake_identity,
            job_id=job.job_id,
            raw_container=args.lake.containers["raw"],
            dataset=training.dataset,
            snapshot=self.rows,
            input_digest=digest,
            volumes=self.volumes,
            ml_workspace_id=args.machine_learning.workspace_id,
            endpoint_name=args.names.endpoint,
            timeout_minutes=training.timeout_minutes,
        )
        return TrainingRun(name, inputs, opts)


def _digest(*inputs: object) -> str:
    """sha-256 of all inputs that determine a training run's result."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
