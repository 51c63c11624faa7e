"""Images of the sandbox's registry, built from an uploaded context and stored by the digest of its content.

With a container engine, an image is a container image built from the context's Dockerfile. Without one it is a folder,
made by the script that the Dockerfile also calls: `install.sh <prefix> <engine>`, run with this machine's Python. The
folder stand-in installs no operating-system packages, creates no user, isolates and limits nothing; from the Dockerfile
it takes only the defaults of `ARG`. Its `bin/serve` runs as a process.

In both cases the digest covers the content: file names, executable bits, bytes, Dockerfile path and build arguments,
not the order or time stamps of the archive. The same content is not built again.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

from sandbox import processes, state_files
from sandbox.context import CloudError, Sandbox
from sandbox.registry.containers import engine_of

# Source: distribution/reference reference.go
_REFERENCE = re.compile(
    r"(?P<server>[^/]+)/(?P<registry>[^/]+)/(?P<repository>.+?)(@(?P<digest>sha256:\w+)|:(?P<tag>[\w.-]+))"
)
FILES = "root"
"""Folder of an image's files, without a container engine."""
_locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
"""Locks that prevent two builds of one image at a time."""


@dataclass(frozen=True)
class Image:
    root: Path | None
    """Folder of the stand-in: the prefix that `install.sh` got."""
    container: str | None
    """Name in the container engine, if that built it."""


class BuildFailed(Exception):
    """The context has an error; the message goes to the log and the run."""


def registry_folder(sandbox: Sandbox, registry: str) -> Path:
    return sandbox.folder / "registries" / registry.lower()


def find_image(sandbox: Sandbox, reference: str) -> Image:
    """The image `<login server>/<repository>@sha256:…` or `…:<tag>`. Raises `CloudError`."""
    match = _REFERENCE.fullmatch(reference)
    if not match or match["server"] != sandbox.authority:
        form = f"{sandbox.authority}/<registry>/<repository>@sha256:<digest>"
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
        # (`BadArgument`: unable to download the container image)
        raise CloudError(400, "BadArgument", f"'{reference}' is not an image in a registry here: it must read {form}.")
    folder = registry_folder(sandbox, match["registry"])
    with contextlib.suppress(FileNotFoundError):
        digest = match["digest"] or _tag(folder, match["repository"], match["tag"]).read_text()
        manifest = _image_folder(folder, digest) / "image.json"
        container = _container(manifest)
        return Image(None if container else manifest.with_name(FILES), container)
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
    # (`BadArgument`: unable to download the container image)
    raise CloudError(400, "BadArgument", f"Registry '{match['registry']}' has no image '{reference}'. Build it first.")


def tag_image(folder: Path, digest: str, repository: str, tag: str) -> None:
    pointer = _tag(folder, repository, tag)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    state_files.write(pointer, digest)


async def remove_images(sandbox: Sandbox, folder: Path) -> None:
    for manifest in folder.glob("images/*/image.json"):
        with contextlib.suppress(CloudError):  # an unreadable image is deleted with its folder
            if (container := _container(manifest)) and (engine := engine_of(sandbox.folder)):
                await engine.ask("image", "rm", "--force", container)


async def build_image(
    sandbox: Sandbox,
    registry: str,
    archive: Path,
    dockerfile: str,
    arguments: Mapping[str, str],
    context: Path,
    log: Path,
) -> str:
    """Build the image and return its digest. `context` is the folder to unpack the archive into."""
    content = await asyncio.to_thread(_unpack, archive, context)
    recipe = context / dockerfile
    if not recipe.is_file():
        raise BuildFailed(f"the context holds no '{dockerfile}' (dockerFilePath)")
    content.update(json.dumps([dockerfile, arguments], sort_keys=True).encode())
    digest = f"sha256:{content.hexdigest()}"
    image = _image_folder(registry_folder(sandbox, registry), digest)
    async with _locks.setdefault(image, asyncio.Lock()):
        if _is_whole(image):
            with log.open("a") as file:
                file.write(f"The same content was built before: {digest}\n")
            return digest
        await asyncio.to_thread(shutil.rmtree, image, ignore_errors=True)
        image.mkdir(parents=True)
        container = None
        if engine := engine_of(sandbox.folder):
            container = f"sandbox/{registry.lower()}:{content.hexdigest()}"
            arguments = {**engine.arguments, **arguments}
            command = await engine.build(container, recipe, context, arguments)
            await _run_to_end(command, log, {**sandbox.environment, **arguments}, context)
        else:
            defaults = dict(re.findall(r"^ARG\s+(\w+)=(\S+)", recipe.read_text(), re.MULTILINE))
            await _install(sandbox, recipe.with_name("install.sh"), image / FILES, {**defaults, **arguments}, log)
        # Written last, because it makes the image valid: a Python environment cannot be built elsewhere and moved.
        state_files.write(image / "image.json", json.dumps({"container": container}))
    return digest


