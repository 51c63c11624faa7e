"""The Databricks job: two tasks, prepare and train, on one fixed-size job cluster, with its daily schedule.

The interactive cluster (`interactive_access/cluster.py`) uses the same `cluster` and `libraries`. `job_settings` is a
pure function, so that one tested place excludes everything that breaks LightGBM on Spark (autoscaling, adaptive
execution, speculation, dynamic allocation). Does not run the job.
"""

import json
from dataclasses import dataclass, replace

import pulumi

from infra.dynamic.drift import observed
from infra.dynamic.inputs import InputField, Outputs, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of
from infra.planning import compatibility
from infra.release.serving_stage.live_record import REFERENCE

PACKAGE = "personalization_workloads"
# The two modules of SynapseML that training needs; the root artifact also brings ONNX, OpenCV and a speech client.
SYNAPSEML = compatibility.table().release.coordinate
SYNAPSEML_PYTHON = compatibility.table().release.package
MLFLOW = compatibility.table().tracking
# Spark brings its own versions of these.
# Source: microsoft/SynapseML README.md
SYNAPSEML_EXCLUSIONS = (
    "org.scala-lang:scala-reflect",
    "org.apache.spark:spark-tags_2.12",
    "org.scalactic:scalactic_2.12",
    "org.scalatest:scalatest_2.12",
    "com.fasterxml.jackson.core:jackson-databind",
)
# For wide rows Spark generates methods of over 8,000 bytes, which Java does not compile by default. The optimizing
# compiler gives up on the largest of them only after seconds, and inlining costs it more time than it saves: with less
# inlining and an earlier limit a million rows take 10 % less time (docs/benchmarks.md).
_JAVA_OPTIONS = (
    "-XX:-DontCompileHugeMethods -XX:FreqInlineSize=120 -XX:InlineSmallCode=800 "
    "-XX:MaxNodeLimit=20000 -XX:LiveNodeCountInliningCutoff=10000"
)
# Source: https://learn.microsoft.com/azure/databricks/jobs/dynamic-value-references
_TODAY = "{{job.start_time.iso_date}}"
ON_DEMAND = "ON_DEMAND_AZURE"
"""Availability of machines that Azure does not take away."""
_PARTITIONS_PER_WORKER = 16
_PARTITIONS_ON_ONE_NODE = 4


@dataclass(frozen=True)
class JobSpec:
    name: str
    dataset: str
    snapshot: str
    volumes: str
    wheel: str
    code: str
    """Digest of the wheel's sources."""
    experiment: str
    spark_version: str
    node_type: str
    workers: int
    spot: bool
    schedule: str
    schedule_enabled: bool
    timeout_minutes: int
    refit: str
    """Model to serve: `judged` or `all` (workloads/tasks/train.py)."""
    tags: dict[str, str]


def job_settings(spec: JobSpec) -> dict[str, object]:
    """The job in the form of the Jobs API 2.2."""
    snapshot = f"{spec.dataset}/{{{{job.parameters.snapshot}}}}"
    features = f"{spec.volumes}/features/{snapshot}"
    lineage = {name: f"{{{{job.parameters.{name}}}}}" for name in ("snapshot", "input_digest")}
    lineage |= {"code": spec.code}

    def task(key: str, parameters: list[str], **more: object) -> dict[str, object]:
        return {
            "task_key": key,
            "job_cluster_key": "training",
            "python_wheel_task": {"package_name": PACKAGE, "entry_point": key, "parameters": parameters},
            "libraries": libraries(spec),
            "max_retries": 0,
            "timeout_seconds": spec.timeout_minutes * 60,
            **more,
        }

    return {
        "name": spec.name,
        "tags": spec.tags,
        "max_concurrent_runs": 1,
        "queue": {"enabled": True},
        "timeout_seconds": spec.timeout_minutes * 60,
        "schedule": {
            "quartz_cron_expression": spec.schedule,
            "timezone_id": "UTC",
            "pause_status": "UNPAUSED" if spec.schedule_enabled else "PAUSED",
        },
        "parameters": [
            # A scheduled run trains on the rows of the day and looks up the live model; a release passes both.
            {"name": "snapshot", "default": _TODAY if spec.schedule_enabled else spec.snapshot},
            {"name": "input_digest", "default": "scheduled"},
            {"name": "live", "default": f"{spec.volumes}/models/{REFERENCE}"},
        ],
        "job_clusters": [{"job_cluster_key": "training", "new_cluster": cluster(spec)}],
        "tasks": [
            task(
                "prepare",
                ["--dataset", spec.dataset, "--raw", f"{spec.volumes}/raw/{snapshot}", "--features", features],
            ),
            task(
                "train",
                [
                    *("--dataset", spec.dataset, "--features", features),
                    *("--artefact", f"{spec.volumes}/models/{{{{job.run_id}}}}", "--run-id", "{{job.run_id}}"),
                    *("--lineage", json.dumps(lineage), "--tasks", str(spec.workers)),
                    *("--refit", spec.refit),
                    *("--experiment", spec.experiment),
                    "--live={{job.parameters.live}}",  # one argument, so that no parameter is ever empty
                ],
                depends_on=[{"task_key": "prepare"}],
            ),
        ],
    }


