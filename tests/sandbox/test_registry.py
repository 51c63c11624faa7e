"""The registry's builds, with the SDKs that a deployment uses."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient

from sandbox.registry import images
from testing.sandbox.machine_learning import CONTEXT, GROUP, INSTALL, REGISTRY, Cloud, ml_sandbox
from testing.sandbox.process import is_alive, sandbox_command
from testing.waiting import eventually


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ml_sandbox(tmp_path_factory.mktemp("registry")) as cloud:
        yield cloud


def digest(run: Any) -> str:
    found: str = run.output_images[0].digest
    return found


def test_pushed_image_is_named_by_registry_repository_tag_and_digest(cloud: Cloud) -> None:
    run = cloud.build(CONTEXT)
    images = [(image.registry, image.repository, image.tag) for image in run.output_images]
    server = f"{cloud.authority}/{REGISTRY}"
    assert images == [(server, "scoring", run.run_id), (server, "scoring", "latest")]
    assert digest(run).startswith("sha256:")


def test_same_content_has_the_same_digest_and_is_built_once(cloud: Cloud) -> None:
    context = {**CONTEXT, "data.txt": "once"}
    first, second = cloud.build(context), cloud.build(dict(reversed(context.items())), mtime=1_700_000_000)
    assert digest(first) == digest(second)
    assert "installed engine native" in cloud.log(first)
    assert "installed engine native" not in cloud.log(second)


@pytest.mark.parametrize(
    "changed",
    [
        {"files": {**CONTEXT, "service.py": "print()"}},
        {"files": {**CONTEXT, "run.sh": CONTEXT["service.py"]}},
        {"files": CONTEXT, "arguments": [{"name": "ENGINE", "value": "spark"}]},
    ],
)
def test_other_content_or_arguments_have_another_digest(cloud: Cloud, changed: dict[str, Any]) -> None:
    assert digest(cloud.build(**changed)) != digest(cloud.build(CONTEXT))


def test_failed_build_reports_the_reason_and_leaves_no_image(cloud: Cloud) -> None:
    context = {**CONTEXT, "install.sh": INSTALL.replace("set -eu", "echo no wheel for lightgbm >&2; exit 3")}
    for _ in range(2):
        run = cloud.build(context)
        assert run.status == "Failed"
        assert "exit code 3" in run.run_error_message
        assert "no wheel for lightgbm" in cloud.log(run)
        assert not run.output_images


def test_subscription_on_free_credits_may_not_build(cloud: Cloud) -> None:
    table = cloud.folder / "offerings.yaml"
    table.write_text("offer: FreeTrial_2014-09-01\n")
    try:
        with pytest.raises(HttpResponseError, match="Please file an Azure support request") as refused:
            cloud.build(CONTEXT)
    finally:
        table.unlink()
    assert refused.value.error
    assert (refused.value.status_code, refused.value.error.code) == (400, "TasksOperationsNotAllowed")


@pytest.mark.parametrize(
    ("context", "more", "reason"),
    [
        ({"install.sh": INSTALL}, {}, "holds no 'Dockerfile'"),
        ({"Dockerfile": "FROM scratch"}, {}, "needs an install.sh"),
        ({"Dockerfile": "FROM scratch", "install.sh": INSTALL}, {"arguments": []}, "build argument ENGINE"),
        ({"Dockerfile": "FROM scratch", "install.sh": "#!/bin/sh\n"}, {}, "no executable bin/serve"),
    ],
)
def test_incomplete_context_fails_with_the_missing_part(
    cloud: Cloud, context: dict[str, str], more: dict[str, Any], reason: str
) -> None:
    run = cloud.build(context, **more)
    assert run.status == "Failed"
    assert reason in run.run_error_message
    assert reason in cloud.log(run)


def test_omitted_argument_has_the_default_of_the_dockerfile(cloud: Cloud) -> None:
    run = cloud.build({**CONTEXT, "data.txt": "default"}, arguments=[])
    assert "installed engine native" in cloud.log(run)


def test_build_does_not_see_cloud_secrets(cloud: Cloud) -> None:
    log = cloud.log(cloud.build({**CONTEXT, "install.sh": INSTALL.replace("set -eu", "set -eu; env")}))
    assert "PYTHON=" in log
    assert cloud.environment["AZURE_CLIENT_SECRET"] not in log


def test_upload_that_is_not_an_archive_fails_the_run(cloud: Cloud) -> None:
    assert "not a readable .tar.gz archive" in build_of(cloud, b"not an archive").run_error_message


def build_of(cloud: Cloud, archive: bytes) -> Any:
    """The build of an uploaded context."""
    source = cloud.tasks.registries.get_build_source_upload_url(GROUP, REGISTRY)
    BlobClient.from_blob_url(source.upload_url, connection_verify=cloud.ca_bundle).upload_blob(archive)
    return cloud.schedule(source.relative_path)


def test_container_engine_is_chosen_at_the_first_start(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINER_ENGINE", str(tmp_path / "engine.json"))
    assert "is not a JSON file" in sandbox_command("start", cloud.folder).stderr
    (tmp_path / "engine.json").write_text('{"address": "unix:///nowhere.sock"}')
    assert "first started without a container engine" in sandbox_command("start", cloud.folder).stderr


def packed(folder: Path, name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> Path:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    with tarfile.open(folder / "context.tar.gz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO())
    return folder / "context.tar.gz"


@pytest.mark.parametrize(
    "member",
    [
        ("../outside",),
        ("/outside",),
        ("link", tarfile.SYMTYPE, "../outside"),
        ("link", tarfile.LNKTYPE, "/etc/hostname"),
        ("pipe", tarfile.FIFOTYPE),
    ],
)
def test_context_that_leads_outside_is_refused(cloud: Cloud, member: tuple[Any, ...], tmp_path: Path) -> None:
    run = build_of(cloud, packed(tmp_path, *member).read_bytes())
    assert run.status == "Failed"
    assert f"holds '{member[0]}'" in run.run_error_message


def test_context_is_unpacked_by_a_python_without_tar_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2 of Debian 12 has no filters."""
    monkeypatch.delattr(tarfile, "data_filter")

    def extractall(archive: tarfile.TarFile, path: Path) -> None:
        for member in archive:
            archive.extract(member, path)

    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
    images._unpack(packed(tmp_path, "Dockerfile"), tmp_path / "context")
    assert [path.name for path in (tmp_path / "context").iterdir()] == ["Dockerfile"]


