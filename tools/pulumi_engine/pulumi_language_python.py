#!/usr/bin/env python3
"""A Python language host for a Pulumi CLI that was built from its Go module, without the official host.

The engine starts it as `pulumi-language-python [flags] ENGINE_ADDRESS`, reads a port from its first line and speaks
`LanguageRuntime` with it. Programs, plugins and policy packs run under the `python3` first on PATH, this one.

Does not create environments, install packages or generate code (`pulumi convert`, `pulumi package add`), and refuses
runtime options of Pulumi.yaml rather than ignore them.
"""

import importlib.metadata
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

try:
    import grpc
    from google.protobuf.empty_pb2 import Empty
    from pulumi.runtime.proto import language_pb2 as language
    from pulumi.runtime.proto import language_pb2_grpc, plugin_pb2
except ImportError as missing:
    sys.exit(
        f"pulumi-language-python: {sys.executable}, the python3 first on PATH, has no Pulumi SDK ({missing}). "
        "Activate the project's environment first: . .venv/personalization.sh"
    )

EXECUTOR = Path(__file__).resolve().with_name("pulumi-language-python-exec")
ALREADY_SHOWN = 32
"""Exit code of the executor for an error that the user has already been shown."""


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._running: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        for process in list(self._running):
            process.kill()

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._engine = request.engine_address
        return language.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Empty, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=importlib.metadata.version("pulumi"))

    def About(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.AboutResponse(executable=sys.executable, version=platform.python_version())

    def GetProgramDependencies(self, request: Any, context: grpc.ServicerContext) -> Any:
        installed = {found.name: found.version for found in importlib.metadata.distributions()}
        return language.GetProgramDependenciesResponse(
            dependencies=[language.DependencyInfo(name=name, version=installed[name]) for name in sorted(installed)]
        )

    def GetRequiredPackages(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.GetRequiredPackagesResponse(packages=_provider_packages())

    def GetRequiredPlugins(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.GetRequiredPluginsResponse(plugins=_provider_packages(plugin_pb2.PluginDependency))

    def Cancel(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        return Empty()

    def _needs_official_host(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this needs the official Pulumi CLI: www.pulumi.com/docs/install")

    Template = GenerateProgram = GenerateProject = GeneratePackage = Pack = Link = _needs_official_host

    def RuntimeOptionsPrompts(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.RuntimeOptionsResponse()

    def InstallDependencies(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield language.InstallDependenciesResponse(stdout=b"The Python environment is that of `make local`.\n")

    def Run(self, request: Any, context: grpc.ServicerContext) -> Any:
        refused = _refused_options(request.info)
        if refused:
            return language.RunResponse(error=refused)
        settings = {
            "monitor": request.monitor_address,
            "engine": self._engine,
            "project": request.project,
            "stack": request.stack,
            "pwd": request.pwd,
            "dry_run": str(request.dryRun).lower(),
            "parallel": str(request.parallel),
            "organization": request.organization,
            "root_directory": request.info.root_directory,
        }
        flags = [part for name, value in settings.items() if value for part in (f"--{name}", value)]
        process = self._start(
            [EXECUTOR, *flags, _program(request.info), *request.args],
            context,
            env={
                **os.environ,
                "PULUMI_CONFIG": json.dumps(dict(request.config)),
                "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
            },
        )
        code = process.wait()
        if code == ALREADY_SHOWN:
            return language.RunResponse(bail=True)
        return language.RunResponse(error=_ending(code))

    def RunPlugin(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        refused = _refused_options(request.info)
        if refused:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, refused)
        program = _program(request.info)
        arguments = (
            ["-m", "pulumi.policy", *request.args, program] if request.kind == "analyzer" else [program, *request.args]
        )
        process = self._start(
            arguments,
            context,
            env=dict(entry.split("=", 1) for entry in request.env),
            cwd=request.pwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for is_error, chunk in _interleaved(process):
            yield language.RunPluginResponse(stderr=chunk) if is_error else language.RunPluginResponse(stdout=chunk)
        yield language.RunPluginResponse(exitcode=process.wait())

    def _start(
        self, arguments: list[str | Path], context: grpc.ServicerContext, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a Python process that ends with its call, because the engine stops programs and plugins by that."""
        process = subprocess.Popen([sys.executable, "-u", *arguments], stdin=subprocess.DEVNULL, **options)
        self._running.add(process)

        def ended() -> None:
            process.kill()
            process.wait()
            self._running.discard(process)

        if not context.add_callback(ended):
            ended()
        return process


def _program(info: Any) -> str:
    return str(Path(info.program_directory, info.entry_point or "."))


def _refused_options(info: Any) -> str:
    unknown = sorted({"virtualenv", "toolchain", "typechecker"} & set(info.options))
    if not unknown:
        return ""
    return (
        f"runtime option {', '.join(unknown)}: this language host has one environment, that of the python3 first on "
        f"PATH ({sys.executable}). Remove the option from the project file."
    )


def _ending(code: int) -> str:
    if code < 0:
        return f"Program was ended by {signal.Signals(-code).name}"
    return f"Program exited with non-zero exit code: {code}" if code else ""


def _provider_packages(message: Any = plugin_pb2.PackageDependency) -> list[Any]:
    """The providers that installed SDKs name in their `pulumi-plugin.json`."""
    found = []
    for folder in sys.path:
        for file in Path(folder or ".").glob("*/pulumi-plugin.json"):
            plugin = json.loads(file.read_text())
            if plugin.get("resource"):
                found.append(
                    message(
                        kind="resource",
                        name=plugin.get("name") or file.parent.name.removeprefix("pulumi_").replace("_", "-"),
                        version=plugin.get("version", ""),
                        server=plugin.get("server", ""),
                    )
                )
    return found


def _interleaved(process: "subprocess.Popen[bytes]") -> Iterator[tuple[bool, bytes]]:
    """Chunks of a process's output in order, each with whether it is of the error stream, until both have ended."""
    arrived: queue.SimpleQueue[tuple[bool, bytes]] = queue.SimpleQueue()

    def forward(stream: IO[bytes], is_error: bool) -> None:
        while chunk := os.read(stream.fileno(), 1 << 16):
            arrived.put((is_error, chunk))
        arrived.put((is_error, b""))

    assert process.stdout
    assert process.stderr
    for stream, is_error in ((process.stdout, False), (process.stderr, True)):
        threading.Thread(target=forward, args=(stream, is_error), daemon=True).start()
    ended = 0
    while ended < 2:
        is_error, chunk = arrived.get()
        if chunk:
            yield is_error, chunk
        else:
            ended += 1


def main() -> None:
    parent = os.getppid()
    engine = sys.argv[-1] if len(sys.argv) > 1 else ""
    asked_to_leave = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_leave.set())

    host = LanguageHost(engine)
    # Each running program, plugin and policy pack holds a thread for as long as it lives.
    server = grpc.server(ThreadPoolExecutor(max_workers=32))
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    # A killed engine sends no signal: then only the new parent process id shows its end.
    while not asked_to_leave.wait(0.5) and os.getppid() == parent:
        pass
    host.stop()
    server.stop(grace=None)
    # Threads of calls that were just cut off must not hold the process.
    os._exit(0)


if __name__ == "__main__":
    main()
