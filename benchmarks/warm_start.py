"""What going on from yesterday's model is worth: `python benchmarks/warm_start.py [--trees 30]`.

MovieLens by time. Yesterday's snapshot ends a tenth earlier; today's is trained anew, and on top of yesterday's model.
Prints a Markdown table.
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
"""Of the rows, the last ones, which yesterday did not know."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=30, help="on top of yesterday's")
    trees = parser.parse_args().trees
    dataset = spec.load("movielens")
    going_on = dataset.with_model(warm_start=trees)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
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
        for what, of in (("anew", dataset), ("on top of yesterday's", going_on)):
            request = train.TrainRequest(
                dataset=of, features=folder / "now", artefact=folder / "models" / what, run_id=what, live=live
            )
            found = train.train(spark, request)
            figures = f"{found['seconds']['fit']:.1f} | {found['auc']:.4f} | {found['log_loss']:.4f}"
            print(f"| {what} | {found['trees']} | {figures} |", flush=True)
            if what == "anew":
                print(f"| yesterday's | | | {found['live']['auc']:.4f} | {found['live']['log_loss']:.4f} |", flush=True)


def _yesterday(today: Path, folder: Path) -> Path:
    """The same users and items, and the first interactions by time."""
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