def libraries(spec: JobSpec) -> list[dict[str, object]]:
    return [
        {"maven": {"coordinates": SYNAPSEML, "exclusions": list(SYNAPSEML_EXCLUSIONS)}},
        {"pypi": {"package": SYNAPSEML_PYTHON}},
        {"pypi": {"package": MLFLOW}},
        {"whl": spec.wheel},
    ]


def spark_conf(workers: int) -> dict[str, str]:
    """Spark settings for training on this number of workers; 0 is a single node."""
    conf = {
        "spark.sql.adaptive.enabled": "false",
        "spark.speculation": "false",
        "spark.dynamicAllocation.enabled": "false",
        # A worker that waits in native code for a lost one is not notified: only killing it frees its cores.
        "spark.task.reaper.enabled": "true",
        "spark.task.reaper.killTimeout": "20s",
        "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
        "spark.executor.extraJavaOptions": _JAVA_OPTIONS,
        # The working directory, where the workload puts LightGBM's library: without it, each fit unpacks a new copy.
        "spark.driver.extraLibraryPath": ".",
        "spark.executor.extraLibraryPath": ".",
        # A training generates some 150 classes. By default Spark caches 100, and the next fit would compile the others.
        "spark.sql.codegen.cache.maxEntries": "1000",
        "spark.sql.shuffle.partitions": str(_PARTITIONS_PER_WORKER * workers or _PARTITIONS_ON_ONE_NODE),
    }
    if workers == 0:
        conf |= {"spark.databricks.cluster.profile": "singleNode", "spark.master": "local[*, 4]"}
    return conf


def cluster(spec: JobSpec) -> dict[str, object]:
    """A cluster of fixed size: LightGBM's network ring can neither lose nor gain a worker during a fit."""
    tags = dict(spec.tags)
    if spec.workers == 0:
        tags |= {"ResourceClass": "SingleNode"}
    return {
        "spark_version": spec.spark_version,
        "node_type_id": spec.node_type,
        "num_workers": spec.workers,
        "azure_attributes": {"availability": "SPOT_WITH_FALLBACK_AZURE" if spec.spot else ON_DEMAND},
        # Maven libraries and the JVM access of SynapseML's wrappers need dedicated compute.
        "data_security_mode": "SINGLE_USER",
        "runtime_engine": "STANDARD",
        "spark_conf": spark_conf(spec.workers),
        "custom_tags": tags,
    }


class JobInputs(WorkspaceInputs):
    job_name: InputField[str] = replaces()
    settings: InputField[str] = updates()
    """The job as JSON text, from `job_settings`."""


class JobOutputs(Outputs):
    job_id: str


class _JobProvider(WorkspaceProvider[JobInputs, JobOutputs]):
    object_name = ("job_name",)

    def create_object(self, inputs: JobInputs) -> Creation[JobOutputs]:
        from databricks.sdk.service.jobs import JobSettings

        client = databricks_of(inputs)
        settings = JobSettings.from_dict(json.loads(inputs.settings))
        # A creation has no idempotency token: an interrupted `up` may have created a job with this name.
        existing = next(iter(client.jobs.list(name=inputs.job_name)), None)
        if existing is not None:
            job_id = str(existing.job_id)
            client.jobs.reset(existing.job_id, settings)
        else:
            job_id = str(client.api_client.do("POST", "/api/2.2/jobs/create", body=settings.as_dict())["job_id"])
        return Creation(job_id, JobOutputs(job_id=job_id))

    def read_object(self, state: ResourceState[JobInputs, JobOutputs]) -> JobInputs | None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        inputs = state.inputs
        try:
            settings = databricks_of(inputs).jobs.get(int(state.id)).settings.as_dict()
        except (NotFound, InvalidParameterValue):  # as in `delete_object`
            return None
        return replace(inputs, settings=observed(inputs.settings, settings))

    def update_object(self, state: ResourceState[JobInputs, JobOutputs], inputs: JobInputs) -> JobOutputs:
        from databricks.sdk.service.jobs import JobSettings

        client = databricks_of(inputs)
        client.jobs.reset(int(state.id), JobSettings.from_dict(json.loads(inputs.settings)))
        return JobOutputs(job_id=state.id)

    def delete_object(self, state: ResourceState[JobInputs, JobOutputs]) -> None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        try:
            databricks_of(state.inputs).jobs.delete(int(state.id))
        except (NotFound, InvalidParameterValue):  # the Jobs API answers either for a job that is gone
            return


class TrainingJob(DynamicResource[JobInputs], module="databricks", name="TrainingJob", provider=_JobProvider):
    job_id: pulumi.Output[str]
