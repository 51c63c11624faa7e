"""Tests of the scoring image: built by its Dockerfile, run without root on a read-only root file system.

CONTAINER_ENGINE names a file with the engine's address and the build arguments that the machine needs;
`make test-container` starts an engine and sets it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.release.serving_stage.image import build_arguments, build_context, context_digest
from sandbox import java
from testing.sandbox import machine_learning as ml
from testing.scoring import REPOSITORY, Toys, free_port, make_artefact, write_manifest, write_pipeline
from testing.waiting import eventually

# A session fixture that is imported would be created once per module.
pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.container
BAR = {"native": 200e6, "spark": 900e6}
"""Bytes of the unpacked image, as `docker images` counts them."""
MEMORY = {"native": 256 * 2**20, "spark": 2 * 2**30}
"""Memory limit of the container, in bytes."""
MEMORY_SHARE = 0.9
"""Most of the limit that a container may use after its first answers."""
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
START_SECONDS = {"native": 30, "spark": 240}
SBOM = "/opt/scoring/sbom.cdx.json"


@dataclass(frozen=True)
class Docker:
    address: str
    arguments: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: object, **options: Any) -> str:
        command = ["docker", "--host", self.address, *map(str, words)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if words[0] == "logs" else subprocess.PIPE}
        done = subprocess.run(command, check=False, **streams, **options)
        assert done.returncode == 0, (done.stdout + (done.stderr or b"")).decode(errors="replace")[-4000:]
        return done.stdout.decode().strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self(kind, "inspect", name))[0]
        return description


@dataclass(frozen=True)
class Running:
    container: str
    client: httpx.Client
    cold_start: float
    """Seconds from `docker run` to ready."""


@pytest.fixture(scope="module")
def docker() -> Docker:
    if not (file := os.environ.get("CONTAINER_ENGINE")):
        pytest.skip("CONTAINER_ENGINE is not set: `make test-container` sets it if a container engine is available")
    if sys.platform != "linux":
        pytest.skip("only on Linux is a container's host network that of the machine")
    engine = json.loads(Path(file).read_text())
    return Docker(engine["address"], engine["arguments"])


@pytest.fixture(scope="module", params=["native", "spark"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(docker: Docker, kind: str) -> Iterator[str]:
    name = f"personalization-test:{kind}-{os.getpid()}"
    arguments = {**docker.arguments, **build_arguments(kind, context_digest())}
    options = [part for item in arguments.items() for part in ("--build-arg", "=".join(item))]
    docker("build", "--network", "host", *options, "--tag", name, "-", input=build_context())
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture(scope="module")
def toys(kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Toys:
    folder = tmp_path_factory.mktemp("artefact")
    toys = make_artefact(folder / "toys")
    if kind == "spark":
        write_pipeline(request.getfixturevalue("spark"), toys.folder, folder / "scratch")
        write_manifest(toys.folder)
    return toys


@pytest.fixture(scope="module")
def running(docker: Docker, image: str, kind: str, toys: Toys) -> Iterator[Running]:
    variables = {
        "AZUREML_MODEL_DIR": "/model",
        "MODEL_NAME": "toys",
        "MODEL_VERSION": "3",
        "SCORING_HOST": "127.0.0.1",
        "SCORING_PORT": free_port(),
        "SCORING_DRAIN_SECONDS": 2,
        "JAVA_TOOL_OPTIONS": java.QUICK,
    }
    options = ["--network", "host", "--user", "10001:10001", "--read-only", "--tmpfs", "/tmp:exec"]
    options += ["--cap-drop", "ALL", "--memory", str(MEMORY[kind]), "--volume", f"{toys.folder}:/model:ro"]
    options += [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    began = time.monotonic()
    container = docker("run", "--detach", *options, image)
    client = httpx.Client(base_url=f"http://127.0.0.1:{variables['SCORING_PORT']}", timeout=20, trust_env=False)
    try:
        while status(client, "/ready") != 200:
            assert docker.inspect("container", container)["State"]["Running"], docker("logs", container)
            assert time.monotonic() < began + START_SECONDS[kind], docker("logs", container)
            time.sleep(0.02)
        yield Running(container, client, time.monotonic() - began)
    finally:
        client.close()
        docker("rm", "--force", container)


def status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def test_image_is_within_its_size_bar(docker: Docker, image: str, kind: str) -> None:
    assert docker.inspect("image", image)["Size"] <= BAR[kind]


def test_labels_name_the_sources_of_the_image(docker: Docker, image: str, kind: str) -> None:
    config = docker.inspect("image", image)["Config"]
    labels = config["Labels"]
    assert config["User"] == "10001:10001"
    assert labels["org.opencontainers.image.version"] == context_digest()
    assert labels["personalization.engine"] == kind
    assert labels["personalization.sbom"] == SBOM
    for pin in labels["personalization.versions"].split():
        assert f"\n{pin} " in (REPOSITORY / "scoring" / f"requirements-{kind}.txt").read_text()


def test_bill_of_materials_holds_packages_jars_and_the_system(docker: Docker, image: str, kind: str) -> None:
    bill = json.loads(docker("run", "--rm", "--network", "none", "--entrypoint", "cat", image, SBOM))
    components = {component["purl"].partition("@")[0]: component for component in bill["components"]}
    lock = (REPOSITORY / "scoring" / f"requirements-{kind}.txt").read_text()
    for pin in [line.split()[0] for line in lock.splitlines() if "==" in line and not line.startswith(("#", " "))]:
        name, _, version = pin.partition("==")
        assert components[f"pkg:pypi/{name}"]["version"] == version
    assert "pkg:deb/debian/libgomp1" in components
    spark = {"pkg:deb/debian/openjdk-17-jre-headless", "pkg:maven/com.microsoft.azure/synapseml-lightgbm_2.12"}
    assert spark & set(components) == (spark if kind == "spark" else set())


def test_image_holds_no_certificates_or_pip_settings_of_the_build_machine(docker: Docker, image: str) -> None:
    script = "ls /usr/local/share/ca-certificates 2>/dev/null; env"
    listed = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script)
    assert ".crt" not in listed
    assert "PIP_" not in listed


def test_container_reproduces_the_golden_rows(running: Running, kind: str, toys: Toys) -> None:
    answer = running.client.post("/score", json={"rows": toys.rows})
    assert answer.status_code == 200, answer.text
    expected = [toys.probability(row) for row in toys.rows]
    exactly = kind == "native"
    assert answer.json()["probabilities"] == (expected if exactly else pytest.approx(expected, abs=1e-6))
    assert status(running.client, "/live") == 200


def test_container_runs_without_root_and_writes_to_tmp_only(docker: Docker, running: Running) -> None:
    _, *processes = docker("top", running.container, "-o", "pid,uid").splitlines()
    assert {process.split()[1] for process in processes} == {"10001"}
    changed = docker("exec", running.container, "sh", "-c", "touch /opt/scoring/x 2>&1 || echo refused; touch /tmp/x")
    assert "refused" in changed


def memory_in_use(docker: Docker, container: str) -> float:
    """Bytes in use, from `docker stats`, such as `45.3MiB / 256MiB`."""
    usage = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).partition(" / ")[0]
    value = re.fullmatch(r"([\d.]+)(\w+)", usage)
    assert value, usage
    return float(value[1]) * UNITS[value[2]]


def test_container_is_ready_in_time_and_stays_within_its_memory(
    docker: Docker, running: Running, image: str, kind: str, toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints the figures for docs/benchmarks.md too."""
    assert running.client.post("/score", json={"rows": toys.rows}).status_code == 200
    size = docker.inspect("image", image)["Size"]
    used = memory_in_use(docker, running.container)
    with capsys.disabled():
        start = f"ready {running.cold_start:.1f} s after `docker run`"
        print(f"\n{kind}: {size / 1e6:.0f} MB, {start}, memory {used / 2**20:.0f} MiB")
    container = docker.inspect("container", running.container)
    assert running.cold_start <= START_SECONDS[kind]
    assert container["HostConfig"]["Memory"] == MEMORY[kind]
    assert 0 < used <= MEMORY_SHARE * MEMORY[kind]
    assert not container["State"]["OOMKilled"]


