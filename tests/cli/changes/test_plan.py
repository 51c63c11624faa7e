"""`personalization plan`: capacity and cost of a stack without a cloud."""

import sys
from datetime import date
from pathlib import Path

import pytest

from cli import main
from cli.changes.mock_program import Graph, declared
from infra.planning import compatibility

ROOT = Path(__file__).parents[3]
DEV = ROOT / "Pulumi.dev.yaml"


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ARM_METADATA_HOSTNAME", "ARM_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command; return exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["personalization", "plan", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def inputs(graph: Graph) -> dict[tuple[str, str], dict[str, object]]:
    return {(resource.type, resource.name): resource.inputs for resource in graph.resources}


@pytest.mark.usefixtures("no_credentials")
def test_plan_prints_both_tables_without_a_login(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = plan(monkeypatch, capsys, "--stack", "dev")
    assert (code, err) == (0, "")
    assert "2800 requests a second" in out
    assert "2 x Standard_D4s_v5 for 730 h at " in out
    assert "total" in out
    assert "not counted: traffic out of Azure" in out


@pytest.mark.usefixtures("no_credentials")
def test_plan_warns_of_the_end_of_a_versions_support(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(compatibility, "current_day", lambda: date(2026, 12, 1))
    (tmp_path / "Pulumi.old.yaml").write_text(DEV.read_text() + '  serving:kubernetes_version: "1.34"\n')
    code, out, err = plan(monkeypatch, capsys, "--stack", "old", "--folder", str(tmp_path))
    assert (code, err) == (0, "")
    assert "warning: serving:kubernetes_version 1.34 has been out of support since 2026-11-30. Set it to 1.35." in out


@pytest.mark.usefixtures("no_credentials")
def test_plan_warns_of_a_former_name_of_a_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "Pulumi.old.yaml").write_text(DEV.read_text() + "  release:config:rollout: [5, 100]\n")
    code, out, err = plan(monkeypatch, capsys, "--stack", "old", "--folder", str(tmp_path))
    assert (code, err) == (0, "")
    assert "warning: release:rollout: is now named release:traffic_steps; the next release does not accept" in out


def test_stack_that_does_not_fit_its_nodes_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "Pulumi.tight.yaml").write_text(DEV.read_text() + '  serving:replicas_max: "40"\n')
    code, out, err = plan(monkeypatch, capsys, "--stack", "tight", "--folder", str(tmp_path))
    assert (code, out) == (1, "")
    assert "Pulumi.tight.yaml: the stack's configuration cannot be used" in err
    assert "serving:replicas_max 40 does not fit serving:nodes_max 3" in err
    assert "Traceback" not in err


def test_stack_without_a_file_is_reported_with_the_existing_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = plan(monkeypatch, capsys, "--stack", "nowhere")
    assert code == 1
    assert "Pulumi.nowhere.yaml" in err
    assert "dev" in err


def test_stacks_in_one_process_do_not_affect_each_other(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.other.yaml").write_text(DEV.read_text() + '  serving:engine: spark\n  tags:team: "a"\n')
    first, other, again = (declared(path) for path in (DEV, tmp_path / "Pulumi.other.yaml", DEV))
    assert first.outputs["monthly_cost"] == again.outputs["monthly_cost"]
    assert inputs(first) == inputs(again)
    assert first.outputs["capacity"]["max_rps"] > other.outputs["capacity"]["max_rps"]
