"""The runner inside a private network: its machine, and its agent, which registers for one job and keeps no secret.

The vault, the machine's identity service and GitHub are stand-ins in the agent's tests: one small HTTP server, with the
shapes of their documented answers. The agent, openssl and the programs it starts are real.
"""

import base64
import hashlib
import io
import json
import os
import pwd
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from infra.config.loading import ConfigError
from infra.runner import agent
from testing.stack.infra_graph import Graph, graph, settings
from testing.stack.infra_stack import RUNNER

PRIVATE = {"network__mode": "private", "personalization__production": "true"}
JIT = "encoded-jit-config"
GROUPS = """root daemon bin sys adm tty disk lp mail news uucp man proxy kmem dialout fax voice cdrom floppy tape sudo
audio dip www-data backup operator list irc src shadow utmp video sasl plugdev staff games users nogroup""".split()
"""Groups of base-passwd, of which every Debian and Ubuntu has all."""
RUN = """#!/bin/bash
{ echo "$@"; id -un; pwd; env; } > report.txt
"""


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(**PRIVATE, **RUNNER)


@dataclass
class Cloud:
    """Answers of the identity service, the vault and GitHub, and what each was asked."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    archive: bytes = b""
    digest: str = ""
    url: str = ""
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)

    @property
    def pem(self) -> str:
        """Private key in the form that GitHub generates."""
        form = serialization.PrivateFormat.TraditionalOpenSSL
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()

    def answer(self, method: str, path: str) -> Any:
        repository = "/repos/octo-org/personalization/actions/runners"
        where, _, _ = path.partition("?")
        if where == "/archive.tar.gz":
            return self.archive
        return {
            ("GET", "/metadata/identity/oauth2/token"): {"access_token": "identity-token"},
            ("GET", "/secrets/github-runner"): {"value": self.pem, "attributes": {"enabled": True}},
            ("POST", "/app/installations/5678/access_tokens"): {"token": "ghs_installation"},
            ("GET", f"{repository}/downloads"): [
                {"os": "osx", "architecture": "x64", "download_url": f"{self.url}/other", "filename": "other.tar.gz"},
                {
                    "os": "linux",
                    "architecture": "x64",
                    "download_url": f"{self.url}/archive.tar.gz",
                    "filename": "actions-runner-linux-x64-2.334.0.tar.gz",
                    "sha256_checksum": self.digest,
                },
            ],
            ("POST", f"{repository}/generate-jitconfig"): {"runner": {"id": 23}, "encoded_jit_config": JIT},
        }[method, where]

    def body_of(self, end: str) -> Any:
        return next(body for _, path, _, body in self.asked if path.endswith(end))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("run.sh")
        member.size, member.mode = len(RUN), 0o755
        archive.addfile(member, io.BytesIO(RUN.encode()))
    made.archive = buffer.getvalue()
    made.digest = hashlib.sha256(made.archive).hexdigest()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            login = self.headers.get("Authorization") or f"Metadata: {self.headers.get('Metadata')}"
            made.asked.append((self.command, self.path, login, json.loads(sent) if sent else None))
            answer = made.answer(self.command, self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def account() -> str:
    """The account that jobs run as here: another one where the tests run as root."""
    return "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def run_agent(cloud: Cloud, folder: Path) -> "subprocess.CompletedProcess[str]":
    config = {
        "repository": "octo-org/personalization",
        "app": 1234,
        "installation": 5678,
        "label": "prod-westeurope",
        "github": cloud.url,
        "identity": "client-id",
        "secret": f"{cloud.url}/secrets/github-runner",
        "vault_resource": "https://vault.azure.net",
        "metadata": cloud.url,
        "folder": str(folder),
        "user": account(),
    }
    path = folder.parent / "config.json"
    path.write_text(json.dumps(config))
    return subprocess.run([sys.executable, agent.__file__, str(path)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where everybody may enter, as on the machine: `/opt/personalization`."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o111)
    made = tmp_path / "runner"
    made.mkdir()
    return made


def test_agent_registers_for_one_job_with_a_token_for_this_repository_only(cloud: Cloud, folder: Path) -> None:
    done = run_agent(cloud, folder)
    assert done.returncode == 0, done.stderr
    logins = {path.partition("?")[0]: login for _, path, login, _ in cloud.asked}
    assert logins["/metadata/identity/oauth2/token"] == "Metadata: true"
    assert logins["/secrets/github-runner"] == "Bearer identity-token"
    claims = jwt.decode(
        logins["/app/installations/5678/access_tokens"].removeprefix("Bearer "),
        cloud.key.public_key(),
        algorithms=["RS256"],
    )
    assert claims["iss"] == "1234"
    assert claims["exp"] - claims["iat"] <= 600
    assert cloud.body_of("/access_tokens") == {
        "repositories": ["personalization"],
        "permissions": {"administration": "write"},
    }
    registration = cloud.body_of("/generate-jitconfig")
    assert registration["labels"] == ["self-hosted", "prod-westeurope"]
    assert registration["name"].startswith("prod-westeurope-")
    (report,) = folder.glob("jobs/*/report.txt")
    assert report.read_text().splitlines()[:3] == [f"--jitconfig {JIT}", account(), str(report.parent)]


def test_neither_a_job_nor_the_disk_has_a_secret(cloud: Cloud, folder: Path) -> None:
    assert run_agent(cloud, folder).returncode == 0
    (report,) = folder.glob("jobs/*/report.txt")
    for secret in ("identity-token", "ghs_installation", cloud.pem.splitlines()[1]):
        assert secret not in report.read_text()
        assert not [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_next_job_finds_no_files_of_the_previous_one(cloud: Cloud, folder: Path) -> None:
    for _ in range(2):
        assert run_agent(cloud, folder).returncode == 0
    assert len(list(folder.glob("jobs/*"))) == 1
    names = [body["name"] for _, path, _, body in cloud.asked if path.endswith("/generate-jitconfig")]
    assert len(set(names)) == 2
    assert len([path for _, path, _, _ in cloud.asked if path == "/archive.tar.gz"]) == 1, "the program is kept"


def test_program_of_another_digest_is_not_run(cloud: Cloud, folder: Path) -> None:
    cloud.digest = "0" * 64
    done = run_agent(cloud, folder)
    assert done.returncode == 1
    assert "does not have the digest that GitHub states" in done.stderr
    assert list(folder.rglob("*.sh")) == []


def test_machine_has_no_public_address_and_its_definition_no_secret(program: Graph) -> None:
    (scale_set,) = program.of("compute:VirtualMachineScaleSet")
    profile = scale_set.inputs["virtualMachineProfile"]
    (interface,) = profile["networkProfile"]["networkInterfaceConfigurations"]
    (address,) = interface["ipConfigurations"]
    assert address["subnet"]["id"].endswith("/subnets/nodes")
    assert "publicIPAddressConfiguration" not in address
    assert not {key for key in address if "Pool" in key}, "no load balancer leads to it"
    assert profile["osProfile"]["linuxConfiguration"]["disablePasswordAuthentication"] is True
    first_boot = yaml.safe_load(base64.b64decode(profile["osProfile"]["customData"]).decode().partition("\n")[2])
    files = {file["path"]: file["content"] for file in first_boot["write_files"]}
    assert files["/opt/personalization/agent.py"] == Path(agent.__file__).read_text()
    assert set(json.loads(files[agent.CONFIG])) == {
        *("repository", "app", "installation", "label", "github", "identity", "secret"),
        *("vault_resource", "metadata", "folder", "user"),
    }
    assert (
        f"ExecStart=/usr/bin/python3 /opt/personalization/agent.py {agent.CONFIG}"
        in files["/etc/systemd/system/personalization-runner.service"]
    )
    assert "ip daddr 169.254.169.254 meta skuid != 0 reject" in files["/etc/personalization-runner.nft"]


def test_administrator_is_not_named_like_a_group_of_ubuntu(program: Graph) -> None:
    (scale_set,) = program.of("compute:VirtualMachineScaleSet")
    profile = scale_set.inputs["virtualMachineProfile"]["osProfile"]
    assert profile["adminUsername"] not in GROUPS
    (key,) = profile["linuxConfiguration"]["ssh"]["publicKeys"]
    assert key["path"] == f"/home/{profile['adminUsername']}/.ssh/authorized_keys"


def test_identity_of_the_runner_reads_one_secret_and_nothing_else(program: Graph) -> None:
    by_principal: dict[str, list[tuple[str, str]]] = {}
    for found in program.of("authorization:RoleAssignment"):
        by_principal.setdefault(found.inputs["principalId"], []).append((found.name, found.inputs["scope"]))
    (granted,) = (grants for grants in by_principal.values() if any(name.startswith("runner-") for name, _ in grants))
    assert [name for name, _ in granted] == ["runner-key-vault-secrets-user-on-secret"]
    assert granted[0][1].endswith("/vault/secrets/github-runner")


def test_changed_definition_does_not_change_running_machines(program: Graph) -> None:
    (scale_set,) = program.of("compute:VirtualMachineScaleSet")
    assert scale_set.inputs["upgradePolicy"] == {"mode": "Manual"}


def test_stack_without_a_repository_has_no_runner() -> None:
    found = graph(**PRIVATE)
    assert found.of("compute:VirtualMachineScaleSet") == []
    assert not [resource for resource in found.resources if "runner" in resource.name]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**RUNNER, "network__mode": "public"}, "runner:repository is set, but network:mode is public"),
        (
            {"network__mode": "private", "runner__repository": "octo-org/personalization"},
            "a runner also needs runner:app, runner:installation, runner:ssh_key: set all of them",
        ),
        ({"network__mode": "private", **RUNNER, "runner__repository": "personalization"}, "runner:repository: "),
        ({"network__mode": "private", **RUNNER, "runner__ssh_key": "-----BEGIN"}, "runner:ssh_key: "),
    ],
)
def test_incomplete_runner_is_refused(config: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(**config)
