"""Records and rendering of `personalization lineage`. `tests/end_to_end/test_lifecycle.py` reads a whole lineage."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from cli.stacks import lineage
from cli.stacks.lineage import Record
from testing.sandbox.data import Served
from testing.sandbox.databricks import trusted
from testing.sandbox.process import in_environment


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        running.assign(running.account("lake", "models"), running.sandbox.identity.object_id)
        yield running


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (None, False),
        ({"run_id": "7", "trees": 0, "anew": "other columns"}, False),
        ({"run_id": "7", "trees": 90}, True),
    ],
)
def test_warm_start_names_the_earlier_run_only_if_its_trees_were_used(
    lake: Served, start: dict[str, Any] | None, named: bool
) -> None:
    data = {"digest": "d", "rows": 2, "clicks": 1, "tables": {}}
    recorded = {"data": data, "spec_digest": "s", "versions": {}, "warm_start": start, "trained_at": "today"}
    folder = lake.sandbox.container_folder("lake", "models") / "8"
    folder.mkdir(exist_ok=True)
    (folder / "lineage.json").write_text(json.dumps(recorded))
    outputs = {"lake_blob_endpoint": f"{lake.sandbox.url}/blob/lake"}
    records = list(lineage.training_records(outputs, "8", {}))
    assert (Record("warm start", "from training run 7") in records) is named


def test_reference_reads_name_and_version_of_every_form() -> None:
    assert lineage.reference("azureml:click:3") == ("click", "3")
    assert lineage.reference("/subscriptions/x/workspaces/w/models/click/versions/3") == ("click", "3")
    assert lineage.reference(None) == ("", "")


def test_tree_shows_kind_text_and_nesting_of_each_record(capsys: pytest.CaptureFixture[str]) -> None:
    root = Record("endpoint", "ep")
    root.add("deployment", "m1").add("image", "[registry]/scoring")
    root.add("", "a remark")
    Console(width=80).print(lineage.tree(root))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["endpoint ep", "├── deployment m1", "│   └── image [registry]/scoring", "└── a remark"]
