"""Tests of the summary line, which the alerts and the dashboard read."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from scoring.summary import Summary
from testing.scoring import free_port, make_artefact, scoring_environment, wait_until_ready, write_manifest


def test_summary_counts_the_answered_requests_and_holds_the_age_of_the_model(tmp_path: Path) -> None:
    toys = make_artefact(tmp_path / "toys")
    trained = datetime.now(UTC) - timedelta(hours=50)
    (toys.folder / "lineage.json").write_text(json.dumps({"trained_at": trained.isoformat(), "run_id": "7"}))
    write_manifest(toys.folder)
    port = free_port()
    environment = scoring_environment(toys.folder, SCORING_PORT=port)
    process = subprocess.Popen([sys.executable, "-m", "scoring"], env=environment, stderr=subprocess.PIPE, text=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        wait_until_ready(client, process, 20)
        for body in ({"rows": toys.rows[:5]}, {"rows": [toys.rows[0]]}, {"rows": [{"age": None}]}, {"rows": "no"}):
            client.post("/score", json=body)
    process.send_signal(signal.SIGTERM)
    _, written = process.communicate(timeout=20)
    lines = [json.loads(line) for line in written.splitlines()]
    summaries = [line for line in lines if line["message"] == "summary"]
    totals = {key: sum(line[key] for line in summaries) for key in ("requests", "errors", "without_features", "rows")}
    assert totals == {"requests": 4, "errors": 0, "without_features": 1, "rows": 6}
    assert summaries[-1]["model"] == "toys:3"
    assert 49.9 < summaries[-1]["model_age_hours"] < 50.2
    shutil.rmtree(toys.folder)


def test_p99_and_errors_are_reported_once_and_then_reset() -> None:
    summary = Summary("toys:3", None)
    for milliseconds in range(1, 101):
        summary.observe(503 if milliseconds > 98 else 200, milliseconds / 1000)
    line = summary.take()
    assert (line["requests"], line["errors"], line["p99_ms"]) == (100, 2, 100.0)
    assert summary.take() == {**line, "requests": 0, "errors": 0, "p99_ms": None}


def test_each_minute_has_one_line_even_if_a_sleep_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = [100.0], []

    async def sleep(seconds: float) -> None:
        clock[0] += seconds - 0.0003
        written.append(round(clock[0]))
        if len(written) == 6:
            await asyncio.Event().wait()

    async def act() -> None:
        async with Summary("toys:3", None).written(60.0):
            while len(written) < 6:
                await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    monkeypatch.setattr("scoring.summary.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("scoring.summary.asyncio.sleep", sleep)
    asyncio.run(act())
    assert written == [120, 180, 240, 300, 360, 420]
