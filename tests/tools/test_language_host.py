"""The stand-in Python language host: its answers to the engine, its processes, and their end with the engine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import language_pb2 as language
from pulumi.runtime.proto.language_pb2_grpc import LanguageRuntimeStub

from testing.waiting import eventually
from tools import steps
from tools.pins import pin
from tools.pulumi_engine import pulumi_cli

SOURCE = pulumi_cli.STAND_INS["pulumi-language-python"]

RECORDING_EXECUTOR = """
import json, os, sys, time
program = sys.argv[sys.argv.index("--root_directory") + 2]
record = {"arguments": sys.argv[1:], "config": json.loads(os.environ["PULUMI_CONFIG"]),
          "secrets": json.loads(os.environ["PULUMI_CONFIG_SECRET_KEYS"])}
with open(os.path.join(program, "record.json"), "w") as file:
    json.dump(record, file)
exec(open(os.path.join(program, "ending.py")).read())
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A running host. Its executor records its arguments and environment, then runs the program's `ending.py`."""
    installed = tmp_path / "bin" / "pulumi-language-python"
    installed.parent.mkdir()
    shutil.copyfile(SOURCE, installed)
    installed.with_name("pulumi-language-python-exec").write_text(RECORDING_EXECUTOR)
    process = subprocess.Popen(
        [sys.executable, installed, "--tracing", "file:trace", "-v=9", "127.0.0.1:1234"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def runtime(host: "subprocess.Popen[bytes]") -> Iterator[LanguageRuntimeStub]:
    assert host.stdout
    with grpc.insecure_channel(f"127.0.0.1:{int(host.stdout.readline())}") as channel:
        yield LanguageRuntimeStub(channel)


def _program(folder: Path, ending: str = "", **options: str) -> language.ProgramInfo:
    folder.mkdir(exist_ok=True)
    (folder / "ending.py").write_text(ending)
    info = language.ProgramInfo(root_directory=str(folder), program_directory=str(folder), entry_point=".")
    info.options.update(options)
    return info


def test_host_reports_its_version_and_the_providers_of_installed_sdks(runtime: LanguageRuntimeStub) -> None:
    assert runtime.GetPluginInfo(Empty()).version == pin("pulumi").version
    assert runtime.About(language.AboutRequest()).executable == sys.executable
    packages = runtime.GetRequiredPackages(language.GetRequiredPackagesRequest()).packages
    assert [(package.kind, package.name) for package in packages] == [("resource", "azure-native")]
    dependencies = runtime.GetProgramDependencies(language.GetProgramDependenciesRequest()).dependencies
    assert "pulumi" in {dependency.name for dependency in dependencies}


def test_program_gets_all_settings_of_the_engine(runtime: LanguageRuntimeStub, tmp_path: Path) -> None:
    answer = runtime.Run(
        language.RunRequest(
            project="p",
            stack="s",
            pwd=str(tmp_path),
            monitor_address="127.0.0.1:5678",
            dryRun=True,
            parallel=8,
            organization="o",
            config={"p:key": '{"with": "json"}'},
            configSecretKeys=["p:secret"],
            info=_program(tmp_path / "program"),
        )
    )
    assert (answer.error, answer.bail) == ("", False)
    record = json.loads((tmp_path / "program" / "record.json").read_text())
    given = record["arguments"]
    assert dict(zip(given[0:-1:2], given[1:-1:2], strict=True)) == {
        "--monitor": "127.0.0.1:5678",
        "--engine": "127.0.0.1:1234",
        "--project": "p",
        "--stack": "s",
        "--pwd": str(tmp_path),
        "--dry_run": "true",
        "--parallel": "8",
        "--organization": "o",
        "--root_directory": str(tmp_path / "program"),
    }
    assert given[-1] == str(tmp_path / "program")
    assert record["config"] == {"p:key": '{"with": "json"}'}
    assert record["secrets"] == ["p:secret"]


@pytest.mark.parametrize(
    ("ending", "error", "bail"),
    [
        ("", "", False),
        ("sys.exit(32)", "", True),
        ("sys.exit(3)", "Program exited with non-zero exit code: 3", False),
        ("os.kill(os.getpid(), 9)", "Program was ended by SIGKILL", False),
    ],
)
def test_end_of_a_program_is_reported_once(
    runtime: LanguageRuntimeStub, tmp_path: Path, ending: str, error: str, bail: bool
) -> None:
    answer = runtime.Run(language.RunRequest(info=_program(tmp_path / "program", ending)))
    assert (answer.error, answer.bail) == (error, bail)


def test_unknown_runtime_option_is_refused(runtime: LanguageRuntimeStub, tmp_path: Path) -> None:
    answer = runtime.Run(language.RunRequest(info=_program(tmp_path / "program", virtualenv="venv")))
    assert answer.error.startswith("runtime option virtualenv: this language host has one environment")


def test_plugin_runs_in_its_environment_and_both_its_streams_arrive(
    runtime: LanguageRuntimeStub, tmp_path: Path
) -> None:
    info = _program(tmp_path / "plugin")
    (tmp_path / "plugin" / "__main__.py").write_text(
        "import os, sys\nprint(os.environ['WHO'], sys.argv[1], os.getcwd())\n"
        "print('to stderr', file=sys.stderr)\nsys.exit(5)\n"
    )
    request = language.RunPluginRequest(
        info=info, kind="resource", args=["127.0.0.1:1"], env=["WHO=a=b"], pwd=str(tmp_path)
    )
    messages = list(runtime.RunPlugin(request))
    assert b"".join(message.stdout for message in messages).decode() == f"a=b 127.0.0.1:1 {tmp_path}\n"
    assert b"".join(message.stderr for message in messages) == b"to stderr\n"
    assert messages[-1].exitcode == 5


def test_plugin_ends_when_its_call_is_cancelled(runtime: LanguageRuntimeStub, tmp_path: Path) -> None:
    info = _program(tmp_path / "plugin")
    (tmp_path / "plugin" / "__main__.py").write_text("import os, time\nprint(os.getpid())\ntime.sleep(600)\n")
    call = runtime.RunPlugin(language.RunPluginRequest(info=info, kind="resource", pwd=str(tmp_path)))
    plugin = int(next(call).stdout)
    call.cancel()
    eventually(lambda: not psutil.pid_exists(plugin), seconds=10)


def test_methods_of_the_official_host_alone_are_refused_with_a_hint(runtime: LanguageRuntimeStub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        runtime.GenerateProgram(language.GenerateProgramRequest())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "official Pulumi CLI" in refused.value.details()


def test_interrupt_ends_the_host_without_output(host: "subprocess.Popen[bytes]") -> None:
    assert host.stdout
    host.stdout.readline()
    host.send_signal(signal.SIGINT)
    rest, errors = host.communicate(timeout=10)
    assert (host.returncode, rest, errors) == (0, b"", b"")


def test_nothing_outlives_a_killed_engine(tmp_path: Path) -> None:
    """The engine here is a process that starts the host, has it run a program, and is killed meanwhile."""
    installed = tmp_path / "pulumi-language-python"
    shutil.copyfile(SOURCE, installed)
    installed.with_name("pulumi-language-python-exec").write_text(RECORDING_EXECUTOR)
    program = tmp_path / "program"
    _program(program, f"open({str(program / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    engine = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import grpc, subprocess, sys\n"
            "from pulumi.runtime.proto import language_pb2 as language\n"
            "from pulumi.runtime.proto.language_pb2_grpc import LanguageRuntimeStub\n"
            "host = subprocess.Popen([sys.executable, sys.argv[1], 'x'], stdout=subprocess.PIPE)\n"
            "port = int(host.stdout.readline())\n"
            "print(host.pid, flush=True)\n"
            "info = language.ProgramInfo(root_directory=sys.argv[2], program_directory=sys.argv[2], entry_point='.')\n"
            "LanguageRuntimeStub(grpc.insecure_channel(f'127.0.0.1:{port}')).Run(language.RunRequest(info=info))\n",
            installed,
            program,
        ],
        stdout=subprocess.PIPE,
    )
    assert engine.stdout
    host = int(engine.stdout.readline())
    eventually(lambda: (program / "pid").exists() and (program / "pid").read_text(), seconds=10)
    started = int((program / "pid").read_text())
    engine.kill()
    engine.wait()
    engine.stdout.close()
    eventually(lambda: not psutil.pid_exists(host) and not psutil.pid_exists(started), seconds=10)


PROGRAM = """
import time
import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

class Shouting(ResourceProvider):
    def create(self, props):
        time.sleep(props["seconds"])
        return CreateResult("1", {**props, "loud": props["word"].upper()})

class Shout(Resource):
    loud: pulumi.Output[str]
    def __init__(self, name, word, seconds):
        super().__init__(Shouting(), name, {"word": word, "seconds": seconds, "loud": None})

config = pulumi.Config()
pulumi.export("loud", Shout("shout", config.require("word"), config.get_int("seconds") or 0).loud)
"""


@pytest.fixture
def pulumi(tmp_path: Path) -> tuple[list[str], dict[str, str], Path]:
    """The real CLI, its environment and a project with one dynamic resource in a stack on disk."""
    cli = pulumi_cli.find(os.environ, steps.cache_folder(os.environ))
    if cli is None:
        pytest.skip("no Pulumi CLI here: make bootstrap")
    if cli.is_ours:
        pulumi_cli.refresh_stand_ins(cli.folder)
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "state").mkdir()
    (project / "Pulumi.yaml").write_text("name: tiny\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{cli.folder}:{os.environ['PATH']}",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }
    command = [str(cli.folder / "pulumi"), "--non-interactive"]
    for arguments in (["stack", "init", "dev"], ["config", "set", "word", "hello"]):
        subprocess.run([*command, *arguments], cwd=project, env=environment, check=True, capture_output=True)
    return command, environment, project


@pytest.mark.stack
def test_real_engine_brings_up_keeps_and_destroys_a_dynamic_resource(
    pulumi: tuple[list[str], dict[str, str], Path],
) -> None:
    command, environment, project = pulumi

    def run_pulumi(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run_pulumi("up", "--yes", "--skip-preview")
    assert run_pulumi("stack", "output", "loud").strip() == "HELLO"
    run_pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    run_pulumi("config", "set", "word", "bye")
    run_pulumi("destroy", "--yes", "--skip-preview")


@pytest.mark.stack
def test_failing_program_shows_its_own_line_and_no_other_error(
    pulumi: tuple[list[str], dict[str, str], Path],
) -> None:
    command, environment, project = pulumi
    (project / "__main__.py").write_text("raise ValueError('broken')\n")
    failed = subprocess.run(
        [*command, "up", "--yes", "--skip-preview"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert failed.returncode != 0
    assert "ValueError: broken" in failed.stdout
    assert "exit code" not in failed.stdout


@pytest.mark.stack
def test_no_process_outlives_a_killed_engine_in_the_middle_of_a_create(
    pulumi: tuple[list[str], dict[str, str], Path],
) -> None:
    command, environment, project = pulumi
    if not (Path(command[0]).parent / "pulumi-language-python").read_bytes().startswith(b"#!"):
        pytest.skip("the official helpers of dynamic providers live on when their engine is killed")
    subprocess.run([*command, "config", "set", "seconds", "600"], cwd=project, env=environment, check=True)
    engine = subprocess.Popen(
        [*command, "up", "--yes", "--skip-preview"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def descendants() -> list[psutil.Process]:
        return psutil.Process(engine.pid).children(recursive=True)

    def provider_started() -> bool:
        commands = []
        for process in descendants():
            # A helper of the engine may end before it is inspected.
            with contextlib.suppress(psutil.NoSuchProcess):
                commands.append(" ".join(process.cmdline()))
        return any("pulumi-resource-pulumi-python" in command for command in commands)

    eventually(provider_started, seconds=30)
    started = descendants()
    engine.kill()
    engine.wait()
    eventually(lambda: not any(process.is_running() for process in started), seconds=10)
