"""The front by itself, in this process, on an engine that does what the test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from scoring.artefact import open_artefact
from scoring.contract import Row
from scoring.engines.native import NativeEngine
from scoring.server import Service, application
from scoring.settings import Settings
from testing.scoring import Toys, make_artefact

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


class SlowEngine(NativeEngine):
    """Starts, and answers, when it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_artefact(folder))
        self.may_start, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def start(self) -> None:
        await self.may_start.wait()

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        await self.may_answer.wait()
        return await super().probabilities(rows)


class BrokenEngine(SlowEngine):
    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        if self.may_answer.is_set():
            return await super().probabilities(rows)
        raise RuntimeError(f"cannot score {rows}")


@asynccontextmanager
async def running(
    toys: Toys, kind: type[SlowEngine] = SlowEngine, **settings: object
) -> AsyncIterator[tuple[Service, SlowEngine, httpx.AsyncClient]]:
    environment = {"AZUREML_MODEL_DIR": str(toys.folder), "MODEL_NAME": "toys", "MODEL_VERSION": "3"}
    engine = kind(toys.folder)
    read = Settings.from_environment({**environment, **{name: str(value) for name, value in settings.items()}})
    service = Service(read, open_artefact(toys.folder), engine)
    application_ = application(service, b"{}")
    async with (
        service.lifespan(None),
        httpx.AsyncClient(  # type: ignore[arg-type]
            transport=httpx.ASGITransport(application_), base_url="http://service"
        ) as client,
    ):
        yield service, engine, client


async def ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(5):
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.01)


def test_nothing_is_answered_before_the_golden_rows_came_back(toys: Toys) -> None:
    async def unready(client: httpx.AsyncClient) -> None:
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).json() == {"ready": False, "reason": "starting"}
        refused = await client.post("/score", json={"rows": toys.rows[:1]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")

    async def act() -> None:
        async with running(toys) as (_, engine, client):
            await unready(client)
            engine.may_answer.clear()
            engine.may_start.set()
            await asyncio.sleep(0.05)
            await unready(client)
            engine.may_answer.set()
            await ready(client)
            answered = await client.post("/score", json={"rows": toys.rows[:1]})
            assert answered.json()["probabilities"] == [toys.probability(toys.rows[0])]

    asyncio.run(act())


def test_a_warm_up_without_end_is_a_failure_that_is_named(toys: Toys) -> None:
    async def act() -> str | None:
        async with running(toys, SCORING_WARM_UP_SECONDS=1) as (service, _, _):
            async with asyncio.timeout(5):
                while service.failure is None:
                    await asyncio.sleep(0.05)
            return service.failure

    assert "SCORING_WARM_UP_SECONDS=1" in (asyncio.run(act()) or "")


def test_a_draining_service_is_not_ready_but_answers_and_lets_connections_go(toys: Toys) -> None:
    async def act() -> None:
        async with running(toys) as (service, engine, client):
            engine.may_start.set()
            await ready(client)
            assert "connection" not in (await client.post("/score", json={"rows": toys.rows[:1]})).headers
            service.draining = True
            assert (await client.get("/ready")).json() == {"ready": False, "reason": "stopping"}
            answered = await client.post("/score", json={"rows": toys.rows[:1]})
            assert (answered.status_code, answered.headers["connection"]) == (200, "close")

    asyncio.run(act())


def test_places_are_counted_while_the_engine_works_and_come_free(toys: Toys) -> None:
    async def act() -> None:
        async with running(toys, SCORING_MAX_IN_FLIGHT=2) as (_, engine, client):
            engine.may_start.set()
            await ready(client)
            engine.may_answer.clear()
            under_way = [asyncio.create_task(client.post("/score", json={"rows": toys.rows[:1]})) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert (await client.post("/score", json={"rows": toys.rows[:1]})).status_code == 503
            engine.may_answer.set()
            assert [answer.status_code for answer in await asyncio.gather(*under_way)] == [200, 200]
            assert (await client.post("/score", json={"rows": toys.rows[:1]})).status_code == 200

    asyncio.run(act())


def test_a_trace_context_comes_back_and_is_logged_where_a_request_fails(
    toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    async def act() -> None:
        async with running(toys, BrokenEngine) as (_, engine, client):
            engine.may_start.set()
            await ready(client)
            caplog.clear()
            for body in ({"rows": toys.rows[:1]}, {"rows": []}):
                answered = await client.post("/score", json=body, headers={"Traceparent": TRACE})
                assert answered.headers["traceparent"] == TRACE
            invalid = await client.post("/score", json={"rows": toys.rows[:1]}, headers={"Traceparent": "x"})
            assert "traceparent" not in invalid.headers
            engine.may_answer.clear()
            failed = await client.post("/score", json={"rows": [{"gender": "s3cret"}]}, headers={"Traceparent": TRACE})
            assert (failed.status_code, failed.headers["content-type"]) == (500, "application/problem+json")

    with caplog.at_level("INFO", "scoring"):
        asyncio.run(act())
    told = {record.message: record.__dict__["fields"] for record in caplog.records}
    assert told["refused"]["trace"] == told["failed"]["trace"] == TRACE.split("-")[1]
    assert "s3cret" not in json.dumps(list(told.values()))


def test_metrics_tell_outcome_engine_model_latency_and_what_was_missing(toys: Toys) -> None:
    async def act() -> str:
        async with running(toys) as (_, engine, client):
            engine.may_start.set()
            await ready(client)
            for rows in ([{"age": 3, "hour": None}], [{"hour": 1}, {"age": 1}], [{"age": "x"}]):
                await client.post("/score", json={"rows": rows})
            await client.post("/score", json={"rows": [{"age": 1}]}, headers={"Accept": "text/html"})
            return (await client.get("/metrics")).text

    lines = asyncio.run(act()).splitlines()
    served = 'engine="native",model="toys:3"'
    for line in (
        f'scoring_requests_total{{{served},status="200"}} 2.0',
        f'scoring_requests_total{{{served},status="400"}} 1.0',
        f'scoring_requests_total{{{served},status="406"}} 1.0',
        f"scoring_rows_total{{{served}}} 3.0",
        f"scoring_request_seconds_count{{{served}}} 4.0",
        f"scoring_sampled_rows_total{{{served}}} 2.0",
        *(
            f'scoring_missing_total{{engine="native",feature="{name}",model="toys:3"}} {times}.0'
            for name, times in {"age": 1, "hour": 1, "maker name": 2}.items()
        ),
        f"scoring_ready{{{served}}} 1.0",
    ):
        assert line in lines
