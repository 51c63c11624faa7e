"""Cost of a request to this service and to common alternatives: `python -m benchmarks.scoring [--rounds 3]`.

Generates an artefact of 200 trees of 64 leaves with 39 features and a million levels. Starts this service with both
engines, a bare echo and the peers (in separate virtual environments, created on the first run). Measures them in turn,
round by round: closed loops of 1 and 8 connections, open loops at fixed rates, batches, rankings. Then sends batches to
the native engine for a minute at three times its capacity. Prints Markdown and draws a plot. Needs wrk and Java 17;
sends nothing beyond loopback, and stops every process that it started.
"""

import argparse
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving import generated_model, load, servers
from benchmarks.serving.load import Latency
from benchmarks.serving.servers import BATCH, RANK, SINGLE, Running, Server
from scoring.artefact import open_artefact
from scoring.engines.encoder import RowEncoder
from scoring.engines.native import Booster

RATES = (100, 500, 1000, 2000)
SECOND_RATES = (500, 2000)
SLOW_SECONDS = OVERLOAD_SECONDS = 60.0
KEEPS_UP = 0.95
"""Smallest share of an open loop's rate that must be answered for its latency to be meaningful."""
RANK_MS, MODEL_US, ECHO_SHARE, MEGABYTES, START_SECONDS = 15.0, 50.0, 0.40, 150.0, 2.0
"""Bars of the native engine."""
NAMES = ("echo", "native", "spark", "fastapi", "azureml", "mlserver")


@dataclass(frozen=True)
class Measured:
    latency: Latency
    cpu: float
    """CPU milliseconds of the server's processes per request."""


@dataclass(frozen=True)
class Cell:
    title: str
    kind: str
    run: Callable[[Running], Latency]


def cells(seconds: float) -> list[Cell]:
    def closed(kind: str, connections: int) -> Cell:
        def run(one: Running) -> Latency:
            latency = load.closed_loop(one.port, one.server.path, one.files[kind], connections, seconds)
            if not latency.requests:  # no answer within `seconds`: measure for longer
                latency = load.closed_loop(one.port, one.server.path, one.files[kind], connections, SLOW_SECONDS)
            return latency

        return Cell(f"{kind}, {connections}", kind, run)

    def opened(rate: int) -> Cell:
        def run(one: Running) -> Latency:
            return load.open_loop(one.port, one.server.path, one.files[SINGLE], rate, seconds)

        return Cell(f"{rate}/s", SINGLE, run)

    return [closed(SINGLE, 1), closed(SINGLE, 8), *map(opened, RATES), closed(BATCH, 1), closed(RANK, 1)]


def measure(one: Running, cell: Cell) -> Measured:
    before = one.cpu_seconds()
    latency = cell.run(one)
    answered = latency.requests + latency.refused + latency.failed
    return Measured(latency, (one.cpu_seconds() - before) / max(answered, 1) * 1e3)


Results = dict[tuple[str, str], list[Measured]]


