"""The sandbox's container registry: builds an uploaded context and keeps the result under the digest of its content.

Where a container engine answers, an image is a container image built from the context's Dockerfile. Elsewhere it is a
folder, made by the script that the Dockerfile calls too: `install.sh <prefix> <engine>`, run with this machine's
Python. The folder stand-in installs no operating-system packages, makes no user, isolates nothing and limits nothing;
it takes only the `ARG` defaults from the Dockerfile. Its `bin/serve` is run as a process.

The digest is that of the content in both cases: file names, executable bits, bytes, Dockerfile path and build
arguments, not the order or time stamps of the archive. The same content is not built again.
Does not speak the registry's own API (`/v2/`), build from git, or run other task types.
"""

import asyncio
import contextlib
import datetime
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import processes
from sandbox.cloud import Behaviour, CloudError, Sandbox
from sandbox.store import Body

_TYPE = "microsoft.containerregistry/registries"
_LINK_SECONDS = 3600
_LINK_KEY = secrets.token_bytes(32)  # links die with the process: a client asks for a new one
_REFERENCE = re.compile(
    r"(?P<server>[^/]+)/(?P<registry>[^/]+)/(?P<repository>.+?)(@(?P<digest>sha256:\w+)|:(?P<tag>[\w.-]+))"
)
_IMAGE_NAME = re.compile(r"(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)(:(?P<tag>\w[\w.-]{0,127}))?")

_running: dict[Path, asyncio.Task[None]] = {}
"""Builds under way, by the path of their log."""
_locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
"""One build at a time of one image."""


@dataclass(frozen=True)
class Image:
    digest: str
    root: Path | None
    """The folder stand-in: what `install.sh` was given as its prefix."""
    container: str | None
    """Name in the container engine, where that built it."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Argument(_Model):
    name: str
    value: str
    is_secret: bool = False


class _Platform(_Model):
    os: Literal["Linux"]


class _BuildRequest(_Model):
    type: Literal["DockerBuildRequest"]
    source_location: str
    docker_file_path: str
    platform: _Platform
    image_names: list[str] = []
    is_push_enabled: bool = False
    arguments: list[_Argument] = []
    timeout: int = Field(3600, ge=300, le=28800)


class _BuildFailed(Exception):
    """The context's fault, to be told in the log and in the run."""


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    async def upload(request: Request) -> Response:
        _check_link(request)
        if request.headers.get("x-ms-blob-type") != "BlockBlob" or "comp" in request.query_params:
            raise CloudError(400, "InvalidHeaderValue", "Upload the context as one block blob (Put Blob, ≤ 64 MiB).")
        target = _sources(sandbox, request.path_params["registry"]) / request.path_params["name"]
        partial = target.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        partial.rename(target)
        now = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return Response(status_code=201, headers={"etag": f'"{secrets.token_hex(8)}"', "last-modified": now})

    async def log(request: Request) -> Response:
        _check_link(request)
        return PlainTextResponse(_log(sandbox, request.path_params["registry"], request.path_params["run"]).read_text())

    return [
        Route("/acr/{registry}/sources/{name}", upload, methods=["PUT"]),
        Route("/acr/{registry}/runs/{run}/log", log, methods=["GET"]),
    ]


def behaviours(sandbox: Sandbox) -> dict[str, Behaviour]:
    return {
        _TYPE: Behaviour(
            on_delete=_delete,
            actions={"listbuildsourceuploadurl": _list_build_source_upload_url, "schedulerun": _schedule_run},
        ),
        f"{_TYPE}/runs": Behaviour(actions={"listlogsasurl": _list_log_sas_url}),
    }


async def resume(sandbox: Sandbox) -> None:
    """A build does not survive the process: say so, so that who polls it builds again."""
    for run_id, body in sandbox.store.below(""):
        if body.get("type") == "Microsoft.ContainerRegistry/registries/runs" and "finishTime" not in body["properties"]:
            _finish(sandbox, run_id, body, "Failed", "The sandbox stopped during this build. Schedule it again.")


async def shutdown(sandbox: Sandbox) -> None:
    await _cancel_below(sandbox.folder)


