"""The plugin's process: its start by the engine, and its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import provider_pb2_grpc

from testing.sandbox.process import ROOT, gone

PLUGIN = ROOT / "sandbox/azure_native/bin/pulumi-resource-azure-native"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_plugin_prints_its_port_serves_and_ends_on_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen([PLUGIN, "127.0.0.1:1"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout is not None
        port = int(plugin.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert provider_pb2_grpc.ResourceProviderStub(channel).GetPluginInfo(Empty()).version == "3.29.0"
        plugin.send_signal(number)
        assert plugin.wait(timeout=5) == 0


def test_plugin_ends_with_a_killed_engine() -> None:
    engine = subprocess.Popen(
        ["sh", "-c", f"{PLUGIN} & echo $!; wait"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    plugin = int(engine.stdout.readline())
    int(engine.stdout.readline())
    engine.kill()
    engine.wait()
    engine.stdout.close()
    assert gone(plugin, within=5)


def test_starting_imports_neither_an_sdk_of_azure_nor_an_http_client() -> None:
    program = "import sys, sandbox.azure_native.__main__; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    heavy = {"azure.identity", "azure.core", "msal", "requests", "httpx", "pulumi_azure_native", "starlette"}
    assert heavy & set(shown.stdout.split()) == set()
