"""The container engine that builds images and runs replicas, if the sandbox was first started with one.

The first start of a folder decides: CONTAINER_ENGINE names a JSON file with the engine's `address` and the build
`arguments` that this machine needs (such as another base image). Without the variable, images are folders and replicas
are processes, even if an engine is running. Does not start or stop the engine.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox import state_files
from sandbox.instance_lock import CannotServe, Damaged, make
from sandbox.state_files import Unreadable

_FILE = "container-engine.json"
_NOBODY = "65534:65534"


@dataclass(frozen=True)
class ContainerEngine:
    address: str
    arguments: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        return ["docker", "--host", self.address, *words]

    async def ask(self, *words: str) -> str | None:
        """Standard output of a command, or None if the engine does not answer or refuses it."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await process.communicate()
        return output.decode().strip() if process.returncode == 0 else None

    async def build(self, name: str, recipe: Path, context: Path, arguments: Iterable[str]) -> list[str]:
        """The command of a build, with the names of the build arguments only.

        Their values come from the environment, so that process lists do not show them.
        """
        options = [part for argument in arguments for part in ("--build-arg", argument)] + await self._network()
        return self.command("build", *options, "--tag", name, "--file", str(recipe), str(context))

    async def run(
        self,
        image: str,
        *,
        name: str,
        label: str,
        port: int,
        container_port: int,
        volume: str,
        cpus: float,
        memory: int,
        environment: Mapping[str, str],
    ) -> tuple[list[str], dict[str, str]]:
        """The command of a container that listens on 127.0.0.1:`port`, and the environment of its client.

        The container does not run as root. Only /tmp is writable, and executable, because a JVM loads libraries there.
        """
        network = await self._network()
        # On the host's network it listens on loopback; a published port is forwarded to all its interfaces.
        own = {"SCORING_HOST": "127.0.0.1" if network else "0.0.0.0"}
        own["SCORING_PORT"] = str(port if network else container_port)
        user = await self.ask("image", "inspect", "--format", "{{.Config.User}}", image)
        words = ["run", "--rm", "--init", "--name", name, "--label", label, "--read-only", "--tmpfs", "/tmp:exec"]
        words += ["--user", user if user and user.partition(":")[0] not in ("0", "root") else _NOBODY]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        words += network or ["--publish", f"127.0.0.1:{port}:{container_port}"]
        # The engine refuses more processors than the machine has.
        words += ["--cpus", f"{min(cpus, os.cpu_count() or 1):g}", "--memory", str(memory), "--volume", volume]
        words += [part for variable in {**environment, **own} for part in ("--env", variable)]
        return self.command(*words, image), {**os.environ, **environment, **own}

    async def remove_labelled(self, label: str) -> None:
        """Remove the containers with this label: unlike processes, they outlive a killed sandbox."""
        if left := await self.ask("ps", "--all", "--quiet", "--filter", f"label={label}"):
            await self.ask("rm", "--force", *left.split())

    async def _network(self) -> list[str]:
        """Options for the host's network if the engine has no bridge network, as on a restricted machine."""
        return [] if await self.ask("network", "inspect", "bridge") else ["--network", "host"]


def engine_of(folder: Path) -> ContainerEngine | None:
    try:
        engine = state_files.read_json(folder / _FILE, "address", "arguments")
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise Damaged(error) from error
    return ContainerEngine(engine["address"], engine["arguments"])


def settle(folder: Path, environment: Mapping[str, str]) -> None:
    """Store CONTAINER_ENGINE at the first start of the folder. Raises `CannotServe` if that was without an engine."""
    if not (named := environment.get("CONTAINER_ENGINE")):
        return
    try:
        content = json.loads(Path(named).read_text())
        engine = ContainerEngine(content["address"], content.get("arguments", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotServe(
            f"CONTAINER_ENGINE={named} is not a JSON file with the engine's `address`: {error}."
        ) from error
    if engine_of(folder) is None and (folder / "environment.json").exists():
        message = f"the sandbox in {folder} was first started without a container engine."
        raise CannotServe(f"{message} Remove its resources first, or name another folder.")
    if not shutil.which("docker"):
        raise CannotServe("CONTAINER_ENGINE is set, but the command `docker` is missing.")
    make(folder)
    state_files.write(folder / _FILE, json.dumps({"address": engine.address, "arguments": engine.arguments}))