def _is_whole(image: Path) -> bool:
    try:
        return bool(state_files.read_json(image / "image.json", "container"))
    except (FileNotFoundError, state_files.Unreadable):
        return False


def _container(manifest: Path) -> str | None:
    try:
        container: str | None = state_files.read_json(manifest, "container")["container"]
    except state_files.Unreadable as error:
        raise CloudError(500, "InternalServerError", f"{error}. Remove it, and build the image again.") from error
    return container


async def _install(sandbox: Sandbox, script: Path, root: Path, arguments: Mapping[str, str], log: Path) -> None:
    if not script.is_file():
        raise BuildFailed("without a container engine the context needs an install.sh next to its Dockerfile")
    if not (kind := arguments.get("ENGINE")):
        raise BuildFailed("without a container engine install.sh needs the build argument ENGINE")
    tools = {"PYTHON": getattr(sys, "_base_executable", sys.executable), "TMPDIR": str(script.parent)}
    if uv := shutil.which("uv", path=os.path.dirname(sys.executable)):
        tools["UV"] = uv
    await _run_to_end([str(script), str(root), kind], log, {**sandbox.environment, **arguments, **tools}, script.parent)
    if not os.access(root / "bin" / "serve", os.X_OK):
        raise BuildFailed("install.sh succeeded but created no executable bin/serve in its prefix")


async def _run_to_end(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path) -> None:
    try:
        process = processes.start(command, log=log, environment=environment, folder=folder)
    except OSError as error:
        raise BuildFailed(f"{Path(command[0]).name} cannot be run: {error.strerror}") from error
    try:
        while process.poll() is None:
            await asyncio.sleep(0.05)
    finally:
        if process.poll() is None:
            await asyncio.to_thread(processes.stop, process)
    if process.returncode:
        raise BuildFailed(
            f"{Path(command[0]).name} ended with exit code {process.returncode}; its output is in the log"
        )


def _unpack(archive: Path, context: Path) -> "hashlib._Hash":
    """Unpack an uploaded archive; returns the digest of its files, in order of name, to be continued."""
    context.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            if outside := [member.name for member in packed if not _stays_inside(member)]:
                raise BuildFailed(f"the uploaded context holds {outside[0]!r}, which is not a file or link inside it")
            if hasattr(tarfile, "data_filter"):
                packed.extractall(context, filter="data")
            else:  # `filter` exists since Python 3.11.4, and Debian 12 has 3.11.2
                packed.extractall(context)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BuildFailed(f"the uploaded context is not a readable .tar.gz archive: {error}") from error
    content = hashlib.sha256()
    for path in sorted(context.rglob("*")):
        name = path.relative_to(context).as_posix()
        if path.is_symlink():
            content.update(f"link {name} {path.readlink()}\0".encode())
        elif path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            content.update(f"file {name} {executable} {path.stat().st_size}\0".encode() + path.read_bytes())
    return content


def _stays_inside(member: tarfile.TarInfo) -> bool:
    plain = member.isfile() or member.isdir() or member.issym() or member.islnk()
    paths = PurePosixPath(member.name), PurePosixPath(member.linkname)
    return plain and not any(path.is_absolute() or ".." in path.parts for path in paths)


def _image_folder(folder: Path, digest: str) -> Path:
    return folder / "images" / digest.removeprefix("sha256:")


def _tag(folder: Path, repository: str, tag: str) -> Path:
    return folder / "repositories" / repository / tag
