"""`personalization steps`: differences from approved steps are named, and no value is written to a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.errors import UserError
from cli.main import app

POOL = "azure-native:containerservice:AgentPool"
URN = f"urn:pulumi:dev::personalization::personalization:serving:Kubernetes${POOL}::scoring"
OTHER = f"urn:pulumi:dev::personalization::{POOL}::other"


def step(op: str, old: dict[str, Any] | None, new: dict[str, Any] | None, urn: str = URN) -> dict[str, Any]:
    sides = {
        name: side if side is None else {"type": POOL, "inputs": side} for name, side in (("old", old), ("new", new))
    }
    return {"resourcePreEvent": {"metadata": {"op": op, "urn": urn, "type": POOL, **sides}}}


SCALED = step("update", {"maxCount": 3, "mode": "User"}, {"maxCount": 5, "mode": "User"})
REPLACED = [
    step(op, {"vmSize": "Standard_D4s_v5"}, {"vmSize": "Standard_D8s_v5"})
    for op in ("create-replacement", "replace", "delete-replaced")
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def steps(events: list[dict[str, Any]], *options: str, result: str = "succeeded") -> Result:
    lines = [*events, {"summaryEvent": {"result": result}}]
    Path("preview.json").write_text("\n".join(map(json.dumps, lines)))
    return CliRunner().invoke(app, ["steps", "preview.json", *options])


def approve(*events: dict[str, Any]) -> None:
    assert steps(list(events), "--output", "steps.json").exit_code == 0


def refusal(*events: dict[str, Any]) -> str:
    done = steps(list(events), "--approved", "steps.json")
    assert isinstance(done.exception, UserError), done.output
    assert str(done.exception).startswith("nothing has been changed")
    return str(done.exception)


def test_same_steps_pass_in_any_order() -> None:
    approve(SCALED, step("delete", {"mode": "User"}, None, OTHER))
    same = [step("delete", {"mode": "User"}, None, OTHER), SCALED, step("same", {}, {}, "urn:pulumi:dev::p::t::same")]
    done = steps(same, "--approved", "steps.json")
    assert (done.exit_code, done.output) == (0, "dev: 2 steps, as approved\n")


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ([], "scoring (azure-native:containerservice:AgentPool): nothing now, update as approved"),
        (REPLACED, "create-replacement, delete-replaced, replace now, update as approved"),
        (
            [SCALED, step("create", None, {"mode": "User"}, OTHER)],
            "other (azure-native:containerservice:AgentPool): create",
        ),
        (
            [step("update", {"maxCount": 3, "mode": "User"}, {"maxCount": 9, "mode": "User"})],
            "other values of maxCount",
        ),
        ([step("update", {"maxCount": 3, "mode": "User"}, {"maxCount": 5})], "other values of mode than approved"),
        ([step("update", {"maxCount": 4, "mode": "User"}, {"maxCount": 5, "mode": "User"})], "maxCount changed since"),
    ],
)
def test_differences_from_the_approved_steps_are_named(now: list[dict[str, Any]], says: str) -> None:
    approve(SCALED)
    assert says in refusal(*now)


def test_approved_steps_hold_no_value() -> None:
    approve(step("create", None, {"connectionString": "Endpoint=sb://hush", "count": 1}))
    assert "hush" not in Path("steps.json").read_text()
    assert "connectionString" in Path("steps.json").read_text()


def test_failed_preview_approves_nothing_and_names_its_error() -> None:
    error = {"diagnosticEvent": {"severity": "error", "message": "error: no such region"}}
    done = steps([SCALED, error], "--output", "steps.json", result="failed")
    assert isinstance(done.exception, UserError)
    assert "no such region" in str(done.exception)
    assert not Path("steps.json").exists()


@pytest.mark.parametrize("content", [None, "", "{}", '{"stack": "dev", "by_urn": {"u": {}}}'])
def test_damaged_file_of_approved_steps_is_refused(content: str | None) -> None:
    if content is not None:
        Path("steps.json").write_text(content)
    done = steps([SCALED], "--approved", "steps.json")
    assert isinstance(done.exception, UserError)
    assert "steps.json does not contain approved steps" in str(done.exception)


def test_approval_of_another_stack_is_refused() -> None:
    approve(SCALED)
    text = Path("steps.json").read_text()
    Path("steps.json").write_text(text.replace('"stack": "dev"', '"stack": "prod-westeurope"'))
    assert "approved for stack prod-westeurope, not for dev" in refusal(SCALED)
