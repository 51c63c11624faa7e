"""Quality and time of a warm start from yesterday's model: `python benchmarks/warm_start.py [--trees 30]`.

Splits MovieLens by time: yesterday's snapshot lacks the last tenth of the interactions. Today's model is trained from
scratch, and on top of yesterday's. Prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

from cli import local_spark, paths
from cli.local_run import movielens
from workloads import session, spec
from workloads.tasks import prepare, train

_LEFT_OUT = 0.1
"""Share of the interactions, the last ones by time, that yesterday's snapshot lacks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=30, help="on top of yesterday's")
    trees = parser.parse_args().trees
    dataset = spec.load("movielens")
    warm_start = dataset.with_model(warm_start=trees)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        today = movielens.fetch(paths.folder() / "movielens", print)
        yesterday = _yesterday(today, folder / "yesterday")
        SparkSession.builder.config(map=local_spark.settings(folder)).getOrCreate()
        spark = session.start()
        spark.sparkContext.setLogLevel("ERROR")
        for raw, features in ((yesterday, "before"), (today, "now")):
            prepare.prepare(spark, dataset, raw, folder / features)
        live = folder / "models" / "yesterday"
        first = train.TrainRequest(dataset=dataset, features=folder / "before", artefact=live, run_id="yesterday")
        train.train(spark, first)
        print("\n| today's model | trees | fit, s | AUC | log loss |\n| --- | --- | --- | --- | --- |")
        for name, today_spec in (("from scratch", dataset), ("on top of yesterday's", warm_start)):
            artefact = folder / "models" / name
            request = train.TrainRequest(
                dataset=today_spec, features=folder / "now", artefact=artefact, run_id=name, live=live
            )
            metrics = train.train(spark, request)
            figures = f"{metrics['seconds']['fit']:.1f} | {metrics['auc']:.4f} | {metrics['log_loss']:.4f}"
            print(f"| {name} | {metrics['trees']} | {figures} |", flush=True)
            if today_spec is dataset:
                figures = f"{metrics['live']['auc']:.4f} | {metrics['live']['log_loss']:.4f}"
                print(f"| yesterday's | | | {figures} |", flush=True)


def _yesterday(today: Path, folder: Path) -> Path:
    """Write yesterday's snapshot: all users and items, and the earlier interactions."""
    folder.mkdir()
    for path in today.glob("ml-100k.*"):
        header, *lines = path.read_text("utf-8").splitlines()
        if path.suffix == ".inter":
            place = [column.partition(":")[0] for column in header.split("\t")].index("timestamp")
            lines = sorted(lines, key=lambda line: float(line.split("\t")[place]))
            lines = lines[: round(len(lines) * (1 - _LEFT_OUT))]
        (folder / path.name).write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    main()
