"""Blob Storage's data plane over plain directories: a blob `a/b` of a container is the file `a/b` of its folder.

The ARM store has the accounts and containers. An upload is streamed into a staging folder, then moved to its place.
Callers need an Entra token and a Storage Blob Data role on the container or above, as without shared keys, and must
come from a network that the account admits.
Metadata and content type are in a sidecar file for one version of the blob's file. So a file that Spark writes into the
folder is a blob too, with default properties.

ARM creates and deletes containers. Has no shared keys, SAS, checksums, conditions by date, snapshots, leases, copies,
batches, append or page blobs.
A name cannot be both a blob and a prefix of other blobs, as in accounts with hierarchical namespace.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from xml.etree import ElementTree

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from sandbox import caller_network, state_files
from sandbox.arm.store import Body, ResourceStore
from sandbox.context import Behaviour, CloudError, Machines, Sandbox
from sandbox.identity import access_checks, entra
from sandbox.resource_rules import credentials
from sandbox.state_files import Unreadable

# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/built-in-roles/storage.md
_DATA_ACTION = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_CHUNK = 1 << 20
_ACCOUNT = "microsoft.storage/storageaccounts"
CONTAINER = f"{_ACCOUNT}/blobservices/containers"
# Names in one page of a listing.
# Source: Azure/Azurite src/blob/utils/constants.ts (`DEFAULT_LIST_BLOBS_MAX_RESULTS`)
_PAGE = 5000


def find_account(store: ResourceStore, name: str) -> tuple[str, Body] | None:
    """The ARM id and body of the storage account of that name, which is unique in all of Azure."""
    wanted = f"/providers/microsoft.storage/storageaccounts/{name.lower()}"
    return next((pair for pair in store.below("/subscriptions") if pair[0].lower().endswith(wanted)), None)


def container_id(account_id: str, container: str) -> str:
    return f"{account_id}/blobServices/default/containers/{container}"


def may_access(sandbox: Sandbox, principal: str, scope: str, *, write: bool) -> bool:
    """Whether a role assignment at `scope` or above lets the principal read, or write, blobs."""
    action = f"{_DATA_ACTION}/{'write' if write else 'read'}"
    return access_checks.allowed(sandbox, principal, action, scope, data=True)


def safe_path(folder: Path, name: str) -> Path:
    """`folder/name`. Raises `ValueError` if the path would leave the folder or cannot be a file's."""
    if any(part in ("", ".", "..") for part in name.split("/")) or any(ord(letter) < 32 for letter in name):
        raise ValueError(f"The name {name!r} has an empty, '.' or '..' segment, or a control character.")
    return folder / name


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`BlockBlob_Upload`: the body is the blob)
@contextlib.asynccontextmanager
async def received(request: Request, folder: Path) -> AsyncIterator[Path]:
    """The request's body, streamed into a new file in `folder`, which is deleted afterwards unless it was moved."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / uuid.uuid4().hex
    try:
        with file.open("wb") as output:
            async for chunk in request.stream():
                output.write(chunk)
        yield file
    finally:
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Version:
    """One stored version of a blob."""

    size: int
    headers: dict[str, str]

    @classmethod
    def of(cls, file: Path | int) -> "_Version":
        status = os.stat(file)
        # Writes replace the file, so two writes within one tick of the file system's clock differ by inode.
        etag = f'"0x{status.st_mtime_ns:X}{status.st_ino:X}{status.st_size:X}"'
        return cls(status.st_size, {"ETag": etag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)})

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


@dataclass(frozen=True)
class _Call:
    sandbox: Sandbox
    request: Request
    account: str
    account_id: str
    container: str
    blob: str

    @property
    def record(self) -> str:
        return container_id(self.account_id, self.container)

    @property
    def folder(self) -> Path:
        return self.sandbox.container_folder(self.account, self.container)

    @property
    def file(self) -> Path:
        return safe_path(self.folder, self.blob)

    @property
    def version(self) -> _Version | None:
        return _Version.of(self.file) if self.file.is_file() else None

    @property
    def staging(self) -> Path:
        return _aside(self.sandbox, self.account, self.container) / "staging"

    @property
    def blocks(self) -> Path:
        return self.staging / "blocks" / _digest(self.blob)


class BlobService:
    """Blob Storage as a service of a sandbox. Each container is a folder, so nothing is resumed or shut down."""

    name = "blob"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[BaseRoute]:
        methods, account = ["GET", "HEAD", "PUT", "POST", "DELETE"], "/blob/{account}"
        paths = account, f"{account}/", f"{account}/{{container}}", f"{account}/{{container}}/{{blob:path}}"
        return [Route(path, self._serve, methods=methods) for path in paths]

    def behaviours(self) -> dict[str, Behaviour]:
        return {
            CONTAINER: Behaviour(on_put=_make_container, on_delete=_remove_container),
            _ACCOUNT: Behaviour(on_delete=_remove_account, actions={"listkeys": credentials.list_storage_keys}),
        }

    def machines(self) -> Iterable[Machines]:
        return ()

    async def resume(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    # Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts; Azure/Azurite
    # swagger/blob-storage-2021-10-04.json (`x-ms-request-id`, `x-ms-version`)
    # No source: send a name that no file could have to a blob endpoint on Azure, and read the code.
    async def _serve(self, request: Request) -> Response:
        try:
            response = await _answer(self._sandbox, request)
        except CloudError as error:
            response = _error(error.status, error.code, error.message, error.headers)
        except ValueError as error:
            response = _error(400, "InvalidInput", str(error))
        except (NotADirectoryError, IsADirectoryError, FileExistsError):
            response = _error(409, "ResourceTypeMismatch", "The name, or a part of it, is a directory or a blob.")
        except OSError as error:
            response = _error(500, "InternalError", f"{error.strerror}: {error.filename}")
        with contextlib.suppress(RuntimeError):  # the body was read already
            async for _ in request.stream():
                pass  # a refused upload is read to its end, so that the client gets the answer, not a broken pipe
        response.headers["x-ms-request-id"] = str(uuid.uuid4())
        response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2021-12-02")
        return response


# Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/operations/_operations.py (`blob_containers`)
async def _make_container(sandbox: Sandbox, resource_id: str, body: Body) -> None:
    sandbox.container_folder(*_names_in(resource_id)).mkdir(parents=True, exist_ok=True)


# Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/operations/_operations.py (`blob_containers.delete`)
async def _remove_container(sandbox: Sandbox, resource_id: str, body: Body) -> None:
    names = _names_in(resource_id)
    for folder in (sandbox.container_folder(*names), _aside(sandbox, *names)):
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


# Source: azure-mgmt-storage==25.3.0 azure/mgmt/storage/operations/_operations.py (`storage_accounts.delete`)
async def _remove_account(sandbox: Sandbox, resource_id: str, body: Body) -> None:
    folder = sandbox.folder / "accounts" / resource_id.rpartition("/")[2]
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _names_in(resource_id: str) -> tuple[str, str]:
    parts = resource_id.split("/")  # …/storageAccounts/<account>/blobServices/default/containers/<container>
    return parts[-5], parts[-1]


def _aside(sandbox: Sandbox, account: str, container: str) -> Path:
    """Folder next to the containers, on the same file system, with a name that no container can have."""
    return sandbox.folder / "accounts" / account / ".aside" / container


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json; Azure/Azurite src/blob/errors/StorageErrorFactory.ts
# (`ResourceNotFound`, `ContainerNotFound`)
async def _answer(sandbox: Sandbox, request: Request) -> Response:
    path, query = request.path_params, request.query_params
    account, container = path["account"].lower(), path.get("container", "").lower()  # folders have lower-case names
    pair = find_account(sandbox.store, account)
    if pair is None:
        raise CloudError(404, "ResourceNotFound", f"The storage account {account!r} does not exist.")
    account_id, account_body = pair
    call = _Call(sandbox, request, account, account_id, container, path.get("blob", ""))
    if not caller_network.admits(sandbox, request, account_body, "blob"):
        # Source: MicrosoftDocs/SupportArticles-docs
        # support/azure/azure-storage/blobs/authentication/storage-troubleshoot-403-errors.md
        raise CloudError(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")
    _authorise(call, account_body)
    level = "blob" if call.blob else query.get("restype", "account")
    operation = _OPERATIONS.get((request.method, level, query.get("comp", ""))) if container else None
    if operation is None:
        asked = f"{request.method} {request.url.path}?{request.url.query}"
        raise CloudError(400, "UnsupportedQueryParameter", f"The sandbox's blob endpoint does not support {asked}.")
    if sandbox.store.get(call.record) is None:
        raise CloudError(404, "ContainerNotFound", "The specified container does not exist.")
    return await operation(call)


# Source: MicrosoftDocs/azure-docs articles/storage/blobs/authorize-access-azure-active-directory.md
def _authorise(call: _Call, account: Body) -> None:
    scheme = call.request.headers.get("authorization", "").partition(" ")[0].lower()
    if scheme == "sharedkey" or "sig" in call.request.query_params:
        if account.get("properties", {}).get("allowSharedKeyAccess") is False:
            message = "Key based authentication is not permitted on this storage account."
            # Source: Azure/terraform-azurerm-avm-res-storage-storageaccount#184
            raise CloudError(403, "KeyBasedAuthenticationNotPermitted", message)
        raise CloudError(403, "AuthenticationFailed", "The sandbox admits Entra tokens only, no shared key and no SAS.")
    if scheme != "bearer":
        # Source: azure-storage-blob==12.31.1 azure/storage/blob/_shared/models.py (`StorageErrorCode`; the status is
        # not shown)
        raise CloudError(401, "NoAuthenticationInformation", "The request has no bearer token.")
    try:
        principal = entra.require_token(call.sandbox, call.request, entra.STORAGE)["oid"]
    except CloudError as error:
        # Source: azure-storage-blob==12.31.1 azure/storage/blob/_shared/policies.py (a 401 with a challenge);
        # Azure/Azurite src/blob/errors/StorageErrorFactory.ts (the code, with 400)
        raise CloudError(401, "InvalidAuthenticationInfo", error.message, error.headers) from error
    write = call.request.method not in ("GET", "HEAD")
    scope = call.record if call.container else call.account_id
    if not may_access(call.sandbox, principal, scope, write=write):
        role = f"Storage Blob Data {'Contributor' if write else 'Reader'}"
        message = f"This request is not authorized: principal {principal} has no role '{role}' at {scope} or above."
        # Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts
        raise CloudError(403, "AuthorizationPermissionMismatch", message)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`Container_GetProperties`)
async def _get_container(call: _Call) -> Response:
    return Response(headers=_Version.of(call.folder).headers)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`Container_ListBlobHierarchySegment`)
async def _list_blobs(call: _Call) -> Response:
    query = call.request.query_params
    prefix, delimiter, marker = query.get("prefix", ""), query.get("delimiter", ""), query.get("marker", "")
    limit = min(int(query.get("maxresults", _PAGE)), _PAGE)
    matching = await asyncio.to_thread(_names, call.folder, prefix, delimiter)
    names = sorted(name for name in matching if name > marker)
    root = ElementTree.Element("EnumerationResults", ContainerName=call.container)
    _children(root, {"Prefix": prefix, "Marker": marker, "MaxResults": str(limit), "Delimiter": delimiter})
    entries = ElementTree.SubElement(root, "Blobs")
    for name in names[:limit]:
        if delimiter and name.endswith(delimiter):
            _children(ElementTree.SubElement(entries, "BlobPrefix"), {"Name": name})
            continue
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            version = _Version.of(call.folder / name)
            kind, metadata = _sidecar(call, name, version)
            entry = _children(ElementTree.SubElement(entries, "Blob"), {"Name": name})
            properties = {"Last-Modified": version.headers["Last-Modified"], "Etag": version.etag.strip('"')}
            properties |= {"Content-Length": str(version.size), "Content-Type": kind, "BlobType": "BlockBlob"}
            _children(ElementTree.SubElement(entry, "Properties"), properties)
            if "metadata" in query.get("include", ""):
                _children(ElementTree.SubElement(entry, "Metadata"), metadata)
    _children(root, {"NextMarker": names[limit - 1] if len(names) > limit else ""})
    return _xml(root)


def _names(folder: Path, prefix: str, delimiter: str) -> set[str]:
    """Names of blobs that begin with `prefix`. Names with a further delimiter are replaced by their common prefix."""
    parent = prefix.rpartition("/")[0]
    names: set[str] = set()
    for directory, _, files in os.walk(safe_path(folder, parent) if parent else folder):
        for file in files:
            name = os.path.relpath(os.path.join(directory, file), folder)
            if name.startswith(prefix):
                end = name.find(delimiter, len(prefix)) if delimiter else -1
                names.add(name if end < 0 else name[: end + len(delimiter)])
    return names


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`BlockBlob_Upload`)
async def _put_blob(call: _Call) -> Response:
    kind = call.request.headers.get("x-ms-blob-type", "")
    if kind != "BlockBlob" or "x-ms-copy-source" in call.request.headers:
        raise CloudError(
            400, "InvalidHeaderValue", f"The sandbox takes uploads of block blobs only, not {kind!r}, no copies."
        )
    safe_path(call.folder, call.blob)
    async with received(call.request, call.staging) as file:
        return _commit(call, file)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`BlockBlob_StageBlock`)
async def _put_block(call: _Call) -> Response:
    target = _block(call, call.request.query_params.get("blockid", ""))
    async with received(call.request, call.staging) as file:
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    return Response(status_code=201)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`BlockBlob_CommitBlockList`); Azure/Azurite
# src/blob/errors/StorageErrorFactory.ts (`InvalidXmlDocument`, `InvalidBlockList`)
async def _put_block_list(call: _Call) -> Response:
    try:
        listed = list(ElementTree.fromstring(await call.request.body()))
    except ElementTree.ParseError as error:
        raise CloudError(400, "InvalidXmlDocument", f"The block list is not XML: {error}") from error
    blocks = [_block(call, entry.text or "") for entry in listed]
    if any(entry.tag == "Committed" for entry in listed) or not all(block.is_file() for block in blocks):
        raise CloudError(
            400, "InvalidBlockList", "The specified block list is invalid: it may name staged blocks only."
        )
    whole = call.staging / uuid.uuid4().hex
    try:
        await asyncio.to_thread(_concatenate, blocks, whole)
        response = _commit(call, whole)
    finally:
        whole.unlink(missing_ok=True)
    shutil.rmtree(call.blocks, ignore_errors=True)
    return response


# Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (`InvalidQueryParameterValue`)
def _block(call: _Call, block_id: str) -> Path:
    try:
        return call.blocks / base64.b64decode(block_id, validate=True).hex()
    except binascii.Error as error:
        raise CloudError(400, "InvalidQueryParameterValue", f"The block id {block_id!r} is not base64.") from error


def _concatenate(parts: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as output:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, output, _CHUNK)


def _commit(call: _Call, written: Path) -> Response:
    """Move a whole file to its name; no other request runs between the check of the conditions and the move.

    Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (`BlobAlreadyExists`); Azure/Azurite
    src/blob/conditions/WriteConditionalHeadersValidator.ts (of `If-None-Match: *`)
    """
    before = call.version
    if before and call.request.headers.get("if-none-match") == "*":
        raise CloudError(409, "BlobAlreadyExists", "The specified blob already exists.")
    _check_conditions(call.request, before)
    call.file.parent.mkdir(parents=True, exist_ok=True)
    written.replace(call.file)
    version = _Version.of(call.file)
    _write_sidecar(call, version, call.request.headers.get("x-ms-blob-content-type"))
    return Response(status_code=201, headers=version.headers)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`Blob_SetMetadata`)
async def _set_metadata(call: _Call) -> Response:
    version = _existing(call)
    _write_sidecar(call, version, _sidecar(call, call.blob, version)[0])
    return Response(headers=version.headers)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`Blob_Delete`)
async def _delete_blob(call: _Call) -> Response:
    _existing(call)
    call.file.unlink()
    _sidecar_file(call, call.blob).unlink(missing_ok=True)
    return Response(status_code=202)


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json (`Blob_Download`, `Blob_GetProperties`)
async def _get_blob(call: _Call) -> Response:
    version = _existing(call)
    kind, metadata = _sidecar(call, call.blob, version)
    headers = version.headers | {"Accept-Ranges": "bytes", "x-ms-blob-type": "BlockBlob", "Content-Type": kind}
    headers |= {f"x-ms-meta-{name}": value for name, value in metadata.items()}
    if call.request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(version.size)})
    asked = call.request.headers.get("x-ms-range") or call.request.headers.get("range")
    first, last = _range(asked, version.size)
    if asked:
        headers["Content-Range"] = f"bytes {first}-{last}/{version.size}"
    file = call.file.open("rb")  # here, because another request may replace it before `content` runs

    def content() -> Iterator[bytes]:
        with file:
            file.seek(first)
            left = last + 1 - first
            while left and (chunk := file.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk

    headers["Content-Length"] = str(last + 1 - first)
    return StreamingResponse(content(), status_code=206 if asked else 200, headers=headers)


def _range(asked: str | None, size: int) -> tuple[int, int]:
    if asked is None:
        return 0, size - 1
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first.isdigit() or not (last.isdigit() or last == ""):
        # No source: ask Azure for such a range, and read the answer.
        raise CloudError(400, "InvalidHeaderValue", f"The range {asked!r} is not of the form bytes=first-last.")
    if int(first) >= size:
        # Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts
        raise CloudError(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    return int(first), min(int(last or size), size - 1)


# Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (`BlobNotFound`)
def _existing(call: _Call) -> _Version:
    if (version := call.version) is None:
        raise CloudError(404, "BlobNotFound", "The specified blob does not exist.")
    _check_conditions(call.request, version)
    return version


# Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (`ConditionNotMet`); Azure/Azurite
# src/blob/conditions/ReadConditionalHeadersValidator.ts; Azure/Azurite
# src/blob/conditions/WriteConditionalHeadersValidator.ts
def _check_conditions(request: Request, version: _Version | None) -> None:
    etag = version.etag if version else None
    unmet = "The condition specified using HTTP conditional header(s) is not met."
    if (wanted := request.headers.get("if-match")) and (etag is None or wanted not in ("*", etag)):
        raise CloudError(412, "ConditionNotMet", unmet)
    if etag and request.headers.get("if-none-match") in ("*", etag):
        raise CloudError(304 if request.method in ("GET", "HEAD") else 412, "ConditionNotMet", unmet)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _sidecar_file(call: _Call, blob: str) -> Path:
    return _aside(call.sandbox, call.account, call.container) / f"{_digest(blob)}.json"


# Source: Azure/Azurite src/blob/handlers/BlockBlobHandler.ts (the content type of a blob that was given none)
def _sidecar(call: _Call, blob: str, version: _Version) -> tuple[str, dict[str, str]]:
    """Content type and metadata of this version of a blob; the defaults if the sidecar cannot be read."""
    with contextlib.suppress(FileNotFoundError, Unreadable):
        side = state_files.read_json(_sidecar_file(call, blob), "etag", "type", "metadata")
        if side["etag"] == version.etag:
            return side["type"], side["metadata"]
    return "application/octet-stream", {}


def _write_sidecar(call: _Call, version: _Version, kind: str | None) -> None:
    mark = "x-ms-meta-"
    metadata = {name[len(mark) :]: value for name, value in call.request.headers.items() if name.startswith(mark)}
    side = {"etag": version.etag, "type": kind or "application/octet-stream", "metadata": metadata}
    temporary = call.staging / uuid.uuid4().hex
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(side))
    temporary.replace(_sidecar_file(call, call.blob))


def _children(parent: ElementTree.Element, texts: Mapping[str, str]) -> ElementTree.Element:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = text
    return parent


def _xml(root: ElementTree.Element, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(content, status, headers, media_type="application/xml")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    if status == 304:
        return Response(status_code=304, headers={"x-ms-error-code": code})
    body = _children(ElementTree.Element("Error"), {"Code": code, "Message": message})
    return _xml(body, status, {"x-ms-error-code": code, **(headers or {})})


# Source: Azure/Azurite swagger/blob-storage-2021-10-04.json
_OPERATIONS: dict[tuple[str, str, str], Callable[[_Call], Awaitable[Response]]] = {
    ("GET", "container", ""): _get_container,
    ("GET", "container", "list"): _list_blobs,
    ("PUT", "blob", ""): _put_blob,
    ("PUT", "blob", "block"): _put_block,
    ("PUT", "blob", "blocklist"): _put_block_list,
    ("PUT", "blob", "metadata"): _set_metadata,
    ("GET", "blob", ""): _get_blob,
    ("HEAD", "blob", ""): _get_blob,
    ("DELETE", "blob", ""): _delete_blob,
}