def find_image(sandbox: Sandbox, reference: str) -> Image:
    """The image that `<login server>/<repository>@sha256:…` or `…:<tag>` names, or `CloudError`."""
    match = _REFERENCE.fullmatch(reference)
    if not match or match["server"] != sandbox.authority:
        form = f"{sandbox.authority}/<registry>/<repository>@sha256:<digest>"
        raise CloudError(400, "ImageNotFound", f"'{reference}' is no image of a registry here: it must read {form}.")
    registry = match["registry"].lower()
    digest = match["digest"]
    if tag := match["tag"]:
        with contextlib.suppress(FileNotFoundError):
            digest = _tag(sandbox, registry, match["repository"], tag).read_text()
    manifest = _image_folder(sandbox, registry, digest or "") / "image.json"
    if not digest or not manifest.is_file():
        raise CloudError(400, "ImageNotFound", f"Registry '{registry}' holds no image '{reference}'. Build it first.")
    container = json.loads(manifest.read_text())["container"]
    return Image(digest, None if container else manifest.with_name("root"), container)


async def _delete(sandbox: Sandbox, registry_id: str, body: Body) -> None:
    folder = _folder(sandbox, _name(registry_id))
    await _cancel_below(folder)
    for manifest in folder.glob("images/*/image.json"):
        if container := json.loads(manifest.read_text())["container"]:
            await engine("image", "rm", "--force", container)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _list_build_source_upload_url(sandbox: Sandbox, registry_id: str, request: Request) -> Response:
    name = f"{secrets.token_hex(16)}.tar.gz"
    url = _link(sandbox, f"/acr/{_name(registry_id)}/sources/{name}", "cw")
    return JSONResponse({"relativePath": f"sources/{name}", "uploadUrl": url})


async def _list_log_sas_url(sandbox: Sandbox, run_id: str, request: Request) -> Response:
    registry_id, _, run = run_id.rpartition("/runs/")
    return JSONResponse({"logLink": _link(sandbox, f"/acr/{_name(registry_id)}/runs/{run}/log", "r")})


async def _schedule_run(sandbox: Sandbox, registry_id: str, request: Request) -> Response:
    try:
        sent = {name: value for name, value in (await request.json()).items() if value is not None}
        build = _BuildRequest.model_validate(sent)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CloudError(400, "InvalidRequest", f"Build request, '{where}': {first['msg']}.") from error
    registry = _name(registry_id)
    source = _folder(sandbox, registry) / build.source_location
    if source.parent != _sources(sandbox, registry) or not source.is_file():
        message = f"No context was uploaded as '{build.source_location}': ask listBuildSourceUploadUrl where to."
        raise CloudError(400, "InvalidSourceLocation", message)

    run = f"c{secrets.token_hex(4)}"
    images = []
    for name in build.image_names:
        local = name.replace("{{.Run.ID}}", run).removeprefix(f"{sandbox.authority}/{registry}/")
        if not (match := _IMAGE_NAME.fullmatch(local)):
            raise CloudError(400, "InvalidImageName", f"'{name}' does not read <repository>:<tag>, in lower case.")
        images.append((match["repository"], match["tag"] or "latest"))
    run_id = f"{registry_id}/runs/{run}"
    body: Body = {
        "id": run_id,
        "name": run,
        "type": "Microsoft.ContainerRegistry/registries/runs",
        "properties": {
            "runId": run,
            "status": "Queued",
            "runType": "QuickBuild",
            "createTime": _now(),
            "platform": {"os": "linux", "architecture": "amd64"},
            "provisioningState": "Succeeded",
        },
    }
    sandbox.store.put(run_id, body)
    log = _log(sandbox, registry, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    _running[log] = asyncio.create_task(_run(sandbox, registry, body, build, source, images, log))
    _running[log].add_done_callback(lambda _: _running.pop(log, None))
    return JSONResponse(body)


async def _run(
    sandbox: Sandbox,
    registry: str,
    body: Body,
    build: _BuildRequest,
    source: Path,
    images: Sequence[tuple[str, str]],
    log: Path,
) -> None:
    run_id, began = body["id"], time.monotonic()
    body["properties"].update(status="Running", startTime=_now())
    sandbox.store.put(run_id, body)
    work = _folder(sandbox, registry) / "work" / body["name"]
    try:
        async with asyncio.timeout(build.timeout):
            digest = await _build(sandbox, registry, build, source, work, log)
        if build.is_push_enabled:
            for repository, tag in images:
                pointer = _tag(sandbox, registry, repository, tag)
                pointer.parent.mkdir(parents=True, exist_ok=True)
                pointer.write_text(digest)
            body["properties"]["outputImages"] = [
                {"registry": f"{sandbox.authority}/{registry}", "repository": repository, "tag": tag, "digest": digest}
                for repository, tag in images
            ]
        _say(log, f"Run ID: {body['name']} was successful after {time.monotonic() - began:.0f}s, digest: {digest}")
        _finish(sandbox, run_id, body, "Succeeded")
    except TimeoutError:
        reason = f"The build took longer than its timeout of {build.timeout} s."
        _say(log, reason)
        _finish(sandbox, run_id, body, "Timeout", reason)
    except _BuildFailed as error:
        _say(log, f"Run ID: {body['name']} failed after {time.monotonic() - began:.0f}s. Error: {error}")
        _finish(sandbox, run_id, body, "Failed", str(error))
    except Exception as error:
        _finish(sandbox, run_id, body, "Error", f"{type(error).__name__}: {error}")
        raise
    finally:
        source.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)


