"""Tests of the Spark engine: the same answers as the native engine, and recovery from failures."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from pyspark.sql import SparkSession

from benchmarks import abuse, soak
from cli import local_spark
from sandbox import java
from testing.scoring import (
    Running,
    Toys,
    free_port,
    make_artefact,
    random_row,
    scoring_environment,
    serving,
    wait_until_ready,
    write_manifest,
    write_pipeline,
)
from testing.waiting import eventually

# A session fixture that is imported would be created once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark
START_SECONDS = 600
SPARK = {"SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": f"{java.QUICK} {local_spark.java_options()}"}


def run(*command: object, cwd: Path) -> str:
    environment = {**scoring_environment(cwd), **SPARK}
    ended = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture(scope="module")
def jars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spark")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personalization-azure" / "ivy"
    run("-m", "scoring.engines.spark_jars", folder / "jars", cache, cwd=folder)
    return folder / "jars"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Toys:
    folder = tmp_path_factory.mktemp("artefact")
    toys = make_artefact(folder / "toys")
    write_pipeline(spark, toys.folder, folder / "scratch")
    write_manifest(toys.folder)
    return toys


@pytest.fixture(scope="module")
def environment(toys: Toys, jars: Path) -> dict[str, str]:
    return scoring_environment(toys.folder, SCORING_ENGINE="spark", SCORING_SPARK_JARS=jars, **SPARK)


@pytest.fixture(scope="module")
def service(environment: dict[str, str]) -> Iterator[Running]:
    with serving(environment, seconds=START_SECONDS) as running:
        yield running
        tree = psutil.Process(running.process.pid).children(recursive=True)
        with ThreadPoolExecutor() as pool:
            under_way = pool.submit(running.score, {"rows": [{"age": 1}] * 500})
            time.sleep(0.1)
            running.process.send_signal(signal.SIGTERM)
            assert under_way.result().status_code == 200, "a request in flight was dropped at the stop"
        assert running.process.wait(timeout=20) == 0
    assert not psutil.wait_procs(tree, timeout=5)[1], "a process outlived the service"


def java_process(service: Running) -> psutil.Process:
    tree = psutil.Process(service.process.pid).children(recursive=True)
    return next(process for process in tree if process.name() == "java")


def test_golden_rows_are_reproduced(service: Running, toys: Toys) -> None:
    golden = [json.loads(line) for line in (toys.folder / "golden.jsonl").read_text().splitlines()]
    served = service.probabilities([line["row"] for line in golden])
    assert served == pytest.approx([line["probability"] for line in golden], abs=1e-9)


def test_batches_and_rankings_equal_those_of_the_native_engine(service: Running, toys: Toys) -> None:
    rng = random.Random(5)
    rows = [random_row(rng) for _ in range(300)]
    assert service.probabilities(rows) == pytest.approx([toys.probability(row) for row in rows], abs=1e-9)
    body = {
        "user": {"age": 30, "hour": 20},
        "items": [{"id": i, "price": i / 3, "genres": ["Drama", 'a "quoted" \\ 😀']} for i in range(40)],
        "top": 12,
    }
    morning = {**body, "user": {"age": 30, "hour": 3}}
    with serving(scoring_environment(toys.folder)) as native:
        expected = [native.score(asked).json()["ranking"] for asked in (body, morning)]
    rankings = [service.score(asked).json()["ranking"] for asked in (body, morning)]
    assert [[item["id"] for item in ranking] for ranking in rankings] == [
        [item["id"] for item in ranking] for ranking in expected
    ]
    assert rankings[0] != rankings[1]


def test_malformed_requests_are_refused_by_the_service(service: Running) -> None:
    for body in (b"", b"null", b"{", b'{"rows": [{"age": "x"}]}', b'{"rows": [{}]}', b'{"rows": [{"price": NaN}]}'):
        response = service.client.post("/score", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400


def test_worst_bodies_are_refused_as_by_the_native_engine(service: Running) -> None:
    """Valid bodies: `test_batches_and_rankings_equal_those_of_the_native_engine`."""
    worst = {kind: body() for kind, body in abuse.WORST.items()}
    refused = {kind: body for kind, body in worst.items() if body.status != 200}
    assert {kind: abuse.cost(service, body).status for kind, body in refused.items()} == {
        kind: body.status for kind, body in refused.items()
    }


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{", b"[]", b'{"token": 1, "row": {"age": "x"}}', b'{"row": {"age": 1}}']
)
def test_worker_refuses_malformed_rows_and_keeps_running(service: Running, body: bytes) -> None:
    """The service never forwards such a row; Spark Serving alone would score it as a row of nulls."""
    for connection in java_process(service).net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN:
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(f"http://127.0.0.1:{connection.laddr.port}/score", content=body, trust_env=False)
                if answer.text == "not understood":
                    break
    assert (answer.status_code, answer.text) == (400, "not understood")
    assert service.score({"rows": [{"age": 1}]}).status_code == 200


def test_concurrent_clients_each_get_their_own_answer(service: Running, toys: Toys) -> None:
    """Spark Serving with two partitions would mix up their answers."""
    seen = soak.Outcomes()
    asyncio.run(soak.as_fast_as_answered(service.port, 1500, 16, soak.known_requests(toys, 1), seen))
    assert seen.wrong == 0
    assert set(seen.statuses) == {"200"}


def test_native_library_is_unpacked_once(service: Running) -> None:
    """SynapseML alone would unpack another copy into a new folder for each task that first uses the model."""
    scratch = Path(java_process(service).cwd())
    assert sorted(path.name for path in (scratch / "native").iterdir()) == ["lib_lightgbm.so", "lib_lightgbm_swig.so"]
    assert list(scratch.glob("mml-natives*")) == []
    mapped = {Path(region.path).parent for region in java_process(service).memory_maps() if "lightgbm" in region.path}
    assert mapped == {scratch / "native", *(path for path in mapped if path.suffix == ".jar" or path.name == "jars")}


def test_spark_listens_on_loopback_only(service: Running) -> None:
    listening = [c for c in java_process(service).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_killed_engine_restarts_and_gives_no_wrong_answer(service: Running, toys: Toys) -> None:
    row = toys.rows[0]
    expected = toys.probability(row)
    statuses, wrong = Counter[int](), list[str]()
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            response = service.score({"rows": [row]})
            statuses[response.status_code] += 1
            if response.status_code == 200 and abs(response.json()["probabilities"][0] - expected) > 1e-9:
                wrong.append(response.text)

    client = threading.Thread(target=load)
    client.start()
    try:
        eventually(lambda: statuses[200])
        java_process(service).kill()
        eventually(lambda: service.client.get("/ready").status_code == 503)
        eventually(lambda: statuses[503])
        wait_until_ready(service.client, service.process, START_SECONDS)
        answered = statuses[200]
        eventually(lambda: statuses[200] > answered)
    finally:
        done.set()
        client.join()
    assert not wrong
    assert set(statuses) == {200, 503}


def test_query_clears_its_history_makes_no_external_calls_and_restarts_in_the_same_jvm(
    toys: Toys, jars: Path, tmp_path: Path
) -> None:
    program = """
