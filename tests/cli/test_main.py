"""Commands of the local run: its rows, its arguments, and its messages if something is missing."""

import os
import re
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
from testing.command_line import personalization
from testing.workloads.shop import with_all_features
from workloads import spec


def test_grouplens_files_are_converted_to_the_tables_of_the_spec(tmp_path: Path) -> None:
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


def test_catalogue_omits_lines_that_training_omits(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.user").write_text("\ufeffuser_id\tage\tgender\toccupation\n\n7\t33\tF\twriter\n\n \n")
    item = "item_id\tmovie_title\trelease_year\tclass\n1\tOne\t1963\tWar\n"
    (tmp_path / "ml-100k.item").write_bytes(item.encode() + "2\tMépris\t1963\tWar\n3\t3\t1.5\t\n".encode("latin-1"))
    catalogue = ranking.Catalogue.of("movielens", tmp_path)
    assert dict(catalogue.users) == {"7": {"user_id": "7", "age": 33, "gender": "F", "occupation": "writer"}}
    assert catalogue.items == [{"id": "1", "item_id": "1", "year": 1963, "genres": ["War"]}]
    assert catalogue.titles == {"1": "One"}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"user_id\tage\tgender\toccupation\tcit\xe9\n", "line 1, the header, is not UTF-8 at byte 34"),
        (b"user_id\tage\tgender\toccupation\n7\t\t\t\n7\t\t\t\n", "line 3 repeats user_id '7'; it must be unique"),
        (b"\x1f\x8b", "ml-100k.user: is gzip, though its name does not end in .gz"),
    ],
)
def test_unreadable_catalogue_is_empty_and_names_the_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "ml-100k.user").write_bytes(content)
    catalogue = ranking.Catalogue.of("movielens", tmp_path)
    assert (dict(catalogue.users), list(catalogue.items)) == ({}, [])
    assert cause in catalogue.detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "films"), r"DATASET is 'films'; it can be movielens or criteo"),
        (("--engine", "gpu"), r"ENGINE is 'gpu'; it can be native or spark"),
        (("--dataset", "criteo", "--data", "/no/such/train.txt"), r"DATA '/no/such/train.txt': no such file or folder"),
    ],
)
def test_wrong_argument_is_reported_in_one_message(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = personalization("local", *arguments, "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        (
            "clicks.csv",
            "criteo",
            "dataset criteo reads its interactions from train.txt or .*, but DATA contains only clicks.csv",
        ),
        ("train.txt", "criteo", "/train.txt is empty"),
        (
            "train.txt",
            "movielens",
            "dataset movielens reads its interactions from ml-100k.inter, but DATA contains only",
        ),
    ],
)
def test_unusable_rows_are_reported_with_the_given_path(tmp_path: Path, name: str, dataset: str, message: str) -> None:
    (tmp_path / name).touch()
    done = personalization(
        "local", "--dataset", dataset, "--data", f"{tmp_path}/{name}", "--state", f"{tmp_path}/state"
    )
    assert done.returncode == 1
    assert re.search(f"DATA '{tmp_path}/{name}': .*{message}", done.stderr)
    assert "Traceback" not in done.stderr


def test_only_the_file_that_training_reads_must_contain_rows(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1\t2\n")
    (tmp_path / "notes.txt").touch()
    table = spec.load("criteo").interactions
    assert table.among(tmp_path.iterdir()) == [tmp_path / "train.txt"]
    (tmp_path / "train.txt").unlink()
    assert table.among(tmp_path.iterdir()) == [tmp_path / "notes.txt"]
    assert table.among([]) == []


def test_unwritable_state_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = personalization("local", "--state", str(tmp_path / "file" / "state"))
    assert done.returncode == 1
    assert f"the state folder {tmp_path}/file/state cannot be written" in done.stderr
    assert "STATE=<folder>" in done.stderr


@pytest.mark.parametrize("command", ["local", "local-down"])
@pytest.mark.parametrize("foreign", ["sandbox/notes.txt", "pulumi/notes.txt", "Pulumi.local.yaml"])
def test_folder_with_foreign_files_is_not_changed(tmp_path: Path, command: str, foreign: str) -> None:
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("mine")
    done = personalization(command, "--state", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} contains {foreign.split('/')[0]}, which `make local` did not create" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / foreign]


@pytest.mark.parametrize("command", ["local", "local-down"])
def test_folder_that_another_command_uses_is_refused(tmp_path: Path, command: str) -> None:
    with RunDirectory(tmp_path).locked():
        (tmp_path / "sandbox").mkdir()
        done = personalization(command, "--state", str(tmp_path))
        assert done.returncode == 1
        assert f"is using {tmp_path} (process {os.getpid()})" in done.stderr
    with RunDirectory(tmp_path).locked():
        pass


def test_path_with_a_space_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = personalization("local", "--state", str(tmp_path / "my state"))
    assert done.returncode == 1
    assert f"{tmp_path}/my state: Spark does not start from a path with a space" in done.stderr
    assert not (tmp_path / "my state").exists()


def test_row_that_json_cannot_represent_is_refused() -> None:
    with httpx.Client() as client, pytest.raises(UserError, match="has no NaN and no infinity"):
        Endpoint(client, "http://127.0.0.1:9/score").post({"rows": [{"age": float("nan")}]})


def test_missing_java_is_reported_before_anything_starts(tmp_path: Path) -> None:
    done = personalization("local", "--state", str(tmp_path / "state"), PATH=str(tmp_path), JAVA_HOME="")
    assert done.returncode == 1
    assert "no Java runtime was found" in done.stderr
    assert not (tmp_path / "state").exists()


def test_summary_names_the_dashboard_for_the_model_card(capsys: pytest.CaptureFixture[str]) -> None:
    """The card's address in the lake returns 401 without a token."""
    metrics = {"auc": 0.7, "log_loss": 0.6, "base_rate": 0.5, "base_log_loss": 0.7, "calibration_gap": 0.01}
    metrics |= {"rows_test": 10, "gate": [], "baseline": {"auc": 0.6, "log_loss": 0.65}}
    outputs = {"scoring_uri": "u", "model_name": "m", "model_version": "1", "training_run_id": "1", "metrics": metrics}
    result = command.LocalRunSummary(
        "criteo", outputs={**outputs, "model_card": "https://127.0.0.1/card"}, latencies=[1.0] * 100
    )
    summary.show(result, Console(width=160))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model card" in line]
    assert "personalization dashboard" in line


def test_sandbox_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = personalization("local", "--state", str(tmp_path / "state"), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: port {port} is taken")  # with one "error: "
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hour", "--context hour: must be name=value of a feature of side context; dataset movielens has hour, "),
        ("age=30", "--context age=30: must be name=value of a feature of side context"),
        ("hour=late", "--context hour=late: hour is of type integer"),
        ("hour=1.5", "--context hour=1.5: hour is of type integer"),
    ],
)
def test_invalid_context_is_named(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_context(with_all_features("movielens"), [argument])


def test_missing_or_incomplete_run_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start it with `make local`"):
        RunDirectory(tmp_path).recorded()
    (tmp_path / "sandbox").mkdir()
    with pytest.raises(UserError, match=r"the run in .* is not complete: `make local` continues it"):
        RunDirectory(tmp_path).recorded()
