"""Files in volumes (`/api/2.0/fs`) and in the workspace (`/api/2.0/workspace`).

A volume's files are the lake's: see `unity_catalog.real_path`. Workspace files lie in the sandbox's folder, and so do
notebooks: Python in source format (SOURCE, or AUTO with the header of one). DBC, JUPYTER and other languages are
refused. Has no presigned URLs, so the SDK transfers files of any size through the Files API.
"""

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sandbox import blob
from sandbox.context import CloudError
from sandbox.databricks import artifacts, unity_catalog
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of

# Source: databricks/cli bundle/trampoline/python_wheel.go (NOTEBOOK_TEMPLATE)
_NOTEBOOK = b"# Databricks notebook source"


def handlers() -> Iterator[tuple[str, str, Handler]]:
    files: dict[str, Handler] = {"GET": _download, "PUT": _upload, "DELETE": _delete, "POST": _start_upload}
    yield from ((method, "/api/2.0/fs/files/{path:path}", handler) for method, handler in files.items())
    folders: dict[str, Handler] = {"GET": _list, "PUT": _make, "DELETE": _delete}
    yield from ((method, "/api/2.0/fs/directories/{path:path}", handler) for method, handler in folders.items())
    writes: dict[str, Handler] = {"mkdirs": _mkdirs, "import": _import, "delete": _delete_object}
    yield from (("POST", f"/api/2.0/workspace/{name}", handler) for name, handler in writes.items())
    reads: dict[str, Handler] = {"get-status": _status, "list": _list_objects, "export": _export}
    yield from (("GET", f"/api/2.0/workspace/{name}", handler) for name, handler in reads.items())


def local_path(workspace: Workspace, path: str) -> Path:
    """The file on this machine for a volume or workspace path."""
    if path.removeprefix("dbfs:").startswith("/Volumes/"):
        return unity_catalog.real_path(workspace, path)
    inside = path.removeprefix("/Workspace").strip("/")
    if not path.startswith("/"):
        # Source: databrickslabs/ucx#1585 (INVALID_PARAMETER_VALUE and the message)
        raise ValueError(f"Path ({path}) doesn't start with '/'")
    root = workspace.folder / "workspace"
    (root / "Shared").mkdir(parents=True, exist_ok=True)  # every workspace has it
    return blob.safe_path(root, inside) if inside else root


def _missing(path: str) -> CloudError:
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.get_status:
    # RESOURCE_DOES_NOT_EXIST)
    return CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({path}) doesn't exist.")


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI: paths of files and directories)
def _asked(workspace: Workspace, request: Request) -> tuple[str, Path]:
    path = f"/{request.path_params['path']}"
    known = artifacts if path.startswith(artifacts.ROOT) else unity_catalog
    return path, known.real_path(workspace, path)


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI.download); databricks/cli
# libs/filer/files_client.go (404 where the path does not exist)
async def _download(workspace: Workspace, request: Request) -> Response:
    path, file = _asked(workspace, request)
    if not file.is_file():
        raise CloudError(404, "NOT_FOUND", f"The file {path} does not exist.")
    return FileResponse(file, media_type="application/octet-stream")


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI.upload: overwrite); databricks/cli
# libs/filer/files_client.go (409 where the file exists)
async def _upload(workspace: Workspace, request: Request) -> Response:
    path, file = _asked(workspace, request)
    if file.is_dir():
        # No source: upload a file to the path of a directory and read the error.
        raise ValueError(f"{path} is a directory.")
    async with blob.received(request, workspace.folder / "uploads") as written:
        if request.query_params.get("overwrite") == "false" and file.exists():
            raise CloudError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        written.replace(file)
    return Response(status_code=204)


# Source: databricks-sdk==0.156.0 databricks/sdk/mixins/files.py (_FilesExt: falls back to a single upload)
async def _start_upload(workspace: Workspace, request: Request) -> Json:
    """Start a session. Part URLs are refused later, and then the SDK falls back to one PUT."""
    path, file = _asked(workspace, request)
    if request.query_params.get("overwrite") == "false" and file.exists():
        raise CloudError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")
    return {"multipart_upload": {"session_token": "none"}}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI.delete; delete_directory); databricks/cli