async def _build(sandbox: Sandbox, registry: str, build: _BuildRequest, source: Path, work: Path, log: Path) -> str:
    """The digest of the image, which exists when this returns."""
    context = work / "context"
    content = await asyncio.to_thread(_unpack, source, context)
    dockerfile = context / build.docker_file_path
    if not dockerfile.is_file():
        raise _BuildFailed(f"the context holds no '{build.docker_file_path}' (dockerFilePath)")
    arguments = {argument.name: argument.value for argument in build.arguments}
    content.update(json.dumps([build.docker_file_path, arguments], sort_keys=True).encode())
    digest = f"sha256:{content.hexdigest()}"

    image = _image_folder(sandbox, registry, digest)
    async with _locks.setdefault(image, asyncio.Lock()):
        if (image / "image.json").is_file():
            _say(log, f"The same content was built before: {digest}")
            return digest
        await asyncio.to_thread(shutil.rmtree, image, ignore_errors=True)
        image.mkdir(parents=True)
        environment = sandbox.environment
        if await engine("version", "--format", "{{.Server.Version}}"):
            container = f"sandbox/{registry}:{digest.removeprefix('sha256:')}"
            # Only the names of build arguments: values come from the environment, where no process list shows them.
            options = [part for name in arguments for part in ("--build-arg", name)] + await network_options()
            command = ["docker", "build", *options, "--tag", container, "--file", str(dockerfile), str(context)]
            await _run_to_end(command, log, {**environment, **arguments}, context)
        else:
            container = None
            defaults = dict(re.findall(r"^ARG\s+(\w+)=(\S+)", dockerfile.read_text(), re.MULTILINE))
            arguments = defaults | arguments
            await _install(dockerfile.with_name("install.sh"), image / "root", arguments, environment, log)
        # Written last: an environment of Python cannot be moved, so it is made where it stays and counts only now.
        (image / "image.json").write_text(json.dumps({"container": container, "createdAt": _now()}))
    return digest


async def _install(
    script: Path, root: Path, arguments: Mapping[str, str], environment: Mapping[str, str], log: Path
) -> None:
    if not script.is_file():
        raise _BuildFailed("no container engine answers here, and the context has no install.sh beside its Dockerfile")
    if not (engine := arguments.get("ENGINE")):
        raise _BuildFailed("no container engine answers here, and install.sh needs the build argument ENGINE")
    tools = {"PYTHON": getattr(sys, "_base_executable", sys.executable), "TMPDIR": str(script.parent)}
    if uv := shutil.which("uv", path=os.path.dirname(sys.executable)):
        tools["UV"] = uv
    _say(log, f"No container engine answers: running {script.name} into a folder, engine {engine}")
    await _run_to_end([str(script), str(root), engine], log, {**environment, **arguments, **tools}, script.parent)
    if not os.access(root / "bin" / "serve", os.X_OK):
        raise _BuildFailed("install.sh ended well but left no executable bin/serve under its prefix")


