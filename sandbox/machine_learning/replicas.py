"""A running deployment: starts and watches replicas of the scoring service, and assigns requests to them.

A replica is a process (or a container, if the image is one) with its own port. A replica is restarted, each time after
a longer pause, when it ends, when its liveness probe reaches its failure threshold, or when it uses more memory than
its limit (Kubernetes kills it: `OOMKilled`). CPU limits are checked when a deployment is created, and enforced for
containers only. Each replica runs on a node of the cluster, and moves or ends with it (`nodes.py`). With scale settings
the number of replicas follows the load (`scaling.py`): a new one gets requests once it is ready, and a removed one gets
no new requests and answers its open ones first.
"""

import asyncio
import contextlib
import itertools
import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path

import httpx

from sandbox import java, processes
from sandbox.context import CloudError, Sandbox
from sandbox.machine_learning import memory, nodes
from sandbox.machine_learning.deployment_spec import DeploymentSpec
from sandbox.machine_learning.scaling import Scale, Scaler
from sandbox.registry.containers import ContainerEngine, engine_of
from sandbox.registry.images import find_image

# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-custom-container.md ("Locating the mounted
# model")
_MODELS_IN_CONTAINER = "/var/azureml-app/azureml-models"
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_STABLE_SECONDS = 60.0
_MEMORY_SECONDS, _FAMILY_SECONDS = 0.5, 5.0
_NODE_SECONDS = 0.1
_PASSED_ON = ("PATH", "JAVA_HOME", "JAVA_TOOL_OPTIONS", "LANG")


class NotReady(Exception):
    """A replica did not get ready, or is no longer ready."""


class Overloaded(Exception):
    """No replica became free within the queue's longest wait."""


class NoReplica(Exception):
    """No replica is ready, so waiting has no use."""


