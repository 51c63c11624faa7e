"""The local run's own parts: rows it fetches, rows it sends, and what it says when something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from cli import catalogue
from cli.dashboard import ranking
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.local_run import command, movielens, summary
from cli.local_run.run_directory import RunDirectory
from cli.ranking import parse_context
from testing.workloads.shop import with_all_features
from workloads import spec

ROOT = Path(__file__).parents[2]


def personalization(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_grouplens_files_become_the_tables_the_spec_reads(tmp_path: Path) -> None:
    flags = "|".join("1" if genre in ("Drama", "War") else "0" for genre in movielens._GENRES)
    tables = movielens.as_tables(
        {
            "u.data": b"196\t242\t3\t881250949\n",
            "u.user": b"196|49|M|writer|55105\n",
            "u.item": f"242|Mépris, Le (Contempt) (1963)|24-Jan-1997||http://x|{flags}\n".encode("latin-1"),
        }
    )
    assert tables["ml-100k.inter"].decode().splitlines()[1] == "196\t242\t3\t881250949"
    assert tables["ml-100k.item"].decode().splitlines()[1] == "242\tMépris, Le (Contempt)\t1963\tDrama War"
    for name, content in tables.items():
        (tmp_path / name).write_bytes(content)
    described = spec.load("movielens")
    assert catalogue.side(described, "item", tmp_path)["242"]["genres"] == ["Drama", "War"]
    assert catalogue.side(described, "user", tmp_path)["196"]["age"] == 49


def test_a_catalogue_leaves_out_lines_that_training_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.user").write_text("\ufeffuser_id\tage\tgender\toccupation\n\n7\t33\tF\twriter\n\n \n")
    item = "item_id\tmovie_title\trelease_year\tclass\n1\tOne\t1963\tWar\n"
    (tmp_path / "ml-100k.item").write_bytes(item.encode() + "2\tMépris\t1963\tWar\n3\t3\t1.5\t\n".encode("latin-1"))
    found = ranking.Catalogue.of("movielens", tmp_path)
    assert dict(found.users) == {"7": {"user_id": "7", "age": 33, "gender": "F", "occupation": "writer"}}
    assert (found.items, found.titles) == ([{"id": "1", "item_id": "1", "year": 1963, "genres": ["War"]}], {"1": "One"})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"user_id\tage\tgender\toccupation\tcit\xe9\n", "line 1, the header, is not UTF-8 at byte 34"),
        (b"user_id\tage\tgender\toccupation\n7\t\t\t\n7\t\t\t\n", "line 3 repeats user_id '7'; it must be unique"),
        (b"\x1f\x8b", "ml-100k.user: is gzip, though its name does not end in .gz"),
    ],
)
def test_a_catalogue_that_cannot_be_read_is_empty_and_says_why(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "ml-100k.user").write_bytes(content)
    found = ranking.Catalogue.of("movielens", tmp_path)
    assert (dict(found.users), list(found.items)) == ({}, [])
    assert cause in found.says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dataset", "films"), r"DATASET is 'films'; it can be movielens or criteo"),
        (("--engine", "gpu"), r"ENGINE is 'gpu'; it can be native or spark"),
        (("--dataset", "criteo", "--data", "/no/such/train.txt"), r"DATA '/no/such/train.txt': there is no such file"),
    ],
)
def test_a_wrong_argument_is_told_in_one_message(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = personalization("local", *arguments, "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "dataset", "says"),
    [
        (
            "clicks.csv",
            "criteo",
            "dataset criteo reads its interactions from train.txt or .* has such a name: clicks.csv",
        ),
        ("train.txt", "criteo", "/train.txt is empty"),
        ("train.txt", "movielens", "dataset movielens reads its interactions from ml-100k.inter, and no file there"),
    ],
)
def test_rows_that_no_training_could_read_are_told_by_the_path_given(
    tmp_path: Path, name: str, dataset: str, says: str
) -> None:
    (tmp_path / name).touch()
    done = personalization(
        "local", "--dataset", dataset, "--data", f"{tmp_path}/{name}", "--state", f"{tmp_path}/state"
    )
    assert done.returncode == 1
    assert re.search(f"DATA '{tmp_path}/{name}': .*{says}", done.stderr)
    assert "Traceback" not in done.stderr


def test_only_the_file_that_training_reads_has_to_hold_rows(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1\t2\n")
    (tmp_path / "notes.txt").touch()
    table = spec.load("criteo").interactions
    assert table.among(tmp_path.iterdir()) == [tmp_path / "train.txt"]
    (tmp_path / "train.txt").unlink()
    assert table.among(tmp_path.iterdir()) == [tmp_path / "notes.txt"]
    assert table.among([]) == []


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = personalization("local", "--state", str(tmp_path / "file" / "state"))
    assert done.returncode == 1
    assert f"the state folder {tmp_path}/file/state cannot be written" in done.stderr
    assert "STATE=<folder>" in done.stderr


@pytest.mark.parametrize("command", ["local", "local-down"])
@pytest.mark.parametrize("theirs", ["sandbox/notes.txt", "pulumi/notes.txt", "Pulumi.local.yaml"])
def test_a_folder_with_what_no_run_made_is_left_alone(tmp_path: Path, command: str, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("mine")
    done = personalization(command, "--state", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} holds {theirs.split('/')[0]} that `make local` did not make" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / theirs]


@pytest.mark.parametrize("command", ["local", "local-down"])
def test_a_folder_in_which_a_command_is_at_work_is_refused_to_another(tmp_path: Path, command: str) -> None:
    with RunDirectory(tmp_path).locked():
        (tmp_path / "sandbox").mkdir()
        done = personalization(command, "--state", str(tmp_path))
        assert done.returncode == 1
        assert f"is at work in {tmp_path} (process {os.getpid()})" in done.stderr
    with RunDirectory(tmp_path).locked():
        pass


def test_a_path_that_spark_does_not_start_from_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = personalization("local", "--state", str(tmp_path / "my state"))
    assert done.returncode == 1
    assert f"{tmp_path}/my state: Spark does not start from a path with a space" in done.stderr
    assert not (tmp_path / "my state").exists()


def test_a_row_that_json_cannot_hold_is_told() -> None:
    with httpx.Client() as client, pytest.raises(UserError, match="has no NaN and no infinity"):
        Endpoint(client, "http://127.0.0.1:9/score").post({"rows": [{"age": float("nan")}]})


def test_missing_java_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = personalization("local", "--state", str(tmp_path / "state"), PATH=str(tmp_path), JAVA_HOME="")
    assert done.returncode == 1
    assert "no Java is here" in done.stderr
    assert not (tmp_path / "state").exists()


def test_the_summary_names_a_way_to_the_model_card_that_a_browser_can_go(capsys: pytest.CaptureFixture[str]) -> None:
    """Its address in the lake answers 401 without a token."""
    metrics = {"auc": 0.7, "log_loss": 0.6, "base_rate": 0.5, "base_log_loss": 0.7, "calibration_gap": 0.01}
    metrics |= {"rows_test": 10, "gate": [], "baseline": {"auc": 0.6, "log_loss": 0.65}}
    outputs = {"scoring_uri": "u", "model_name": "m", "model_version": "1", "training_run_id": "1", "metrics": metrics}
    report = command.LocalRunSummary(
        "criteo", outputs={**outputs, "model_card": "https://127.0.0.1/card"}, latencies=[1.0] * 100
    )
    summary.show(report, Console(width=160))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model card" in line]
    assert "personalization dashboard" in line


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = personalization("local", "--state", str(tmp_path / "state"), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: port {port} is taken")  # and "error: " only once
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("hour", "--context hour: must be name=value of a feature of side context; dataset movielens has hour, "),
        ("age=30", "--context age=30: must be name=value of a feature of side context"),
        ("hour=late", "--context hour=late: hour is of type integer"),
        ("hour=1.5", "--context hour=1.5: hour is of type integer"),
    ],
)
def test_a_context_that_is_none_is_named(given: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        parse_context(with_all_features("movielens"), [given])


def test_asking_an_endpoint_that_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start it with `make local`"):
        RunDirectory(tmp_path).recorded()
    (tmp_path / "sandbox").mkdir()
    with pytest.raises(UserError, match=r"no run in .* has come to its end yet: `make local` goes on"):
        RunDirectory(tmp_path).recorded()
