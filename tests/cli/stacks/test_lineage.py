"""Records and rendering of `personalization lineage`. `tests/end_to_end/test_lifecycle.py` reads a whole lineage."""

from typing import Any

import pytest
from rich.console import Console

from cli.stacks import lineage
from cli.stacks.lineage import Record


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (None, False),
        ({"run_id": "7", "trees": 0, "anew": "other columns"}, False),
        ({"run_id": "7", "trees": 90}, True),
    ],
)
def test_warm_start_names_the_earlier_run_only_if_its_trees_were_used(
    start: dict[str, Any] | None, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorded:
        def __init__(self, *_: str) -> None: ...

        def json(self, _name: str) -> dict[str, Any]:
            data = {"digest": "d", "rows": 2, "clicks": 1, "tables": {}}
            return {"data": data, "spec_digest": "s", "versions": {}, "warm_start": start, "trained_at": "today"}

    monkeypatch.setattr(lineage, "Artefact", Recorded)
    records = list(lineage.training_records({"lake_blob_endpoint": ""}, "8", {}))
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