# libs/filer/files_client_test.go (404 NOT_FOUND; 400 INVALID_PARAMETER_VALUE where it is not empty)
async def _delete(workspace: Workspace, request: Request) -> Response:
    path, found = _asked(workspace, request)
    is_folder = "/fs/directories/" in request.url.path
    if not (found.is_dir() if is_folder else found.is_file()):
        raise CloudError(404, "NOT_FOUND", f"The {'directory' if is_folder else 'file'} {path} does not exist.")
    if is_folder and any(found.iterdir()):
        raise ValueError(f"The directory {path} is not empty.")
    found.rmdir() if is_folder else found.unlink()
    return Response(status_code=204)


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI.create_directory: idempotent);
# databricks/cli libs/filer/files_client.go (Mkdir: 409 where a file is there)
async def _make(workspace: Workspace, request: Request) -> Response:
    path, folder = _asked(workspace, request)
    if folder.is_file():
        raise CloudError(409, "ALREADY_EXISTS", f"{path} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    return Response(status_code=204)


# Source: databricks-sdk==0.156.0 databricks/sdk/service/files.py (FilesAPI.list_directory_contents: 404;
# get_directory_metadata)
async def _list(workspace: Workspace, request: Request) -> Json | Response:
    path, folder = _asked(workspace, request)
    if not folder.is_dir():
        raise CloudError(404, "NOT_FOUND", f"The directory {path} does not exist.")
    if request.method == "HEAD":
        return Response()
    contents = []
    for entry in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # Spark removed it since
            found = entry.stat()
            shown = {"name": entry.name, "path": f"{path.rstrip('/')}/{entry.name}", "is_directory": entry.is_dir()}
            contents.append(
                shown
                if entry.is_dir()
                else shown | {"file_size": found.st_size, "last_modified": int(found.st_mtime * 1000)}
            )
    return {"contents": contents}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.mkdirs: RESOURCE_ALREADY_EXISTS)
async def _mkdirs(workspace: Workspace, request: Request) -> Json:
    path = (await body_of(request)).get("path", "")
    try:
        local_path(workspace, path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CloudError(400, "RESOURCE_ALREADY_EXISTS", f"A part of {path} is a file.") from error
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.import_: RESOURCE_ALREADY_EXISTS;
# ImportFormat)
async def _import(workspace: Workspace, request: Request) -> Json:
    if request.headers.get("content-type", "").startswith("multipart/"):
        form = await request.form()
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        sent = form.get("content")
        content = await sent.read() if isinstance(sent, UploadFile) else str(sent or "").encode()
    else:
        fields = {name: str(value) for name, value in (await body_of(request)).items()}
        content = base64.b64decode(fields.get("content", ""), validate=True)
    path, file_format = fields.get("path", ""), fields.get("format", "SOURCE")
    if file_format not in ("AUTO", "RAW", "SOURCE"):
        raise ValueError(f"{path}: the sandbox takes format AUTO, RAW or SOURCE, not {file_format}.")
    if file_format == "SOURCE" and fields.get("language") != "PYTHON":
        raise ValueError(f"{path}: the sandbox takes notebooks with language PYTHON, not {fields.get('language')}.")
    if file_format == "SOURCE" and not content.startswith(_NOTEBOOK):
        content = _NOTEBOOK + b"\n" + content
    if file_format == "AUTO" and content.startswith(_NOTEBOOK):
        path = path.removesuffix(".py")
    file = local_path(workspace, path)
    if not file.parent.is_dir():
        raise CloudError(
            # Source: databricks/terraform-provider-databricks workspace/resource_notebook_test.go ("The parent folder
            # (/foo) does not exist.")
            404,
            "RESOURCE_DOES_NOT_EXIST",
            f"The parent folder ({path.rpartition('/')[0]}) does not exist.",
        )
    if file.exists() and fields.get("overwrite", "").lower() != "true":
        raise CloudError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists.")
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
    return {}


def _object(path: str, found: Path) -> Json:
    status = found.stat()
    shown = {"path": path, "object_id": status.st_ino, "object_type": "DIRECTORY" if found.is_dir() else "FILE"}
    if found.is_file() and _is_notebook(found):
        return shown | {"object_type": "NOTEBOOK", "language": "PYTHON"}
    return shown if found.is_dir() else shown | {"size": status.st_size, "modified_at": int(status.st_mtime * 1000)}


def _is_notebook(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(_NOTEBOOK)) == _NOTEBOOK


def _sought(workspace: Workspace, path: str) -> Path:
    found = local_path(workspace, path)
    if not found.exists():
        raise _missing(path)
    return found


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.get_status; ObjectInfo)
async def _status(workspace: Workspace, request: Request) -> Json:
    path = request.query_params["path"]
    return _object(path, _sought(workspace, path))


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.list)
async def _list_objects(workspace: Workspace, request: Request) -> Json:
    path = request.query_params["path"]
    found = _sought(workspace, path)
    if found.is_file():
        return {"objects": [_object(path, found)]}
    return {"objects": [_object(f"{path.rstrip('/')}/{entry.name}", entry) for entry in sorted(found.iterdir())]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.export)
async def _export(workspace: Workspace, request: Request) -> Json | Response:
    path = request.query_params["path"]
    content = _sought(workspace, path).read_bytes()
    if request.query_params.get("direct_download") == "true":
        return Response(content, media_type="application/octet-stream")
    return {"content": base64.b64encode(content).decode(), "file_type": path.rpartition(".")[2]}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (WorkspaceAPI.delete: DIRECTORY_NOT_EMPTY)
async def _delete_object(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    found = _sought(workspace, body.get("path", ""))
    if found.is_dir() and any(found.iterdir()) and not body.get("recursive"):
        raise CloudError(400, "DIRECTORY_NOT_EMPTY", f"Folder ({body['path']}) is not empty.")
    shutil.rmtree(found) if found.is_dir() else found.unlink()
    return {}