class Replica:
    def __init__(
        self, sandbox: Sandbox, transport: httpx.AsyncBaseTransport, spec: DeploymentSpec, folder: Path, log: Path
    ) -> None:
        self._sandbox, self._transport, self._spec = sandbox, transport, spec
        self._folder, self._log = folder, log
        self._process: subprocess.Popen[bytes] | None = None
        self._container = f"sandbox-{folder.parent.name}-{folder.name}"
        self._engine: ContainerEngine | None = None
        self._measured = self._counted = 0.0
        self._family: list[int] = []
        self.node: nodes.Node | None = None
        self.port = 0
        self.ready = False
        self.busy = 0
        self.turn = 0

    async def launch(self) -> None:
        """Start the service and wait until it is ready. Raises `NotReady`."""
        self._counted = 0.0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "tmp").mkdir(parents=True)
        try:
            command, environment = await self._command()
            self._process = processes.start(command, log=self._log, environment=environment, folder=self._folder)
        except (CloudError, OSError) as error:
            raise NotReady(f"it cannot be started: {error}") from error
        deadline = time.monotonic() + self._spec.startup_seconds
        while not await self._answers(self._spec.readiness_path):
            await self._check_process()
            if time.monotonic() > deadline:
                raise NotReady(f"'{self._spec.readiness_path}' was not 200 in {self._spec.startup_seconds:g} s")
            await asyncio.sleep(0.1)
        self.ready = True

    async def watch(self) -> None:
        """Run until the process has ended or hangs, then raise `NotReady`."""
        failures, next_probe = 0, time.monotonic()
        while True:
            await asyncio.sleep(0.1)
            await self._check_process()
            if time.monotonic() >= next_probe:
                next_probe = time.monotonic() + self._spec.liveness_period
                failures = 0 if await self._answers(self._spec.liveness_path) else failures + 1
                if failures >= self._spec.liveness_failures:
                    raise NotReady(f"'{self._spec.liveness_path}' failed {failures} times in a row")

    def kill(self) -> None:
        """Kill the process, as when its node is removed. `watch` then raises `NotReady`."""
        self.ready, self.node = False, None
        if self._process is not None:
            self._process.kill()

    async def halt(self) -> None:
        self.ready = False
        if self._process is not None:
            await asyncio.to_thread(processes.stop, self._process)
            self._process = None
        if self._engine is not None:
            await self._engine.ask("rm", "--force", self._container)

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _command(self) -> tuple[list[str], dict[str, str]]:
        spec, models = self._spec, self._folder.parents[1] / "models"
        image = find_image(self._sandbox, spec.image)
        if image.root is not None:
            base = {name: self._sandbox.environment[name] for name in _PASSED_ON if name in self._sandbox.environment}
            own = {"HOME": str(self._folder), "TMPDIR": str(self._folder / "tmp")}
            own |= {"SCORING_HOST": "127.0.0.1", "SCORING_PORT": str(self.port)}
            if spec.model:
                own["AZUREML_MODEL_DIR"] = str(models / spec.model)
            # A service on Spark starts with 40 % less CPU, and then answers 1,700 requests per second instead of 2,500.
            given = {"LANG": "C.UTF-8", "SPARK_SUBMIT_OPTS": java.QUICK}
            return [str(image.root / "bin" / "serve")], {**given, **base, **spec.environment, **own}

        self._engine = engine_of(self._sandbox.folder)
        if self._engine is None:
            # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md
            # (`BadArgument`: unable to download the container image)
            raise CloudError(
                400, "BadArgument", f"'{spec.image}' is a container image, and there is no container engine."
            )
        own = {"AZUREML_MODEL_DIR": f"{_MODELS_IN_CONTAINER}/{spec.model}"} if spec.model else {}
        return await self._engine.run(
            str(image.container),
            name=self._container,
            label=container_label(self._sandbox),
            port=self.port,
            container_port=spec.container_port,
            volume=f"{models}:{_MODELS_IN_CONTAINER}:ro",
            cpus=spec.cpu_limit,
            memory=spec.memory_limit,
            environment={**spec.environment, **own},
        )

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> httpx.Response:
        """The service's answer. Raises `TimeoutError` or `httpx.TransportError`."""
        request = httpx.Request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, content=body)
        async with asyncio.timeout(seconds):
            response = await self._transport.handle_async_request(request)
            await response.aread()
        return response

    async def _answers(self, path: str) -> bool:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            return (await self.send("GET", path, {}, b"", self._spec.probe_timeout)).status_code == 200
        return False

    async def _check_process(self) -> None:
        if self._process is None:
            raise NotReady("it is not running")
        if (code := self._process.poll()) is not None:
            raise NotReady(f"the process ended with exit code {code}")
        if self._engine is None:
            await self._check_memory(self._process)

    async def _check_memory(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process if it is above its limit. For a container, the engine does that."""
        now = time.monotonic()
        if now - self._measured < _MEMORY_SECONDS:
            return
        self._measured = now
        if now - self._counted > _FAMILY_SECONDS:
            self._counted, self._family = now, await asyncio.to_thread(memory.family, process.pid)
        held, limit = memory.held(self._family), self._spec.memory_limit
        if held > limit:
            process.kill()
            mib = f"{held >> 20} MiB, above its limit of {limit >> 20} MiB"
            raise NotReady(f"OOMKilled (exit code 137): it used {mib}")


class Deployment:
    """The replicas of one generation of a deployment; an update starts a new generation next to the old one."""

    def __init__(
        self, sandbox: Sandbox, transport: httpx.AsyncBaseTransport, spec: DeploymentSpec, folder: Path, generation: str
    ) -> None:
        self.spec = spec
        self._sandbox, self._transport = sandbox, transport
        self._folder = folder / generation
        self._log = folder / "console.log"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._numbers, self._turns = itertools.count(), itertools.count(1)
        self._replicas: list[Replica] = []
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        """Task of each replica: it keeps the replica running, or ends one that is no longer in `_replicas`."""
        self._followers: list[asyncio.Task[None]] = []
        self._queue: deque[asyncio.Future[Replica]] = deque()
        for _ in range(spec.instances):
            self._add()

    async def start(self) -> None:
        """Start all replicas, wait until they are ready, and watch them. On `NotReady`, all are stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                for replica in self._replicas:
                    self._place(replica)
                    group.create_task(replica.launch())
        except BaseException as error:
            await self.stop(drain=False)
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self.guard()

    def guard(self) -> None:
        """Start the replicas that do not run, and restart them from now on."""
        for replica in self._replicas:
            self._tasks[replica] = asyncio.create_task(self._guard(replica))
        self._followers.append(asyncio.create_task(self._follow_nodes()))
        if self.spec.scale is not None:
            self._followers.append(asyncio.create_task(self._follow_load(self.spec.scale)))

    async def stop(self, *, drain: bool) -> None:
        """End all replicas; with `drain`, after they have answered their open requests."""
        for follower in self._followers:
            follower.cancel()
        replicas = {*self._replicas, *self._tasks}
        if drain:
            await self._drained(replicas)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.halt() for replica in replicas))
        shutil.rmtree(self._folder, ignore_errors=True)

    async def acquire(self, avoid: Replica | None = None) -> Replica:
        """The least busy replica with a free place; return it with `release`. Raises `NoReplica` or `Overloaded`."""
        if not self._queue and (replica := self._with_room(avoid)):
            return replica
        if not any(replica.ready for replica in self._replicas):
            raise NoReplica
        waiting: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._queue.append(waiting)
        try:
            async with asyncio.timeout(self.spec.queue_wait):
                return await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled():
                self.release(waiting.result())
            waiting.cancel()
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def release(self, replica: Replica) -> None:
        replica.busy -= 1
        self._serve_queue()

    @property
    def addresses(self) -> list[str]:
        """Addresses of the ready replicas."""
        return [f"127.0.0.1:{replica.port}" for replica in self._replicas if replica.ready]

    def tail(self, lines: int) -> str:
        return tail(self._log, lines)

    def _add(self) -> Replica:
        folder = self._folder / f"replica-{next(self._numbers)}"
        replica = Replica(self._sandbox, self._transport, self.spec, folder, self._log)
        self._replicas.append(replica)
        return replica

    def _place(self, replica: Replica) -> None:
        """Give the replica a node, or raise `NotReady`."""
        others = (other.node for other in self._replicas if other is not replica)
        try:
            replica.node = nodes.place(self._sandbox, self.spec.cluster, others)
        except nodes.NoNode as error:
            raise NotReady(str(error)) from error

    async def _follow_nodes(self) -> None:
        cluster = self.spec.cluster
        while True:
            await asyncio.sleep(_NODE_SECONDS)
            for replica in list(self._replicas):
                if nodes.is_gone(self._sandbox, cluster, replica.node):
                    self._note(f"The node of a replica was deleted with its pool: {replica.node}.")
                    replica.kill()
                elif nodes.is_drained(self._sandbox, cluster, replica.node):
                    self._note(f"A replica moves from {replica.node}, which is drained.")
                    moved = self._add()
                    self._tasks[moved] = asyncio.create_task(self._guard(moved))
                    self._replicas.remove(replica)
                    self._tasks[replica] = asyncio.create_task(self._end(replica, self._tasks[replica]))

    async def _follow_load(self, scale: Scale) -> None:
        scaler = Scaler(scale, self.spec.max_concurrent)
        while True:
            await asyncio.sleep(scale.polling_interval)
            busy = sum(replica.busy for replica in {*self._replicas, *self._tasks})
            concurrent = busy + sum(not waiting.done() for waiting in self._queue)
            change = scaler.poll(concurrent, len(self._replicas))
            if change:
                before = len(self._replicas)
                self._note(f"{concurrent} requests at once: {before} replicas become {before + change}.")
            for _ in range(change):
                replica = self._add()
                self._tasks[replica] = asyncio.create_task(self._guard(replica))
            if change < 0:
                # Remove one that does not run; else the least busy, and of those the newest.
                replica = min(reversed(self._replicas), key=lambda it: (it.ready, it.busy))
                self._replicas.remove(replica)
                self._tasks[replica] = asyncio.create_task(self._end(replica, self._tasks[replica]))

    async def _end(self, replica: Replica, guard: asyncio.Task[None]) -> None:
        guard.cancel()
        await asyncio.wait([guard])
        await self._drained([replica])
        await replica.halt()
        replica.forget()
        del self._tasks[replica]

    async def _drained(self, replicas: Collection[Replica]) -> None:
        """Wait until the replicas have no open request, at most for the time that one request may take."""
        deadline = time.monotonic() + self.spec.request_timeout
        while any(replica.busy for replica in replicas) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _with_room(self, avoid: Replica | None = None) -> Replica | None:
        free = [it for it in self._replicas if it.ready and it.busy < self.spec.max_concurrent]
        if not free:
            return None
        chosen = min(free, key=lambda it: (it is avoid, it.busy, it.turn))
        chosen.busy += 1
        chosen.turn = next(self._turns)
        return chosen

    def _serve_queue(self) -> None:
        while self._queue:
            if self._queue[0].done():
                self._queue.popleft()
            elif replica := self._with_room():
                self._queue.popleft().set_result(replica)
            else:
                return

    def _note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{line}\n")

    async def _guard(self, replica: Replica) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                if not replica.ready:
                    self._place(replica)
                    await replica.launch()
                    self._serve_queue()
                await replica.watch()
            except NotReady as error:
                await replica.halt()
                if time.monotonic() - began > _STABLE_SECONDS:
                    pause = _FIRST_PAUSE
                self._note(f"A replica is started again in {pause:g} s: {error}.")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def container_label(sandbox: Sandbox) -> str:
    return f"sandbox.folder={sandbox.folder}"


def tail(log: Path, lines: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""
