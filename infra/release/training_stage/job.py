"""The Databricks job: two tasks, prepare and train, on one fixed-size job cluster, with its daily schedule.

`cluster` and `libraries` are the one definition that the interactive cluster (`interactive_access/cluster.py`) has,
too. `job_settings` is a pure function, so that what LightGBM on Spark cannot survive (autoscaling, adaptive execution,
speculation, dynamic allocation) is ruled out in one tested place. Does not run the job.
"""

import json
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import databricks_of
from infra.dynamic.drift import observed
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import gone
from infra.planning import compatibility
from infra.release.serving_stage.live_record import REFERENCE

PACKAGE = "personalization_workloads"
# The two modules of SynapseML that training needs; the root artifact drags in ONNX, OpenCV and a speech client.
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
# Spark generates methods of over 8,000 bytes for rows as wide as ours, which Java else interprets for ever. The second
# compiler gives up on the largest of them only after seconds, and inlines into the others what costs it more time than
# it saves: with less inlined and an earlier end a million rows take a tenth less (docs/benchmarks.md).
_JAVA_OPTIONS = (
    "-XX:-DontCompileHugeMethods -XX:FreqInlineSize=120 -XX:InlineSmallCode=800 "
    "-XX:MaxNodeLimit=20000 -XX:LiveNodeCountInliningCutoff=10000"
)
# Source: https://learn.microsoft.com/azure/databricks/jobs/dynamic-value-references
_TODAY = "{{job.start_time.iso_date}}"
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
    """Digest of what is in the wheel."""
    experiment: str
    spark_version: str
    node_type: str
    workers: int
    spot: bool
    schedule: str
    schedule_enabled: bool
    timeout_minutes: int
    tags: dict[str, str]


def job_settings(spec: JobSpec) -> dict[str, Any]:
    """The job as the Jobs API 2.2 takes it."""
    snapshot = f"{spec.dataset}/{{{{job.parameters.snapshot}}}}"
    features = f"{spec.volumes}/features/{snapshot}"
    lineage = {name: f"{{{{job.parameters.{name}}}}}" for name in ("snapshot", "input_digest")}
    lineage |= {"code": spec.code}

    def task(key: str, parameters: list[str], **more: Any) -> dict[str, Any]:
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
            # On its own schedule it trains on the rows of the day and looks up the live model; a release names both.
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
                    *("--experiment", spec.experiment),
                    "--live={{job.parameters.live}}",  # in one, so that no parameter is ever empty
                ],
                depends_on=[{"task_key": "prepare"}],
            ),
        ],
    }


def libraries(spec: JobSpec) -> list[dict[str, Any]]:
    return [
        {"maven": {"coordinates": SYNAPSEML, "exclusions": list(SYNAPSEML_EXCLUSIONS)}},
        {"pypi": {"package": SYNAPSEML_PYTHON}},
        {"pypi": {"package": MLFLOW}},
        {"whl": spec.wheel},
    ]


def spark_conf(workers: int) -> dict[str, str]:
    """What training needs of Spark on so many workers; 0 is a single node."""
    conf = {
        "spark.sql.adaptive.enabled": "false",
        "spark.speculation": "false",
        "spark.dynamicAllocation.enabled": "false",
        # A worker that waits in native code for a lost one hears of nothing: only its end frees its cores.
        "spark.task.reaper.enabled": "true",
        "spark.task.reaper.killTimeout": "20s",
        "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
        "spark.executor.extraJavaOptions": _JAVA_OPTIONS,
        # The working directory, where the workload puts LightGBM's library: without it, each fit unpacks a new copy.
        "spark.driver.extraLibraryPath": ".",
        "spark.executor.extraLibraryPath": ".",
        # A training generates some 150 classes; Spark forgets all but the last 100, which the next fit needs again.
        "spark.sql.codegen.cache.maxEntries": "1000",
        "spark.sql.shuffle.partitions": str(_PARTITIONS_PER_WORKER * workers or _PARTITIONS_ON_ONE_NODE),
    }
    if workers == 0:
        conf |= {"spark.databricks.cluster.profile": "singleNode", "spark.master": "local[*, 4]"}
    return conf


def cluster(spec: JobSpec) -> dict[str, Any]:
    """A cluster of fixed size: LightGBM's network ring can neither lose nor gain a worker once it is closed."""
    tags = dict(spec.tags)
    if spec.workers == 0:
        tags |= {"ResourceClass": "SingleNode"}
    return {
        "spark_version": spec.spark_version,
        "node_type_id": spec.node_type,
        "num_workers": spec.workers,
        "azure_attributes": {"availability": "SPOT_WITH_FALLBACK_AZURE" if spec.spot else "ON_DEMAND_AZURE"},
        # Maven libraries and the JVM access of SynapseML's wrappers need dedicated compute.
        "data_security_mode": "SINGLE_USER",
        "runtime_engine": "STANDARD",
        "spark_conf": spark_conf(spec.workers),
        "custom_tags": tags,
    }


class _JobProvider(WorkspaceProvider):
    object_name = ("job_name",)
    identity = ("workspace_id", "workspace_uid", "job_name")
    inputs = ("settings", "workspace_url")

    def create(self, props: dict[str, Any]) -> CreateResult:
        from databricks.sdk.service.jobs import JobSettings

        client = databricks_of(props)
        settings = JobSettings.from_dict(json.loads(props["settings"]))
        # Creating a job has no idempotency token: one of this name was made by an `up` that did not live to record it.
        found = next(iter(client.jobs.list(name=props["job_name"])), None)
        if found is not None:
            client.jobs.reset(found.job_id, settings)
            return CreateResult(str(found.job_id), {**props, "job_id": str(found.job_id)})
        answer = client.api_client.do("POST", "/api/2.2/jobs/create", body=settings.as_dict())
        return CreateResult(str(answer["job_id"]), {**props, "job_id": str(answer["job_id"])})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        try:
            settings = databricks_of(props).jobs.get(int(id_)).settings.as_dict()
        except (NotFound, InvalidParameterValue):  # as in `delete`
            return gone()
        return ReadResult(id_, {**props, "settings": observed(props["settings"], settings)})

    def update(self, id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        from databricks.sdk.service.jobs import JobSettings

        client = databricks_of(news)
        client.jobs.reset(int(id), JobSettings.from_dict(json.loads(news["settings"])))
        return UpdateResult({**news, "job_id": id})

    def delete(self, id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import InvalidParameterValue, NotFound

        try:
            databricks_of(props).jobs.delete(int(id))
        except (NotFound, InvalidParameterValue):  # the Jobs API answers either for a job that is gone
            return


class TrainingJob(Resource, module="databricks", name="TrainingJob"):
    job_id: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        job_name: str,
        settings: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`settings`: the job as JSON text, from `job_settings`."""
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "job_name": job_name,
            "settings": settings,
        }
        super().__init__(_JobProvider(), name, {**props, "job_id": None}, opts)
