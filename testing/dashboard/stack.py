"""An example stack for the dashboard, without Spark and Pulumi: a sandbox with a small model and its rollout.

The model uses MovieLens' features and the hour of day. The real rollout deploys it with the real scoring service; the
items are invented. Outputs and state, which the engine would record, are built here.
"""

import json
import logging
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy
import uvicorn

from cli import catalogue
from cli.dashboard import server, stack_source
from cli.local_run.sandbox import deployer
from cli.stacks.state import Resource
from infra.components.roles import Role
from infra.config.settings import QualitySettings, ServingSettings
from infra.planning import capacity, cost
from infra.release.checks.gate import verdict
from infra.release.serving_stage import rollout
from scoring.logs import JsonFormatter
from scoring.summary import Summary
from testing.sandbox.machine_learning import CONTEXT, Cloud, environment, ml_sandbox
from testing.sandbox.process import ROOT, in_environment
from testing.scoring import write_manifest
from testing.workloads.shop import GENRES, write_shop
from workloads import spec

ENDPOINT, MODEL, RUN = "ep-page", "clicks", "run-9"
FEATURES = [
    {"name": "user_id", "type": "string", "side": "user"},
    {"name": "age", "type": "integer", "side": "user"},
    {"name": "gender", "type": "string", "side": "user"},
    {"name": "occupation", "type": "string", "side": "user"},
    {"name": "hour", "type": "integer", "side": "context"},
    {"name": "item_id", "type": "string", "side": "item"},
    {"name": "year", "type": "integer", "side": "item"},
    {"name": "genres", "type": "strings", "side": "item"},
]
_NUMBERS, _MISSING = ("age", "hour", "year"), "\u0000"
_LEVELS = {"genres": GENRES}
CARD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Model card</title>'
    "<style>body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }</style></head>"
    "<body><h1>Click probability, a small shop</h1><p>Made for a test.</p></body></html>"
)
_INSTALL = f"""#!/bin/sh
set -eu
mkdir -p "$1/bin"
printf '#!/bin/sh\\nPYTHONPATH={ROOT} exec {sys.executable} -P -m scoring\\n' > "$1/bin/serve"
chmod +x "$1/bin/serve"
"""


@dataclass
class ExampleStack:
    cloud: Cloud
    data: Path
    outputs: dict[str, Any]
    resources: list[Resource]

    def source(self, **changes: Any) -> stack_source.StackSource:
        """Return the dashboard's data source of this stack, with changed fields."""
        source = stack_source.StackSource(
            stack="shop",
            outputs=lambda: self.outputs,
            resources=lambda: self.resources,
            remedy="Restart the example stack.",
            dataset="movielens",
            data=self.data,
            replicas=lambda: stack_source.discover_metrics(f"{self.cloud.url}/sandbox/metrics"),
        )
        return replace(source, **changes)

    def log_summary(self, seconds: Sequence[float], without_features: int) -> None:
        """Write the summary that the service logs once a minute, without waiting for it."""
        summary = Summary(f"{MODEL}:9", None)
        for latency in seconds:
            summary.observe(200, latency)
        summary.without_features = without_features
        record = logging.makeLogRecord({"msg": "summary", "levelname": "INFO", "fields": summary.take()})
        log = self.cloud.folder / "deployments" / ENDPOINT / self.outputs["deployment"] / "console.log"
        with log.open("a") as file:
            file.write(JsonFormatter().format(record) + "\n")


@contextmanager
def example_stack(folder: Path) -> Iterator[ExampleStack]:
    """Deploy the stack. Within the block, clients of Azure find the sandbox through the environment."""
    with ml_sandbox(folder / "cloud") as cloud, in_environment(cloud.environment):
        data = write_shop(folder / "shop", interactions=1)
        metrics = _make_artefact(cloud.folder / "accounts" / "lake" / "models" / RUN, data)
        _grant_read_access(cloud)
        run = cloud.build({**CONTEXT, "install.sh": _INSTALL})
        assert run.status == "Succeeded", cloud.log(run)
        environment(cloud, "2", run.output_images[0].digest)
        tags = {"run_id": RUN, "auc": "0.74", "dataset": "movielens", "snapshot": "day-1", "code": "c0de"}
        version = {"modelUri": f"azureml://datastores/lake/paths/{RUN}", "tags": tags}
        cloud.put(f"{cloud.workspace}/models/{MODEL}/versions/9", properties=version)
        cloud.endpoint(ENDPOINT)
        rolled_out = dict(rollout._RolloutProvider().create(_rollout(cloud)).outs or {})
        yield ExampleStack(cloud, data, _outputs(cloud, rolled_out, metrics), _state(cloud, rolled_out))


@contextmanager
def served(source: stack_source.StackSource) -> Iterator[str]:
    """Serve the dashboard as `personalization dashboard` does, and yield its address."""
    listener = server.listen(None)
    running = uvicorn.Server(server.config(source))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    try:
        yield f"http://{server.HOST}:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


