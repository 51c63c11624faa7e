"""API of the container registry: upload a context, schedule its build, follow the run.

`images.py` makes the image from the context. After a restart, an unfinished run is `Failed`.
A run reaches a registry without public access only from its agent pool's network.
Does not have the registry's own API (`/v2/`), builds from git, or other task types.
"""

import asyncio
import datetime
import logging
import re
import secrets
import shutil
import time
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.arm.subscriptions import table
from sandbox.caller_network import is_public
from sandbox.context import Behaviour, CloudError, Machines, Sandbox
from sandbox.registry.images import BuildFailed, build_image, registry_folder, remove_images, tag_image
from sandbox.resource_rules.private_endpoints import network_of, reaches

_TYPE = "Microsoft.ContainerRegistry/registries"
_LINK_SECONDS = 3600
_LINK_KEY = secrets.token_bytes(32)  # links end with the process, and a client requests a new one
# Source: distribution/reference reference.go (the grammar of names and tags)
_IMAGE_NAME = re.compile(r"(?P<repository>[a-z0-9]+((?:[./_]|__|-+)[a-z0-9]+)*)(:(?P<tag>\w[\w.-]{0,127}))?")

_running: dict[Path, asyncio.Task[None]] = {}
"""Running builds, by the path of their log."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Argument(_Model):
    name: str
    value: str


class _Platform(_Model):
    os: Literal["Linux"]


# Source: azure-mgmt-containerregistry==10.3.0 azure/mgmt/containerregistry/v2019_06_01_preview/models/_models_py3.py
# (`DockerBuildRequest`, with the limits)
class _BuildRequest(_Model):
    type: Literal["DockerBuildRequest"]
    source_location: str
    docker_file_path: str
    platform: _Platform
    image_names: list[str] = []
    is_push_enabled: bool = False
    arguments: list[_Argument] = []
    timeout: int = Field(3600, ge=300, le=28800)
    agent_pool_name: str | None = None


class RegistryService:
    """The registry as a service of a sandbox."""

    name = "registry"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/acr/{registry}/sources/{name}", self._upload, methods=["PUT"]),
            Route("/acr/{registry}/runs/{name}", self._log, methods=["GET"]),
        ]

    def behaviours(self) -> dict[str, Behaviour]:
        actions = {"listbuildsourceuploadurl": _list_build_source_upload_url, "schedulerun": _schedule_run}
        return {
            _TYPE.lower(): Behaviour(on_delete=_delete, actions=actions),
            f"{_TYPE}/runs".lower(): Behaviour(actions={"listlogsasurl": _list_log_sas_url}),
        }

    async def resume(self) -> None:
        for _, body in self._sandbox.store.below("/subscriptions"):
            if body["type"] == f"{_TYPE}/runs" and "finishTime" not in body["properties"]:
                _finish(self._sandbox, body, "Failed", "The sandbox stopped during this build. Schedule it again.")

    async def shutdown(self) -> None:
        await _cancel_below(self._sandbox.folder)

    def machines(self) -> Iterable[Machines]:
        return ()

    # Source: Azure/azure-cli src/azure-cli/azure/cli/command_modules/acr/_archive_utils.py (uploads one block blob to
    # the address)
    async def _upload(self, request: Request) -> Response:
        _check_link(request)
        if request.headers.get("x-ms-blob-type") != "BlockBlob" or "comp" in request.query_params:
            message = "Upload the context as one block blob (Put Blob, ≤ 64 MiB)."
            # Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts
            raise CloudError(400, "InvalidHeaderValue", message)
        folder = registry_folder(self._sandbox, request.path_params["registry"])
        target = folder / "sources" / request.path_params["name"]
        partial = target.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        partial.rename(target)
        now = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return Response(status_code=201, headers={"etag": f'"{secrets.token_hex(8)}"', "last-modified": now})

    # Source: Azure/azure-cli src/azure-cli/azure/cli/command_modules/acr/_stream_utils.py (reads the log by its link)
    async def _log(self, request: Request) -> Response:
        _check_link(request)
        folder = registry_folder(self._sandbox, request.path_params["registry"])
        return PlainTextResponse((folder / "runs" / request.path_params["name"]).read_text(errors="replace"))


# No source: delete a registry on Azure during a build, and read the run.
async def _delete(sandbox: Sandbox, registry_id: str, body: Body) -> None:
    folder = registry_folder(sandbox, body["name"])
    await _cancel_below(folder)
    await remove_images(sandbox, folder)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


# Source: azure-mgmt-containerregistrytasks==1.0.0b1 azure/mgmt/containerregistrytasks/models/_models.py
# (`SourceUploadDefinition`)
async def _list_build_source_upload_url(sandbox: Sandbox, registry_id: str, request: Request) -> Response:
    path = f"sources/{secrets.token_hex(16)}.tar.gz"
    return JSONResponse({"relativePath": path, "uploadUrl": _link(sandbox, registry_id, path)})


# Source: azure-mgmt-containerregistrytasks==1.0.0b1 azure/mgmt/containerregistrytasks/models/_models.py
# (`RunGetLogResult`)
async def _list_log_sas_url(sandbox: Sandbox, run_id: str, request: Request) -> Response:
    registry_id, _, run = run_id.rpartition("/runs/")
    return JSONResponse({"logLink": _link(sandbox, registry_id, f"runs/{run}.log")})


# Source: azure-mgmt-containerregistrytasks==1.0.0b1 azure/mgmt/containerregistrytasks/models/_models.py
# (`DockerBuildRequest`)
async def _schedule_run(sandbox: Sandbox, registry_id: str, request: Request) -> Response:
    sent = {name: value for name, value in (await request.json()).items() if value is not None}
    try:
        build = _BuildRequest.model_validate(sent)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        # No source: schedule a build on Azure without its platform, and read the code.
        raise CloudError(400, "InvalidRequest", f"Build request, '{where}': {first['msg']}.") from error
    registry = registry_id.rpartition("/")[2]
    if (known := table(sandbox))["offer"] in known["offers_without_builds"]:
        # The words are Azure's. Source: Azure-Samples/azure-search-openai-demo#2592
        message = f"ACR Tasks requests for the registry {registry} and {sandbox.identity.subscription_id} are not "
        message += "permitted. Please file an Azure support request at http://aka.ms/azuresupport for assistance."
        raise CloudError(400, "TasksOperationsNotAllowed", message)
    folder = registry_folder(sandbox, registry)
    if (folder / build.source_location).parent != folder / "sources" or not (folder / build.source_location).is_file():
        message = (
            f"The provided source location '{build.source_location}' is invalid or doesn't exists. "
            "Please use 'GetBuildSourceUploadUrl' to get a valid location to upload the source."
        )
        # Source: microsoft/vscode-docker#679 (the message)
        # No source: schedule a build on Azure of a source that was not uploaded, and read the code.
        raise CloudError(400, "InvalidSourceLocation", message)

    run = f"c{secrets.token_hex(4)}"
    images = []
    for name in build.image_names:
        local = name.replace("{{.Run.ID}}", run).removeprefix(f"{sandbox.authority}/{registry}/")
        if not (match := _IMAGE_NAME.fullmatch(local)):
            # No source: schedule a build on Azure with such a name, and read the code.
            raise CloudError(400, "InvalidImageName", f"'{name}' does not read <repository>:<tag>, in lower case.")
        names = {"repository": match["repository"], "tag": match["tag"] or "latest"}
        images.append({"registry": f"{sandbox.authority}/{registry}", **names})
    properties = {
        "runId": run,
        "status": "Queued",
        "runType": "QuickBuild",
        "createTime": _now(),
        "platform": sent["platform"],
    }
    body: Body = {"id": f"{registry_id}/runs/{run}", "name": run, "type": f"{_TYPE}/runs", "properties": properties}
    sandbox.store.put(body["id"], body)
    log = folder / "runs" / f"{run}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    _running[log] = asyncio.create_task(_run(sandbox, registry, body, build, images, log))
    _running[log].add_done_callback(lambda _: _running.pop(log, None))
    return JSONResponse(body)


async def _run(
    sandbox: Sandbox, registry: str, body: Body, build: _BuildRequest, images: list[dict[str, str]], log: Path
) -> None:
    body["properties"].update(status="Running", startTime=_now())
    sandbox.store.put(body["id"], body)
    folder = registry_folder(sandbox, registry)
    source, work = folder / build.source_location, folder / "work" / body["name"]
    arguments = {argument.name: argument.value for argument in build.arguments}
    status, reason, began = "Canceled", "", time.monotonic()
    try:
        _log_in(sandbox, body["id"].rpartition("/runs/")[0], build.agent_pool_name)
        async with asyncio.timeout(build.timeout):
            digest = await build_image(sandbox, registry, source, build.docker_file_path, arguments, work, log)
        if build.is_push_enabled:
            for image in images:
                tag_image(folder, digest, image["repository"], image["tag"])
            body["properties"]["outputImages"] = [{**image, "digest": digest} for image in images]
        status = "Succeeded"
    except TimeoutError:
        status, reason = "Timeout", f"the build took longer than its timeout of {build.timeout} s"
    except BuildFailed as error:
        status, reason = "Failed", str(error)
    except Exception as error:
        logging.exception("build %s", body["id"])
        status, reason = "Error", f"{type(error).__name__}: {error}"
    finally:
        source.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        with log.open("a") as file:
            took = f"after {time.monotonic() - began:.0f}s"
            file.write(f"Run ID: {body['name']} {status.lower()} {took}{reason and f'. Error: {reason}'}\n")
    _finish(sandbox, body, status, reason)


def _log_in(sandbox: Sandbox, registry_id: str, pool_name: str | None) -> None:
    """Log in to the registry before a build, from the network of its agent pool, if it has one.

    Source: MicrosoftDocs/azure-docs articles/container-registry/container-registry-tasks-agent-pools.md;
    MicrosoftDocs/SupportArticles-docs
    support/azure/azure-container-registry/client-ip-address-not-allowed-access.md
    """
    pool = sandbox.store.get(f"{registry_id}/agentPools/{pool_name}") if pool_name else None
    if pool_name and pool is None:
        raise BuildFailed(f"the registry has no agent pool '{pool_name}'")
    network = network_of(dig(pool, "properties.virtualNetworkSubnetResourceId"))
    registry = sandbox.store.get(registry_id)
    if registry and not is_public(registry) and not reaches(sandbox, network, registry_id, "registry"):
        login_server = registry["properties"]["loginServer"]
        raise BuildFailed(
            f'failed to login: Error response from daemon: Get "https://{login_server}/v2/": denied: client with IP '
            "'192.0.2.21' is not allowed access. Refer https://aka.ms/acr/firewall to grant access."
        )


def _finish(sandbox: Sandbox, body: Body, status: str, reason: str) -> None:
    body["properties"].update(status=status, finishTime=_now(), **({"runErrorMessage": reason} if reason else {}))
    sandbox.store.put(body["id"], body)


async def _cancel_below(folder: Path) -> None:
    tasks = [task for log, task in _running.items() if log.is_relative_to(folder)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _link(sandbox: Sandbox, registry_id: str, path: str) -> str:
    """An address with a signature that grants access to it, like a shared access signature."""
    path = f"/acr/{registry_id.rpartition('/')[2].lower()}/{path}"
    claims = {"sub": path, "exp": int(time.time()) + _LINK_SECONDS}
    return f"{sandbox.url}{path}?{urllib.parse.urlencode({'sig': jwt.encode(claims, _LINK_KEY, algorithm='HS256')})}"


# Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (`AuthenticationFailed`: 403)
def _check_link(request: Request) -> None:
    try:
        jwt.decode(request.query_params.get("sig", ""), _LINK_KEY, algorithms=["HS256"], subject=request.url.path)
    except jwt.InvalidTokenError as error:
        raise CloudError(403, "AuthenticationFailed", f"This link is not or no longer valid: {error}.") from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
