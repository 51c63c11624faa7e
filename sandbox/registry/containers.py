"""The container engine of a sandbox that was started with one: images are built by it, replicas run in it.

Settled by the first start of a folder, as its port is: CONTAINER_ENGINE names a JSON file with the engine's `address`
and the build `arguments` that this machine needs (such as another base image). Without it images are folders and
replicas processes, also where an engine answers. Does not start or stop the engine.
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

_SETTLED = "container-engine.json"
_NOBODY = "65534:65534"


@dataclass(frozen=True)
class ContainerEngine:
    address: str
    arguments: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        return ["docker", "--host", self.address, *words]

    async def ask(self, *words: str) -> str | None:
        """Standard output, or None where the engine does not answer or refuses."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await process.communicate()
        return output.decode().strip() if process.returncode == 0 else None

    async def build(self, name: str, recipe: Path, context: Path, arguments: Iterable[str]) -> list[str]:
        """Only the names of build arguments: values come from the environment, where no process list shows them."""
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
        """The command of a container that is reached at 127.0.0.1:`port`, and the environment of its client.

        No root, and nothing writable but /tmp, from which a JVM loads libraries.
        """
        network = await self._network()
        # Without a network of its own it listens where it is reached; published ports come from outside.
        own = {"SCORING_HOST": "127.0.0.1" if network else "0.0.0.0"}
        own["SCORING_PORT"] = str(port if network else container_port)
        user = await self.ask("image", "inspect", "--format", "{{.Config.User}}", image)
        words = ["run", "--rm", "--init", "--name", name, "--label", label, "--read-only", "--tmpfs", "/tmp:exec"]
        words += ["--user", user if user and user.partition(":")[0] not in ("0", "root") else _NOBODY]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        words += network or ["--publish", f"127.0.0.1:{port}:{container_port}"]
        # The engine refuses to promise more processors than there are.
        words += ["--cpus", f"{min(cpus, os.cpu_count() or 1):g}", "--memory", str(memory), "--volume", volume]
        words += [part for variable in {**environment, **own} for part in ("--env", variable)]
        return self.command(*words, image), {**os.environ, **environment, **own}

    async def remove_labelled(self, label: str) -> None:
        """Containers outlive a killed sandbox, unlike processes."""
        if left := await self.ask("ps", "--all", "--quiet", "--filter", f"label={label}"):
            await self.ask("rm", "--force", *left.split())

    async def _network(self) -> list[str]:
        """An engine without its bridge network (a closed machine) still has the host's."""
        return [] if await self.ask("network", "inspect", "bridge") else ["--network", "host"]


def engine_of(folder: Path) -> ContainerEngine | None:
    try:
        settled = state_files.read_json(folder / _SETTLED, "address", "arguments")
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise Damaged(error) from error
    return ContainerEngine(settled["address"], settled["arguments"])


def settle(folder: Path, environment: Mapping[str, str]) -> None:
    """Take CONTAINER_ENGINE for this folder, at its first start; `CannotServe` if that has settled it otherwise."""
    if not (named := environment.get("CONTAINER_ENGINE")):
        return
    try:
        told = json.loads(Path(named).read_text())
        wanted = ContainerEngine(told["address"], told.get("arguments", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotServe(f"CONTAINER_ENGINE={named} is no JSON file with the engine's `address`: {error}.") from error
    if engine_of(folder) is None and (folder / "environment.json").exists():
        message = f"the sandbox in {folder} was first started without a container engine."
        raise CannotServe(f"{message} Remove what it holds first, or name another folder.")
    if not shutil.which("docker"):
        raise CannotServe("CONTAINER_ENGINE is set, but there is no `docker` command.")
    make(folder)
    state_files.write(folder / _SETTLED, json.dumps({"address": wanted.address, "arguments": wanted.arguments}))
