"""A workspace of the sandbox with a catalogued lake, and jobs to run in it."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service import catalog, compute, jobs
from databricks.sdk.service.workspace import ImportFormat

from sandbox.identity import authority, entra
from testing.sandbox.data import Served, served
from testing.waiting import eventually

CONNECTOR = "11111111-1111-1111-1111-111111111111"
WHEEL = "/Workspace/Shared/tiny-1.0-py3-none-any.whl"
TINY = """
import os, sys, time
from pathlib import Path
from pyspark.sql import SparkSession

def prepare():
    spark = SparkSession.builder.getOrCreate()
    print("driver", os.getpid(), spark.conf.get("spark.x"), os.environ["COLOUR"], sys.argv[2])
    spark.range(100).repartition(2).write.parquet(sys.argv[1].partition("=")[2])
    spark.stop()

def count():
    print("rows", SparkSession.builder.getOrCreate().read.parquet(sys.argv[1]).count(), "driver", os.getpid())

def refuse():
    raise SystemExit("no such dataset: foo")

def code():
    print("the disk is full", file=sys.stderr)
    sys.exit(3)

def crash():
    {}["absent"]

def wait():
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(600)

def network():
    print("by", os.environ.get("HTTPS_PROXY"))

def once():
    mark = Path(sys.argv[1])
    if not mark.exists():
        mark.touch()
        raise RuntimeError("first attempt")
"""


@contextlib.contextmanager
def trusted(folder: Path, *, port: int = 0) -> Iterator[Served]:
    """A sandbox that this process's HTTP clients trust."""
    with served(folder, port=port) as cloud, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_bundle(folder)))
        yield cloud


def connect(cloud: Served) -> WorkspaceClient:
    return WorkspaceClient(host=cloud.sandbox.url, token=cloud.token(entra.DATABRICKS), auth_type="pat")


def lake_workspace(cloud: Served) -> WorkspaceClient:
    """A workspace with catalog `main`, schema `clicks`, and two containers of account `lake` as volumes."""
    cloud.put("Microsoft.Databricks/workspaces/ws", location="westeurope", properties={})
    cloud.assign(cloud.account("lake", "raw", "features", "managed"), CONNECTOR)
    client = connect(cloud)
    client.storage_credentials.create("lake", azure_managed_identity=identity(cloud.connector("connector", CONNECTOR)))
    for container in ("raw", "features", "managed"):
        client.external_locations.create(container, url(cloud, container), "lake")
    client.catalogs.create("main", storage_root=url(cloud, "managed"))
    client.schemas.create("clicks", "main")
    for container in ("raw", "features"):
        volume(client, cloud, container)
    return client


def identity(connector: str) -> catalog.AzureManagedIdentityRequest:
    return catalog.AzureManagedIdentityRequest(access_connector_id=connector)


def url(cloud: Served, container: str, account: str = "lake") -> str:
    return f"abfss://{container}@{cloud.sandbox.authority}/blob/{account}/"


def volume(client: WorkspaceClient, cloud: Served, container: str, name: str | None = None) -> catalog.VolumeInfo:
    kind = catalog.VolumeType.EXTERNAL
    return client.volumes.create("main", "clicks", name or container, kind, storage_location=url(cloud, container))


def upload_wheel(workspace: WorkspaceClient) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("tiny.py", TINY)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/entry_points.txt", "[console_scripts]\nprepare = tiny:prepare\n")
    workspace.workspace.upload(WHEEL, content.getvalue(), format=ImportFormat.AUTO, overwrite=True)


def cluster(**changes: object) -> compute.ClusterSpec:
    settings: dict[str, object] = {
        "spark_version": "16.4.x-scala2.12",
        "node_type_id": "Standard_L8s_v3",
        "num_workers": 2,
        "spark_conf": {"spark.x": "7", "spark.driver.memory": "1g"},
        "spark_env_vars": {"COLOUR": "blue"},
    }
    return compute.ClusterSpec.from_dict(settings | changes)


def task(entry_point: str, *parameters: str, after: tuple[str, ...] = (), **options: object) -> jobs.Task:
    return jobs.Task(
        task_key=entry_point,
        job_cluster_key="main",
        depends_on=[jobs.TaskDependency(above) for above in after],
        python_wheel_task=jobs.PythonWheelTask(
            package_name="tiny", entry_point=entry_point, parameters=list(parameters)
        ),
        **({"libraries": [compute.Library(whl=WHEEL)]} | options),  # type: ignore[arg-type]
    )


def create(workspace: WorkspaceClient, *tasks: jobs.Task, **options: object) -> int:
    clusters = [jobs.JobCluster("main", options.pop("cluster", cluster()))]  # type: ignore[arg-type]
    made = workspace.jobs.create(name="daily", tasks=list(tasks), job_clusters=clusters, **options)  # type: ignore[arg-type]
    assert made.job_id is not None
    return made.job_id


def finished(workspace: WorkspaceClient, run_id: int | None) -> jobs.Run:
    assert run_id is not None
    return eventually(lambda: workspace.jobs.get_run(run_id), lambda run: run.end_time is not None, 240)