def test_stopping_container_is_not_ready_but_answers_until_it_ends(
    docker: Docker, running: Running, toys: Toys
) -> None:
    """Must be the last test of the fixture `running`, whose container it ends."""
    docker("kill", "--signal", "TERM", running.container)
    eventually(lambda: status(running.client, "/ready"), lambda code: code == 503, seconds=1.5)
    assert running.client.post("/score", json={"rows": toys.rows[:1]}).status_code == 200
    assert docker("wait", running.container) == "0"


def test_sandbox_builds_the_image_and_runs_it_in_deployments(
    docker: Docker, image: str, toys: Toys, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "spark":
        pytest.skip("the sandbox runs both images in the same way, so one of them is enough")
    monkeypatch.setattr(ml, "CONTEXT", {"Dockerfile": f"FROM {image}\nLABEL made-by=sandbox\n"})
    with ml.ml_sandbox(tmp_path / "sandbox") as cloud:
        shutil.copytree(toys.folder, cloud.folder / "accounts" / "lake" / "models" / "run-3")
        cloud.model("3", "")
        shutil.copy(toys.folder / "model.txt", cloud.folder / "accounts" / "lake" / "models" / "run-3")
        cloud.endpoint("ep-container")
        cloud.deploy("ep-container", "blue", model="3")
        answer = cloud.score("ep-container", {"rows": toys.rows}, deployment="blue")
        assert answer.json()["probabilities"] == [toys.probability(row) for row in toys.rows]

        ours = ("ps", "--all", "--quiet", "--filter", f"label=sandbox.folder={cloud.folder}")
        (container,) = docker(*ours).split()
        description = docker.inspect("container", container)
        config = description["Config"]
        assert description["HostConfig"]["ReadonlyRootfs"]
        assert config["User"] == "10001:10001"
        assert config["Labels"]["made-by"] == "sandbox"
        assert [variable for variable in config["Env"] if "SCORING_HOST" in variable] == ["SCORING_HOST=127.0.0.1"]

        cloud.kill()
        cloud.start()
        eventually(
            lambda: cloud.score("ep-container", {"rows": toys.rows[:1]}, deployment="blue"),
            lambda answer: answer.status_code == 200,
            seconds=30,
        )
        assert container not in docker(*ours).split()
        cloud.delete(f"{cloud.workspace}/onlineEndpoints/ep-container")
        assert docker(*ours) == ""
        cloud.delete(cloud.registry)
        assert "sandbox/" not in docker("images", "--format", "{{.Repository}}")