@pytest.mark.parametrize("location", ["sources/none.tar.gz", "../../resources.sqlite", "https://github.com/a/b.git"])
def test_only_uploaded_contexts_are_built(cloud: Cloud, location: str) -> None:
    with pytest.raises(HttpResponseError, match="is invalid or doesn't exists"):
        cloud.schedule(location)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"type": "EncodedTaskRunRequest"}, "'type'"),
        ({"platform": {"os": "Windows"}}, "'platform.os'"),
        ({"timeout": 1}, "'timeout'"),
        ({"imageNames": ["Upper:case"]}, "lower case"),
    ],
)
def test_invalid_build_request_is_refused(cloud: Cloud, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(HttpResponseError, match=reason):
        cloud.build(CONTEXT, **more)


def test_link_admits_to_its_own_path_only(cloud: Cloud) -> None:
    link = cloud.tasks.runs.get_log_sas_url(GROUP, REGISTRY, cloud.build(CONTEXT).run_id).log_link
    other = cloud.build(CONTEXT).run_id
    path, _, signature = link.partition("?")
    assert cloud.http.get(f"{path.rpartition('/')[0]}/{other}.log?{signature}").status_code == 403
    assert cloud.http.get(path).status_code == 403
    assert cloud.http.get(link).status_code == 200


def test_build_interrupted_by_the_end_of_the_sandbox_is_failed(cloud: Cloud) -> None:
    context = {**CONTEXT, "install.sh": "#!/bin/sh\necho pid $$\nexec sleep 60\n"}
    run = cloud.build(context, wait=False)
    eventually(lambda: "pid" in cloud.log(run))
    builder = int(cloud.log(run).rpartition("pid ")[2])
    cloud.kill()
    cloud.start()
    run = cloud.tasks.runs.get(GROUP, REGISTRY, run.run_id)
    assert run.status == "Failed"
    assert "Schedule it again" in run.run_error_message
    assert not is_alive(builder)


def test_deleting_a_registry_ends_its_builds_and_removes_its_images(cloud: Cloud) -> None:
    run = cloud.build({**CONTEXT, "install.sh": "#!/bin/sh\necho pid $$\nexec sleep 60\n"}, wait=False)
    eventually(lambda: "pid" in cloud.log(run))
    builder = int(cloud.log(run).rpartition("pid ")[2])
    try:
        assert cloud.delete(cloud.registry) == ""
        assert not is_alive(builder)
        assert not (cloud.folder / "registries" / REGISTRY).exists()
        assert cloud.arm("GET", f"{cloud.registry}/runs/{run.run_id}").status_code == 404
    finally:
        cloud.put(cloud.registry, sku={"name": "Basic"})