async def _run_to_end(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path) -> None:
    try:
        process = processes.start(command, log=log, environment=environment, folder=folder)
    except OSError as error:
        raise _BuildFailed(f"{Path(command[0]).name} cannot be run: {error.strerror}") from error
    try:
        while process.poll() is None:
            await asyncio.sleep(0.05)
    finally:
        if process.poll() is None:
            await asyncio.to_thread(processes.stop, process)
    if process.returncode:
        raise _BuildFailed(f"{' '.join(map(str, command[:2]))} ended with exit code {process.returncode}; see the log")


async def network_options() -> list[str]:
    """An engine without its bridge network (a closed machine) still has the host's."""
    return [] if await engine("network", "inspect", "bridge") else ["--network", "host"]


async def engine(*command: str) -> bool:
    """Whether the container engine answers and does this."""
    if not shutil.which("docker"):
        return False
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("docker", *command, stdout=quiet, stderr=quiet)
    return await process.wait() == 0


def _unpack(source: Path, context: Path) -> "hashlib._Hash":
    """Unpack an uploaded archive; returns the digest so far, over its files in order of name."""
    context.mkdir(parents=True)
    try:
        with tarfile.open(source) as archive:
            archive.extractall(context, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _BuildFailed(f"the uploaded context is no readable .tar.gz archive: {error}") from error
    content = hashlib.sha256()
    for path in sorted(context.rglob("*")):
        name = path.relative_to(context).as_posix()
        if path.is_symlink():
            content.update(f"link {name} {path.readlink()}\0".encode())
        elif path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            content.update(f"file {name} {executable} {path.stat().st_size}\0".encode() + path.read_bytes())
    return content


def _finish(sandbox: Sandbox, run_id: str, body: Body, status: str, reason: str | None = None) -> None:
    body["properties"].update(status=status, finishTime=_now())
    if reason:
        body["properties"]["runErrorMessage"] = reason
    sandbox.store.put(run_id, body)


async def _cancel_below(folder: Path) -> None:
    tasks = [task for log, task in _running.items() if log.is_relative_to(folder)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _link(sandbox: Sandbox, path: str, permission: str) -> str:
    """An address that is its own permission, as a shared access signature is."""
    expires = int(time.time()) + _LINK_SECONDS
    signature = jwt.encode({"sub": path, "exp": expires}, _LINK_KEY, algorithm="HS256")
    return f"{sandbox.url}{path}?{urllib.parse.urlencode({'sp': permission, 'sr': 'b', 'sig': signature})}"


def _check_link(request: Request) -> None:
    try:
        claims: dict[str, Any] = jwt.decode(request.query_params.get("sig", ""), _LINK_KEY, algorithms=["HS256"])
    except jwt.InvalidTokenError as error:
        raise CloudError(403, "AuthenticationFailed", f"This link is not or no longer valid: {error}.") from error
    if claims["sub"] != request.url.path:
        raise CloudError(403, "AuthenticationFailed", "This link was signed for another path.")


def _name(registry_id: str) -> str:
    return registry_id.rpartition("/")[2].lower()


def _folder(sandbox: Sandbox, registry: str) -> Path:
    return sandbox.folder / "registries" / registry


def _sources(sandbox: Sandbox, registry: str) -> Path:
    return _folder(sandbox, registry) / "sources"


def _log(sandbox: Sandbox, registry: str, run: str) -> Path:
    return _folder(sandbox, registry) / "runs" / f"{run}.log"


def _image_folder(sandbox: Sandbox, registry: str, digest: str) -> Path:
    return _folder(sandbox, registry) / "images" / digest.removeprefix("sha256:")


def _tag(sandbox: Sandbox, registry: str, repository: str, tag: str) -> Path:
    return _folder(sandbox, registry) / "repositories" / repository / tag


def _say(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{_now()} {line}\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
