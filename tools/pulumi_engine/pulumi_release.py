"""Downloads Pulumi's official release. If the server does not answer soon, as on a closed network, the CLI is built.

Trusts the connection, as Pulumi's own installer does. Does not check that the program runs and has the wanted version:
the caller does.
"""

import os
import platform
import queue
import tarfile
import threading
import time
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

RELEASES = "https://get.pulumi.com/releases/sdk"
WANTED = ("pulumi", "pulumi-language-python", "pulumi-language-python-exec", "pulumi-resource-pulumi-python")

_CONNECT_SECONDS = 4
_DOWNLOAD_SECONDS = 120  # a build takes less than twice that


def download(version: str, binaries: Path, releases: str) -> bool:
    """Whether the release could be had and is whole; otherwise `binaries` is left empty."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    url = f"{releases}/pulumi-v{version}-{platform.system().lower()}-{machine}.tar.gz"
    try:
        with _open(url) as answer:
            _unpack(answer, binaries)
    except (OSError, EOFError, HTTPException, tarfile.TarError, zlib.error):
        complete = False
    else:
        complete = all((binaries / name).is_file() for name in WANTED)
    if not complete:
        for file in binaries.iterdir():
            file.unlink()
    return complete


def _unpack(archive: IO[bytes], binaries: Path) -> None:
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    with tarfile.open(fileobj=archive, mode="r|gz") as release:
        for member in release:
            folder, name = os.path.split(member.name)
            if not (member.isfile() and folder == "pulumi" and name in WANTED):
                continue
            content = release.extractfile(member)
            assert content is not None
            with open(binaries / name, "wb") as file:
                while chunk := content.read(1 << 20):
                    file.write(chunk)
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{name} did not arrive within {_DOWNLOAD_SECONDS} s")
            (binaries / name).chmod(0o755)


def _open(url: str) -> IO[bytes]:
    """`urlopen` whose time-out also covers looking the name up, which the socket's does not."""
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            arrived.put(urllib.request.urlopen(url, timeout=_CONNECT_SECONDS))
        except OSError as error:
            arrived.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = arrived.get(timeout=_CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(url) from None
    if isinstance(answer, OSError):
        raise answer
    return answer