def _grant_read_access(cloud: Cloud) -> None:
    lake = f"{cloud.group}/providers/Microsoft.Storage/storageAccounts/lake"
    role = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{Role.STORAGE_BLOB_DATA_READER}"
    cloud.put(
        f"{lake}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}",
        properties={"principalId": deployer(), "roleDefinitionId": role, "principalType": "ServicePrincipal"},
    )


def _rollout(cloud: Cloud) -> dict[str, Any]:
    return {
        "workspace_id": cloud.workspace,
        "endpoint_name": ENDPOINT,
        "model_name": MODEL,
        "model_version": "9",
        "environment": "scoring:2",
        "engine": "native",
        "instance_type": "defaultinstancetype",
        "scale": {"min": 1, "max": 1, "cpu": "100m", "memory": "256Mi", "concurrency": 64, "utilisation": 70},
        "rollout": [100],
        "limits": {
            "error_share_max": 0.01,
            "p99_ms_max": 10_000,
            "drift_max": 0.5,
            "probe_rps": 40,
            "probe_seconds": 0.5,
        },
        "blob_endpoint": f"{cloud.url}/blob/lake",
        "models_container": "models",
    }


# --- the model


def _make_artefact(folder: Path, data: Path) -> dict[str, Any]:
    """Train and write a model: users click later films in the evening, earlier ones in the morning. Returns metrics."""
    random = numpy.random.default_rng(3)
    described = spec.load("movielens")
    users = list(catalogue.side(described, "user", data).values())
    items = [{"item_id": key, **row} for key, row in catalogue.side(described, "item", data).items()]
    tables = {"genres": {level: (numpy.float32(i / 10), numpy.float32(2)) for i, level in enumerate(_LEVELS["genres"])}}
    rows = [
        {**users[random.integers(len(users))], "hour": int(random.integers(24)), **items[random.integers(len(items))]}
        for _ in range(3000)
    ]
    vectors = numpy.array([_vector(row, tables) for row in rows])
    late, recent = (vectors[:, 1] - 11.5) / 12, (numpy.nan_to_num(vectors[:, 2], nan=1975) - 1975) / 25
    score = 2.5 * late * recent + 5 * (vectors[:, 3] - 0.2)
    clicks = random.random(len(rows)) < 1 / (1 + numpy.exp(-score))
    settings = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "seed": 3}
    booster = lightgbm.train(settings, lightgbm.Dataset(vectors, label=clicks), num_boost_round=40)

    folder.mkdir(parents=True)
    booster.save_model(folder / "model.txt")
    columns = [(name, "number") for name in _NUMBERS] + [("genres", "rate"), ("genres", "count")]
    contract = {
        "contract_version": "1.0",
        "dataset": "movielens",
        "label": "label",
        "features": FEATURES,
        "model_columns": [{"feature": feature, "value": value} for feature, value in columns],
        "encoder": {"categoricals": ["genres"], "missing_level": _MISSING, "width": 2},
        "item_id": "item_id",
    }
    (folder / "contract.json").write_text(json.dumps(contract))
    levels = sorted((level.encode(), values) for level, values in tables["genres"].items())
    numpy.savez(
        folder / "encoder.npz",
        levels_0=numpy.frombuffer(b"".join(level for level, _ in levels), dtype=numpy.uint8),
        offsets_0=numpy.cumsum([0, *(len(level) for level, _ in levels)], dtype=numpy.int64),
        values_0=numpy.stack([numpy.array(values) for _, values in levels]),
    )
    probabilities = booster.predict(vectors, num_threads=1)
    golden = [{"row": row, "probability": float(p)} for row, p in zip(rows[:50], probabilities[:50], strict=True)]
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
    metrics = _metrics(clicks, probabilities)
    rules = verdict(metrics, QualitySettings().limits)
    (folder / "verdict.json").write_text(json.dumps({"passed": True, "rules": rules}))
    (folder / "model_card.html").write_text(CARD)
    lineage = {
        "data": {
            "digest": "d1ge57",
            "rows": 3000,
            "clicks": int(clicks.sum()),
            "tables": {"users": {"file": "ml-100k.user"}},
        },
        "spec_digest": "5bec",
        "versions": {"lightgbm": lightgbm.__version__},
        "warm_start": None,
        "trained_at": "2026-11-01T00:00:00+00:00",
    }
    (folder / "lineage.json").write_text(json.dumps(lineage))
    write_manifest(folder)
    return {**metrics, "gate": rules}


def _vector(row: catalogue.Row, tables: dict[str, Any]) -> list[float]:
    vector = [float("nan") if row.get(name) is None else float(row[name]) for name in _NUMBERS]
    levels = row.get("genres") or [_MISSING]
    for column in (0, 1):
        total = numpy.float64(0.0)
        for level in levels:
            total += numpy.float64(tables["genres"].get(level, (0.0, 0.0))[column])
        vector.append(float(total * (numpy.float64(1.0) / len(levels))))
    return vector


