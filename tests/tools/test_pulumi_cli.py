"""The choice of a Pulumi CLI, and its complete installation."""

import http.server
import importlib.metadata
import io
import os
import re
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.commands import Unavailable
from tools.pins import pin
from tools.pulumi_engine import pulumi_build, pulumi_cli, pulumi_release

PINNED = pin("pulumi").version


def _program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _cli(folder: Path, version: str) -> dict[str, str]:
    _program(folder, "pulumi", f"echo {version}")
    _program(folder, "pulumi-language-python", "")
    return {"PATH": str(folder)}


def test_program_sdk_and_module_carry_the_same_version() -> None:
    module = (pulumi_build.MODULE / "go.mod").read_text()
    assert importlib.metadata.version("pulumi") == PINNED
    assert set(re.findall(r"pulumi/pulumi/(?:pkg|sdk)/v3 v(\S+)", module)) == {PINNED}


@pytest.mark.parametrize("version", [f"v{PINNED}", "v3.260.0", "v3.1000.0", "v4.0.0-alpha.1", "3.300.1+dirty"])
def test_cli_on_the_path_is_used_if_it_is_the_pinned_version_or_newer(tmp_path: Path, version: str) -> None:
    found = pulumi_cli.find(_cli(tmp_path / "bin", version), tmp_path / "cache")
    assert found is not None
    assert (found.folder, found.is_ours) == (tmp_path / "bin", False)


@pytest.mark.parametrize("version", ["v3.258.9", "v3.26.0", "v2.999.0", "not a version", ""])
def test_older_or_unreadable_cli_is_not_used(tmp_path: Path, version: str) -> None:
    assert pulumi_cli.find(_cli(tmp_path / "bin", version), tmp_path / "cache") is None


def test_cli_without_a_python_language_host_is_not_used(tmp_path: Path) -> None:
    _program(tmp_path, "pulumi", f"echo v{PINNED}")
    assert pulumi_cli.find({"PATH": str(tmp_path)}, tmp_path / "cache") is None


def test_cached_cli_is_taken_with_the_stand_ins_of_this_project(tmp_path: Path) -> None:
    folder = tmp_path / "pulumi" / PINNED / "bin"
    environment = _cli(folder, f"v{PINNED}")
    _program(folder, "pulumi-language-python-exec", "")
    found = pulumi_cli.find(environment, tmp_path)
    assert found is not None
    assert found.is_ours
    assert pulumi_cli.refresh_stand_ins(folder)
    assert not pulumi_cli.refresh_stand_ins(folder)
    assert (folder / "pulumi-language-python").read_text() == Path(
        pulumi_cli.STAND_INS["pulumi-language-python"]
    ).read_text()
    assert os.access(folder / "pulumi-resource-pulumi-python", os.X_OK)


class _Releases(http.server.ThreadingHTTPServer):
    """Answers every request with `body`."""

    body = b""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def releases() -> Iterator[_Releases]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, _Releases)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Releases(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _release(version: str) -> bytes:
    """A tarball laid out like the official ones: everything in one folder, hosts of every language, real programs."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in {
            "pulumi/pulumi": f"#!/bin/sh\necho v{version}\n".encode(),
            "pulumi/pulumi-language-go": b"\x7fELF",
            "pulumi/pulumi-language-python": b"\x7fELF",
            "pulumi/pulumi-language-python-exec": b"",
            "pulumi/pulumi-resource-pulumi-python": b"#!/bin/sh\n",
            "pulumi/../../escaped": b"",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a recent Go and without network."""
    _program(
        tmp_path / "go",
        "go",
        '[ "$1" = env ] && { echo go1.26.8; exit; }\necho "dial tcp: connection refused" >&2; exit 1',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'go'}:/usr/bin:/bin")


def test_official_release_is_unpacked_with_its_own_language_host(
    tmp_path: Path, releases: _Releases, no_go: None
) -> None:
    releases.body = _release(PINNED)
    cache = tmp_path / "cache"
    assert pulumi_cli.install(cache, tmp_path, releases.address) == f"{PINNED}, the official release"

    found = pulumi_cli.find({"PATH": ""}, cache)
    assert found is not None
    assert sorted(file.name for file in found.folder.iterdir()) == [
        "pulumi",
        "pulumi-language-python",
        "pulumi-language-python-exec",
        "pulumi-resource-pulumi-python",
    ]
    assert not pulumi_cli.refresh_stand_ins(found.folder)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("body", [b"", b"<html>sign in to this network</html>", _release(PINNED)[:-40]])
def test_incomplete_or_foreign_release_is_not_taken(
    tmp_path: Path, releases: _Releases, no_go: None, body: bytes
) -> None:
    releases.body = body
    with pytest.raises(Unavailable, match="could not build"):
        pulumi_cli.install(tmp_path / "cache", tmp_path, releases.address)
    assert list((tmp_path / "cache" / "pulumi").iterdir()) == []


def test_release_of_another_version_is_refused(tmp_path: Path, releases: _Releases, no_go: None) -> None:
    releases.body = _release("3.1.0")
    with pytest.raises(Unavailable, match=rf"reports version 3\.1\.0, not {PINNED}"):
        pulumi_cli.install(tmp_path / "cache", tmp_path, releases.address)
    assert pulumi_cli.find({"PATH": ""}, tmp_path / "cache") is None


def test_unanswered_download_ends_within_seconds(tmp_path: Path, no_go: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi_release, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            pulumi_cli.install(tmp_path / "cache", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 3


def test_build_without_module_proxy_reports_the_remedy(tmp_path: Path, no_go: None) -> None:
    with pytest.raises(Unavailable, match=r"Go module proxy[\s\S]*docs/install[\s\S]*connection refused"):
        pulumi_cli.install(tmp_path / "cache", tmp_path, "http://127.0.0.1:9")


def test_lack_of_disk_space_is_reported_before_the_build(
    tmp_path: Path, no_go: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulumi_build, "_BUILD_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match="GB free"):
        pulumi_cli.install(tmp_path / "cache", tmp_path, "http://127.0.0.1:9")


@pytest.mark.parametrize(("version", "used"), [("go1.25.11", True), ("go1.26", True), ("go1.24.3", False)])
def test_only_a_go_that_the_module_accepts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, used: bool
) -> None:
    _program(tmp_path, "go", f"echo {version}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (pulumi_build._go_on_path() is not None) == used


def test_files_of_a_killed_build_are_removed(tmp_path: Path, releases: _Releases, no_go: None) -> None:
    (tmp_path / "cache" / "pulumi" / ".making-killed" / "modules").mkdir(parents=True)
    releases.body = _release(PINNED)
    pulumi_cli.install(tmp_path / "cache", tmp_path, releases.address)
    assert [folder.name for folder in (tmp_path / "cache" / "pulumi").iterdir()] == [PINNED]
