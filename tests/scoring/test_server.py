"""Tests of the HTTP server in this process, with an engine that the test controls."""

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
from testing.waiting import eventually_in_loop

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


class SlowEngine(NativeEngine):
    """An engine that starts and answers only when the test allows it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_artefact(folder))
        self.may_start, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.waiting = 0
        """Calls that wait for `may_answer`."""

    async def start(self) -> None:
        await self.may_start.wait()

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        self.waiting += 1
        await self.may_answer.wait()
        self.waiting -= 1
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


async def ready(service: Service) -> None:
    await eventually_in_loop(lambda: service.unready_reason, lambda reason: reason is None)


def test_requests_are_refused_until_the_golden_rows_are_scored(toys: Toys) -> None:
    async def unready(client: httpx.AsyncClient) -> None:
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).json() == {"ready": False, "reason": "starting"}
        refused = await client.post("/score", json={"rows": toys.rows[:1]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")

    async def act() -> None:
        async with running(toys) as (service, engine, client):
            await unready(client)
            engine.may_answer.clear()
            engine.may_start.set()
            await eventually_in_loop(lambda: engine.waiting)
            await unready(client)
            engine.may_answer.set()
            await ready(service)
            assert (await client.get("/ready")).status_code == 200
            answered = await client.post("/score", json={"rows": toys.rows[:1]})
            assert answered.json()["probabilities"] == [toys.probability(toys.rows[0])]

    asyncio.run(act())


def test_warm_up_beyond_its_limit_fails_with_the_name_of_the_setting(toys: Toys) -> None:
    async def act() -> str | None:
        async with running(toys, SCORING_WARM_UP_SECONDS=1) as (service, _, _):
            return await eventually_in_loop(lambda: service.failure)

    assert "SCORING_WARM_UP_SECONDS=1" in (asyncio.run(act()) or "")


def test_draining_service_is_not_ready_but_answers_and_closes_connections(toys: Toys) -> None:
    async def act() -> None:
        async with running(toys) as (service, engine, client):
            engine.may_start.set()
            await ready(service)
            assert "connection" not in (await client.post("/score", json={"rows": toys.rows[:1]})).headers
            service.draining = True
            assert (await client.get("/ready")).json() == {"ready": False, "reason": "stopping"}
            answered = await client.post("/score", json={"rows": toys.rows[:1]})
            assert (answered.status_code, answered.headers["connection"]) == (200, "close")

    asyncio.run(act())


def test_concurrency_limit_counts_requests_until_the_engine_has_answered(toys: Toys) -> None:
    async def act() -> None:
        async with running(toys, SCORING_MAX_IN_FLIGHT=2) as (service, engine, client):
            engine.may_start.set()
            await ready(service)
            engine.may_answer.clear()
            in_flight = [asyncio.create_task(client.post("/score", json={"rows": toys.rows[:1]})) for _ in range(2)]
            await eventually_in_loop(lambda: engine.waiting == 2)
            assert (await client.post("/score", json={"rows": toys.rows[:1]})).status_code == 503
            engine.may_answer.set()
            assert [answer.status_code for answer in await asyncio.gather(*in_flight)] == [200, 200]
            assert (await client.post("/score", json={"rows": toys.rows[:1]})).status_code == 200

    asyncio.run(act())


def test_trace_context_is_returned_and_logged_with_a_failed_request(
    toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    async def act() -> None:
        async with running(toys, BrokenEngine) as (service, engine, client):
            engine.may_start.set()
            await ready(service)
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
    fields = {record.message: record.__dict__["fields"] for record in caplog.records}
    assert fields["refused"]["trace"] == fields["failed"]["trace"] == TRACE.split("-")[1]
    assert "s3cret" not in json.dumps(list(fields.values()))


def test_metrics_hold_outcome_engine_model_latency_and_missing_values(toys: Toys) -> None:
    async def act() -> str:
        async with running(toys) as (service, engine, client):
            engine.may_start.set()
            await ready(service)
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