def _metrics(clicks: Any, probabilities: Any) -> dict[str, Any]:
    """Return the metrics that the gate reads."""
    order = numpy.argsort(probabilities)
    ranks = numpy.empty(len(order))
    ranks[order] = numpy.arange(1, len(order) + 1)
    clicked, base = int(clicks.sum()), float(clicks.mean())
    auc = (ranks[clicks].sum() - clicked * (clicked + 1) / 2) / (clicked * (len(clicks) - clicked))

    def loss(predicted: Any) -> float:
        return float(-numpy.mean(numpy.where(clicks, numpy.log(predicted), numpy.log1p(-predicted))))

    return {
        "synthetic": True,
        "rows_test": len(clicks),
        "clicks_test": clicked,
        "auc": float(auc),
        "log_loss": loss(probabilities),
        "base_log_loss": loss(numpy.full(len(clicks), base)),
        "calibration_gap": float(abs(probabilities.mean() - base)),
        "expected_calibration_error": float(abs(probabilities.mean() - base)),
        "mean_probability": float(probabilities.mean()),
        "probability_std": float(probabilities.std()),
        "commonest_probability_share": float(numpy.unique(probabilities, return_counts=True)[1].max() / len(clicks)),
    }


# --- outputs and state


def _outputs(cloud: Cloud, rolled_out: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    lines = (cost.Line("container registry", 5.08, "1 x Basic tier"), cost.Line("training units", None, "no price"))
    return {
        "lake_blob_endpoint": f"{cloud.url}/blob/lake/",
        "ml_workspace_id": cloud.workspace,
        "endpoint_name": ENDPOINT,
        "scoring_uri": rolled_out["scoring_uri"],
        "model_name": MODEL,
        "model_version": "9",
        "training_run_id": RUN,
        "training_snapshot": "day-1",
        "metrics": metrics,
        "model_card": f"{cloud.url}/blob/lake/models/{RUN}/model_card.html",
        "release": {"model": "trained", "rows": "movielens day-1", "engine": "native", "steps": "100"},
        "deployment": rolled_out["deployment"],
        "rollout": rolled_out["checks"],
        "capacity": capacity.plan(ServingSettings()).as_output(),
        "monthly_cost": cost.Estimate(lines, ("traffic out of Azure",), "2026-09-06").as_output(),
    }


def _state(cloud: Cloud, rolled_out: dict[str, Any]) -> list[Resource]:
    group = f"{cloud.group}/providers"
    lake = f"{group}/Microsoft.Storage/storageAccounts/lake"
    extensions = "providers/Microsoft.KubernetesConfiguration/extensions"
    azure = {
        "storage:StorageAccount": lake,
        "storage:BlobContainer": f"{lake}/blobServices/default/containers/models",
        "containerregistry:Registry": cloud.registry,
        "machinelearningservices:Workspace": cloud.workspace,
        "machinelearningservices:Datastore": f"{cloud.workspace}/datastores/lake",
        "machinelearningservices:Compute": f"{cloud.workspace}/computes/serving",
        "machinelearningservices:OnlineEndpoint": f"{cloud.workspace}/onlineEndpoints/{ENDPOINT}",
        "containerservice:ManagedCluster": cloud.cluster,
        "containerservice:TrustedAccessRoleBinding": f"{cloud.cluster}/trustedAccessRoleBindings/ml",
        "kubernetesconfiguration:Extension": f"{cloud.cluster}/{extensions}/azureml",
        "resources:ResourceGroup": cloud.group,
        "operationalinsights:Workspace": f"{group}/Microsoft.OperationalInsights/workspaces/log-never-made",
    }
    dynamic: dict[str, tuple[str, dict[str, Any]]] = {
        "lake:Snapshot": ("raw/movielens/day-1", {}),
        "databricks:Workload": ("/Shared/shop/code.whl", {}),
        "databricks:TrainingRun": (RUN, {"run_id": RUN}),
        "machinelearning:ModelVersion": (f"{MODEL}:9", {"model_name": MODEL, "version": "9", "run_id": RUN}),
        "containerregistry:ScoringImage": ("sha256:1234", {}),
        "machinelearning:EnvironmentVersion": ("scoring:2", {}),
        "machinelearning:Rollout": (ENDPOINT, rolled_out),
    }
    return [
        *(_resource(kind, resource_id, {"azureApiVersion": "2024-01-01"}) for kind, resource_id in azure.items()),
        *(_resource(kind, resource_id, outputs) for kind, (resource_id, outputs) in dynamic.items()),
    ]


def _resource(kind: str, resource_id: str, outputs: dict[str, Any]) -> Resource:
    return Resource(f"urn:{kind}", kind, resource_id, protected=False, retained=False, outputs=outputs)
