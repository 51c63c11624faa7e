"""The azure-native stand-in behind its real gRPC protocol, and the Pulumi engine with it on PATH."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import provider_pb2 as proto
from pulumi.runtime.proto import provider_pb2_grpc

from sandbox.azure_native.provider import AzureNative
from sandbox.azure_native.shape import UNKNOWN
from testing.sandbox.process import ROOT
from tools.pulumi_engine import pulumi_cli
from tools.steps import cache_folder

__all__ = ["UNKNOWN", "Provider", "engine", "provider"]

_SETTINGS = ("ARM_SUBSCRIPTION_ID", "ARM_TENANT_ID", "ARM_CLIENT_ID", "ARM_CLIENT_SECRET", "ARM_METADATA_HOSTNAME")


def struct(properties: Mapping[str, Any]) -> Struct:
    return json_format.ParseDict(dict(properties), Struct())


def plain(properties: Struct) -> dict[str, Any]:
    return dict(json_format.MessageToDict(properties))


@dataclass
class Provider:
    """Calls with the engine's names, and dictionaries for structures."""

    stub: Any

    def check(
        self, token: str, news: Mapping[str, Any], olds: Mapping[str, Any] | None = None, name: str = "it", **more: Any
    ) -> tuple[dict[str, Any], list[str]]:
        request = proto.CheckRequest(urn=urn(token, name), news=struct(news), olds=struct(olds or {}), **more)
        answer = self.stub.Check(request)
        return plain(answer.inputs), [failure.reason for failure in answer.failures]

    def checked(self, token: str, news: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        inputs, failures = self.check(token, news, **more)
        assert failures == []
        return inputs

    def diff(self, token: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> Any:
        return self.stub.Diff(proto.DiffRequest(urn=urn(token), old_inputs=struct(olds), news=struct(news)))

    def create(self, token: str, inputs: Mapping[str, Any], preview: bool = False) -> tuple[str, dict[str, Any]]:
        request = proto.CreateRequest(urn=urn(token), properties=struct(inputs), preview=preview)
        answer = self.stub.Create(request)
        return answer.id, plain(answer.properties)

    def read(
        self, token: str, address: str, outputs: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        answer = self.stub.Read(
            proto.ReadRequest(urn=urn(token), id=address, properties=struct(outputs), inputs=struct(inputs))
        )
        return answer.id, plain(answer.properties), plain(answer.inputs)

    def update(self, token: str, address: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
        request = proto.UpdateRequest(urn=urn(token), id=address, olds=struct(olds), news=struct(news))
        return plain(self.stub.Update(request).properties)

    def delete(self, token: str, address: str) -> None:
        self.stub.Delete(proto.DeleteRequest(urn=urn(token), id=address))

    def invoke(self, token: str, **arguments: Any) -> dict[str, Any]:
        answer = self.stub.Invoke(proto.InvokeRequest(tok=f"azure-native:{token}", args=struct(arguments)))
        return plain(getattr(answer, "return"))

    def configure(self, **settings: str) -> None:
        variables = {f"azure-native:config:{name}": value for name, value in settings.items()}
        self.stub.Configure(
            proto.ConfigureRequest(variables=variables, sends_old_inputs=True, sends_old_inputs_to_delete=True)
        )


def urn(token: str, name: str = "it") -> str:
    return f"urn:pulumi:stack::project::azure-native:{token}::{name}"


@contextmanager
def serving() -> Iterator[Provider]:
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(AzureNative(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Provider(provider_pb2_grpc.ResourceProviderStub(channel))
    server.stop(grace=None).wait()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider with a subscription and a location, and an unreachable cloud."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        served.configure(metadataHost="127.0.0.1:1", subscriptionId="s", location="westeurope")
        yield served


@dataclass
class Engine:
    """The Pulumi CLI on one project folder, with its own home and its state in a folder."""

    folder: Path
    cli: str
    environment: Mapping[str, str]

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [self.cli, *arguments, "--non-interactive"]
        return subprocess.run(
            command, cwd=self.folder, env=dict(self.environment), capture_output=True, text=True, timeout=300
        )

    def program(self, source: str) -> None:
        (self.folder / "__main__.py").write_text(source)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    installed = pulumi_cli.find(os.environ, cache_folder(os.environ))
    if installed is None:
        pytest.skip("needs the Pulumi CLI: make local installs it")
    cli = str(installed.folder / "pulumi")
    folder = tmp_path / "project"
    (folder / "state").mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text("name: project\nruntime: python\n")
    environment = {
        **os.environ,
        "PATH": f"{ROOT}/sandbox/azure_native/bin:{ROOT}/.venv/bin:{installed.folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_BACKEND_URL": f"file://{folder}/state",
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }
    return Engine(folder, cli, environment)