import http.client, json, os, pathlib, sys, threading, time
from scoring.engines.spark_worker import ServingQuery, _private, spark_session

def ask():
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            connection.request("POST", "/score", json.dumps({"token": 7, "row": {"age": 30}}))
            return json.loads(connection.getresponse().read())
        except OSError:
            time.sleep(0.1)

def requests_stored():
    server = serving._state().getServer("score")
    return _private(server, server.getClass(), "historyQueues").size()

def kill_the_query():
    answers = [ask() for _ in range(20)]
    deadline = time.monotonic() + 10
    while (history := requests_stored()) and time.monotonic() < deadline:
        time.sleep(0.1)
    first = serving.query
    first.stop()
    answers.append(ask())
    java = serving._jvm.java
    outside = java.net.ProxySelector.getDefault().select(java.net.URI("https://api.ipify.org"))
    print(json.dumps([answers, [first.isActive, serving.query.isActive], history, outside.toString()]), flush=True)
    os._exit(0)

artefact, jars, port = sys.argv[1:]
serving = ServingQuery(spark_session(pathlib.Path(jars), "1g"), pathlib.Path(artefact), int(port))
threading.Thread(target=kill_the_query).start()
serving.keep_running()
"""
    answers, running, history, outside = json.loads(run("-c", program, toys.folder, jars, free_port(), cwd=tmp_path))
    assert answers == [{"token": 7, "probability": pytest.approx(toys.probability({"age": 30}), abs=1e-9)}] * 21
    assert running == [False, True]
    assert history == 0
    # The source's request for this machine's public address goes to a closed port.
    assert outside == "[HTTP @ 127.0.0.1/<unresolved>:1]"


@pytest.mark.parametrize(
    ("missing", "message"),
    [("java", "JAVA_HOME"), ("jars", "SCORING_SPARK_JARS"), ("pipeline", "SCORING_ENGINE=native")],
)
def test_missing_requirement_of_spark_is_reported_before_the_start(
    environment: dict[str, str], tmp_path: Path, missing: str, message: str
) -> None:
    changes = {
        "java": {"JAVA_HOME": str(tmp_path)},
        "jars": {"SCORING_SPARK_JARS": str(tmp_path)},
        "pipeline": {"AZUREML_MODEL_DIR": str(make_artefact(tmp_path / "toys").folder)},
    }
    command = [sys.executable, "-m", "scoring"]
    changed = {**environment, "SCORING_PORT": str(free_port()), **changes[missing]}
    ended = subprocess.run(command, env=changed, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (1, 2)
    assert message in json.loads(ended.stderr.splitlines()[-1])["message"]
