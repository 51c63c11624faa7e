"""Tests of `personalization lineage`; tests/end_to_end/test_lifecycle.py tests it on a deployed stack."""

from typing import Any

import pytest

from cli.stacks import lineage


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (None, False),
        ({"run_id": "7", "trees": 0, "anew": "other columns"}, False),
        ({"run_id": "7", "trees": 90}, True),
    ],
)
def test_an_earlier_run_is_named_only_where_the_fit_went_on_from_it(
    start: dict[str, Any] | None, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorded:
        def __init__(self, *_: str) -> None: ...

        def json(self, _name: str) -> dict[str, Any]:
            data = {"digest": "d", "rows": 2, "clicks": 1, "tables": {}}
            return {"data": data, "spec_digest": "s", "versions": {}, "warm_start": start, "trained_at": "today"}

    monkeypatch.setattr(lineage, "Artefact", Recorded)
    lines = list(lineage._trained({"lake_blob_endpoint": ""}, "8", {}))
    assert ("went on from training run 7" in lines) is named


def test_an_asset_is_told_by_name_and_version_however_it_is_written() -> None:
    assert lineage.reference("azureml:click:3") == ("click", "3")
    assert lineage.reference("/subscriptions/x/workspaces/w/models/click/versions/3") == ("click", "3")
    assert lineage.reference(None) == ("", "")