def middle(measured: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(map(value, measured))


def model_step(model: generated_model.GeneratedModel) -> tuple[float, float, float]:
    """Elapsed microseconds to encode a row (p50), and to score its vector (p50 and p99)."""
    encoder = RowEncoder(open_artefact(model.folder).contract, model.folder / "encoder.npz")
    booster = Booster(model.folder / "model.txt", encoder.width)
    numeric = [feature.type == "integer" for feature in model.dataset.features.values()]
    rows = [
        tuple(float(v) if n and v is not None else v for v, n in zip(row.values(), numeric, strict=True))
        for row in model.rows
    ]
    encoding, scoring = [], []
    for _ in range(5):
        for row in rows:
            started = time.perf_counter_ns()
            vector = encoder.vectors([row])
            encoded = time.perf_counter_ns()
            booster.predict(vector)
            encoding.append(encoded - started)
            scoring.append(time.perf_counter_ns() - encoded)
    return (float(np.median(encoding)) / 1e3, *(np.percentile(scoring, [50, 99]) / 1e3).tolist())


def overload(one: Running, capacity: float, seconds: float) -> tuple[Latency, Latency, Latency]:
    """Latency of batches at a tenth of `capacity` (requests per second), at three times it, and directly afterwards."""
    file, path = one.files[BATCH], one.server.path
    calm = load.open_loop(one.port, path, file, capacity / 10, seconds)
    return (
        calm,
        load.open_loop(one.port, path, file, 3 * capacity, OVERLOAD_SECONDS, connections=256),
        load.open_loop(one.port, path, file, capacity / 10, seconds),
    )


def second_opinion(running: Sequence[Running], seconds: float) -> str:
    k6 = servers.environment("k6") / "k6"
    rates = " | ".join(f"{rate:,}/s" for rate in SECOND_RATES)
    lines = [f"| one row, by k6: p50 / p99 in ms | {rates} | failed |", "| --- " * (2 + len(SECOND_RATES)) + "|"]
    for one in running:
        found = [load.k6_loop(k6, one.port, one.server.path, one.files[SINGLE], rate, seconds) for rate in SECOND_RATES]
        figures = [one.server.title, *(_times(of.p50, of.p99) for of in found), str(sum(of.failed for of in found))]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(p50: float, p99: float) -> str:
    return f"{_milliseconds(p50)} / {_milliseconds(p99)}"


def _pair(found: Sequence[Measured]) -> str:
    """p50 / p99."""
    if any(of.latency.requests == 0 for of in found):
        return "fails"
    failed = sum(of.latency.failed for of in found)
    times = _times(middle(found, lambda of: of.latency.p50), middle(found, lambda of: of.latency.p99))
    return times + (f" ({failed} failed)" if failed else "")


def tables(results: Results, running: Sequence[Running]) -> str:
    lines = [
        "| one row; p50 / p99 in ms | c=1 | c=8 | c=8, requests/s | ÷ echo | c=8, CPU in ms | "
        + "".join(f"{rate}/s | " for rate in RATES),
        "| --- " * (6 + len(RATES)) + "|",
    ]
    echo = middle(results["echo", f"{SINGLE}, 8"], lambda of: of.latency.rate)
    for one in running:
        name = one.server.name
        eight = results[name, f"{SINGLE}, 8"]
        rate = middle(eight, lambda of: of.latency.rate)
        opened = []
        for wanted in RATES:
            found = results[name, f"{wanted}/s"]
            kept = middle(found, lambda of: of.latency.rate) >= KEEPS_UP * wanted
            opened.append(_pair(found) if kept else "cannot")
        cpu = middle(eight, lambda of: of.cpu)
        figures = [
            _pair(results[name, f"{SINGLE}, 1"]),
            _pair(eight),
            f"{rate:,.0f}",
            f"{rate / echo:.2f}",
            f"{cpu:.3f}",
        ]
        lines.append("| " + " | ".join([one.server.title, *figures, *opened]) + " |")
    lines += [
        "",
        f"| p50 / p99 in ms | {BATCH} | CPU, ms | {RANK} | CPU, ms | first answer, s | of it CPU, s | resident, MB |",
        "| --- " * 8 + "|",
    ]
    for one in running:
        batch, rank = results[one.server.name, f"{BATCH}, 1"], results[one.server.name, f"{RANK}, 1"]
        figures = [
            _pair(batch),
            _milliseconds(middle(batch, lambda of: of.cpu)),
            _pair(rank),
            _milliseconds(middle(rank, lambda of: of.cpu)),
            f"{one.start_seconds:.1f}",
            f"{one.start_cpu_seconds:.1f}",
            f"{one.resident():,.0f}",
        ]
        lines.append("| " + " | ".join([one.server.title, *figures]) + " |")
    return "\n".join(lines)


def bars(results: Results, native: Running, steps: tuple[float, float, float]) -> str:
    def rate(name: str) -> float:
        return middle(results[name, f"{SINGLE}, 8"], lambda of: of.latency.rate)

    def cpu(name: str) -> float:
        return middle(results[name, f"{SINGLE}, 8"], lambda of: of.cpu)

    rank = middle(results["native", f"{RANK}, 1"], lambda of: of.latency.p50)
    encoded, p50, p99 = steps
    share, memory = rate("native") / rate("echo"), native.resident()
    lines = ["| the native engine | measured | bar |", "| --- | --- | --- |"]
    for title, text, bar, met in [
        ("1,000 items ranked over HTTP, p50", f"{rank:.1f} ms", f"{RANK_MS:.0f} ms", rank <= RANK_MS),
        ("one row encoded, p50", f"{encoded:.1f} µs", "", True),
        ("one row through the trees, p50", f"{p50:.1f} µs", "", True),
        ("one row through the trees, p99", f"{p99:.1f} µs", f"{MODEL_US:.0f} µs", p99 <= MODEL_US),
        ("c=8, requests/s ÷ those of the echo", f"{share:.2f}", f"{ECHO_SHARE:.2f}", share >= ECHO_SHARE),
        ("the same by CPU of a request", f"{cpu('echo') / cpu('native'):.2f}", "", True),
        ("resident", f"{memory:.0f} MB", f"{MEGABYTES:.0f} MB", memory <= MEGABYTES),
        (
            "first answer",
            f"{native.start_seconds:.1f} s, of it CPU {native.start_cpu_seconds:.1f} s",
            f"{START_SECONDS:.0f} s",
            native.start_seconds <= START_SECONDS,
        ),
    ]:
        lines.append(f"| {title} | {text} | {bar}{'' if met else ', **not met**'} |")
    return "\n".join(lines)


def plot(file: Path, results: Results, running: Sequence[Running]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "scoring", "font.size": 9})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    names = [one.server.title.replace("*", "").replace("`", "") for one in running][::-1]
    keys = [one.server.name for one in running][::-1]
    for place, key in enumerate(keys):
        found = results[key, f"{SINGLE}, 8"]
        low, high = middle(found, lambda of: of.latency.p50), middle(found, lambda of: of.latency.p99)
        colour = {"native": "#c44e52", "echo": "#999999"}.get(key, "#4c72b0")
        left.plot([low, high], [place, place], "-", color=colour, linewidth=3)
        left.plot([low], [place], "o", color=colour)
        right.barh(place, middle(found, lambda of: of.cpu), color=colour, height=0.5)
    left.set_yticks(range(len(names)), names)
    left.set_title("one row, 8 connections: p50 (dot) to p99, ms")
    right.set_title("CPU of the server for a request, ms")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(axis="x", which="major", alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def overload_table(phases: tuple[Latency, Latency, Latency], capacity: float) -> str:
    lines = [
        f"| {BATCH} at | admitted | p50 / p99, ms | 503 | p99 of those, ms | failed |",
        "| --- " * 6 + "|",
    ]
    titles = ("a tenth of capacity, before", "three times capacity", "a tenth of capacity, directly afterwards")
    for title, wanted, found in zip(titles, (0.1, 3, 0.1), phases, strict=True):
        title = f"{title} ({wanted * capacity:,.0f}/s)"
        times = _times(found.p50, found.p99)
        refused = _milliseconds(found.refused_p99) if found.refused else ""
        lines.append(f"| {title} | {found.requests:,} | {times} | {found.refused:,} | {refused} | {found.failed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of every load, in each round")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=list(NAMES), help="echo and native always take part"
    )
    parser.add_argument(
        "--levels", type=int, default=1_000_000, help="levels of the model; the bars are for the default"
    )
    parser.add_argument("--plot", type=Path, help="SVG to write")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not on PATH: Debian has it as a package of that name")
    # SIGTERM must end the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    chosen = {"echo", "native", *arguments.only}

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "scratch").mkdir()
        model = generated_model.generate(folder / "model", folder / "scratch", "spark" in chosen, arguments.levels)
        compared: list[Server] = [servers.ours(model, "native"), *servers.peers(model, folder)]
        if "spark" in chosen:
            compared.append(servers.ours(model, "spark", servers.jars(folder)))
        by_name = {server.name: server for server in compared}
        running = []
        for server in (by_name[n] for n in NAMES if n in chosen):
            try:
                running.append(stack.enter_context(servers.running(server, folder)))
            except servers.NotStarted as error:
                if server.name in ("echo", "native"):
                    raise
                print(f"left out: {error}", file=sys.stderr, flush=True)
        native = next(one for one in running if one.server.name == "native")
        for one in running:
            servers.check(one, model)
            print(f"{one.server.name} answers correctly", file=sys.stderr, flush=True)
            for kind in (SINGLE, BATCH, RANK):  # warm-up, needed by the JVM above all
                load.closed_loop(one.port, one.server.path, one.files[kind], 2, arguments.seconds)
        results: Results = {}
        for number in range(arguments.rounds):
            for cell in cells(arguments.seconds):
                for one in running:
                    results.setdefault((one.server.name, cell.title), []).append(measure(one, cell))
            print(f"round {number + 1} is done", file=sys.stderr, flush=True)
        capacity = middle(results["native", f"{BATCH}, 1"], lambda of: of.latency.rate)
        phases = overload(native, capacity, max(arguments.seconds, 5.0))
        second = second_opinion([one for one in running if one.server.name in ("echo", "native")], 10)
        steps = model_step(model)

        print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
        print(servers.versions("peers", "azureml-inference-server-http", "pandas", "fastapi", "lightgbm"))
        print(servers.versions("mlserver", "mlserver"), "\n")
        print(
            bars(results, native, steps), tables(results, running), second, overload_table(phases, capacity), sep="\n\n"
        )
        if arguments.plot:
            plot(arguments.plot, results, running)


if __name__ == "__main__":
    main()
