"""The change report: its content for reviewers, changes that it blocks, and values that it never shows."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.rpc import UNKNOWN

from cli.changes import preview
from cli.changes.report import LIMIT, STATEFUL, report
from sandbox.azure_native.resource_type import by_token
from testing.engine_events import ACCOUNT, POOL, log_line, policy, read_preview, stack, step

ROOT = Path(__file__).parents[3]
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "[secret]"}


SCALE = step("update", POOL, "scoring", {"maxCount": 3}, {"maxCount": 5}, detailedDiff={"maxCount": "update"})
RENAME = step(
    "replace",
    ACCOUNT,
    "lake",
    {"accountName": "lakedev"},
    {"accountName": "ponddev"},
    keys=["accountName"],
    detailedDiff={"accountName": "update-replace"},
)
FOLLOWS = step("replace", "azure-native:authorization:RoleAssignment", "grant", {"scope": "/a"}, {"scope": UNKNOWN})
FORCED = step(
    "create-replacement",
    "azure-native:authorization:RoleAssignment",
    "grant",
    {"scope": "/a"},
    {"scope": UNKNOWN},
    keys=["scope"],
)
EVENTS = [
    *stack(),
    SCALE,
    RENAME,
    FOLLOWS,
    FORCED,
    policy("advisory", "tags", "has no owner"),
    log_line("warning", "old"),
]


def test_changes_name_their_properties_and_those_that_force_a_replacement() -> None:
    text = report(read_preview(EVENTS)).text
    assert text.startswith("<!-- personalization:dev -->\n## Stack `dev`: 2 replaced, 1 changed\n")
    assert "| `scoring` | containerservice:AgentPool | `maxCount` 3 → 5 |" in text
    assert "| `lake` | storage:StorageAccount | forced by `accountName` |" in text
    assert "| `grant` | authorization:RoleAssignment | forced by `scope` (not yet known) |" in text
    assert "### Advice of policies\n\n- `lake`: has no owner (`tags`)" in text


def test_update_of_a_dynamic_resource_names_the_changed_inputs() -> None:
    """The engine's events contain its inputs but no difference."""
    old = {"__provider": "a", "scale": {"min": 1, "max": 8}, "share": 50, "stale": "x"}
    new = {"__provider": "b", "scale": {"min": 1, "max": 4}, "share": 100, "fresh": "y"}
    change = step("update", "pulumi-python:dynamic/machinelearning:Rollout", "rollout", old, new)
    text = report(read_preview([change])).text
    assert "| `fresh` added, `scale.max` 8 → 4, `share` 50 → 100, `stale` removed |" in text


@given(st.permutations(EVENTS[2:]))
def test_report_does_not_depend_on_the_order_of_events(shuffled: list[dict[str, Any]]) -> None:
    assert report(read_preview([*stack(), *shuffled])).text == report(read_preview(EVENTS)).text


def test_resource_removed_with_its_replaced_parent_counts_as_deleted() -> None:
    text = report(read_preview([*stack(), RENAME, step("delete-replaced", ACCOUNT, "gone", {"accountName": "a"})])).text
    assert "`gone` (storage:StorageAccount) is deleted" in text


@pytest.mark.parametrize("token", sorted(STATEFUL))
@pytest.mark.parametrize(("op", "blocks"), [("replace", True), ("delete", True), ("update", False), ("create", False)])
def test_loss_of_stateful_resources_blocks_unless_allowed(token: str, op: str, blocks: bool) -> None:
    change = read_preview([*stack(), step(op, token, "it", {"name": "a"}, {"name": "b"})])
    assert report(change).blocked == blocks
    assert not report(change, allow_stateful=True).blocked
    assert ("CAUTION" in report(change, allow_stateful=True).text) == blocks


def test_every_stateful_type_exists() -> None:
    assert set(STATEFUL) - set(by_token()) == {"pulumi-python:dynamic/databricks:Catalog"}
    assert (
        'module="databricks", name="Catalog"'
        in (ROOT / "infra" / "release" / "training_stage" / "catalog.py").read_text()
    )


def test_secrets_ids_and_values_of_stateful_resources_are_never_shown() -> None:
    guid = "6d420acb-f94d-4022-8722-a1bd25ba1125"
    old = {"key": SECRET, "id": guid, "scope": "/subscriptions/s", "url": "https://host", "plain": "Standard"}
    new = {"key": {**SECRET, "x": 1}, "id": guid[::-1], "scope": "/other", "url": "https://new", "plain": "Premium"}
    every = dict.fromkeys(old, "update")
    changes = [
        step("update", POOL, "pool", old, new, detailedDiff=every),
        step("update", ACCOUNT, "account", old, new, detailedDiff=every),
    ]
    outputs = {"monthly_cost": {"total": 1.5, "token": SECRET}, "capacity": {"owner": guid}}
    text = report(read_preview([*stack({}, outputs), *changes])).text
    assert "| `pool` | containerservice:AgentPool | `id`, `key`, `plain` Standard → Premium, `scope`, `url` |" in text
    assert "| `account` | storage:StorageAccount | `id`, `key`, `plain`, `scope`, `url` |" in text
    for confidential in ("[secret]", "1b47061264138c4ac30d75fd1eb44270", guid, guid[::-1], "/subscriptions", "https:"):
        assert confidential not in text


def test_changed_capacity_and_cost_are_shown() -> None:
    before = {"capacity": {"nodes": 3, "size": "D4s_v5"}, "monthly_cost": {"total": 612.4, "serving": 280.0}}
    after = {"capacity": {"nodes": 5, "size": "D4s_v5"}, "monthly_cost": {"total": 1812.4, "serving": 480.0}}
    rows = report(read_preview(stack(before, after))).text.splitlines()
    assert "| monthly cost total (USD) | 612.40 | 1,812.40 | +1,200.00 |" in rows
    assert "| capacity nodes | 3 | 5 | +2 |" in rows
    assert not any("size" in row for row in rows)
    assert "Unchanged: 612.40 USD a month." in report(read_preview(stack(before, before))).text
    assert report(read_preview(stack()), before=before, after=after).text.splitlines() == rows
    assert "exports neither `capacity` nor `monthly_cost`" in report(read_preview(stack())).text


def test_changed_inputs_of_the_release_are_shown() -> None:
    before = {"release": {"model": "trained", "rows": "movielens 2026-11-25", "engine": "native", "steps": "10 50 100"}}
    after = {"release": {"model": "12", "rows": "movielens 2026-11-25", "engine": "spark", "steps": "10 50 100"}}
    text = report(read_preview(stack(before, after))).text
    section = text.partition("### Release")[2].partition("###")[0]
    assert "| model | trained | 12 |" in section
    assert "| engine | native | spark |" in section
    assert "steps" not in section
    assert "### Release" not in report(read_preview(stack(before, before))).text


def test_changes_of_the_base_branch_are_not_attributed_to_the_pull_request() -> None:
    result = report(read_preview([*stack(), SCALE, RENAME]), base=read_preview([*stack(), RENAME]))
    assert not result.blocked
    assert "## Stack `dev`: 1 changed" in result.text
    assert "Not shown: 1 changes of the base branch" in result.text


def test_report_fits_a_comment_and_begins_with_the_verdict() -> None:
    many = [step("delete", ACCOUNT, f"{'account' * 20}-{number}") for number in range(2000)]
    text = report(read_preview([*stack(), *many])).text
    assert len(text) < LIMIT + 200
    assert LIMIT <= 65_536 - 200
    assert "The change is blocked" in text[:500]
    assert "more lines, omitted" in text.splitlines()[-1]


def test_foreign_text_is_escaped() -> None:
    wild = policy("mandatory", "n|a`me", "see\n| @team <img src=x> [here](http://x)")
    broken = log_line("error", "```\n# Heading\n```")
    text = report(read_preview([*stack(), wild, broken], "failed")).text
    assert r"see \| \@team \<img src=x\> \[here\](http://x) (`n?a?me`)" in text
    assert text.count("```") == 2


def test_digest_yields_the_same_changes_as_events() -> None:
    sides = {"urn": RENAME["resourcePreEvent"]["metadata"]["urn"]}
    sides |= {f"{side}State": RENAME["resourcePreEvent"]["metadata"][side] for side in ("old", "new")}
    renamed = {"op": "replace", **sides, "replaceReasons": ["accountName"], "diffReasons": ["accountName"]}
    renamed["detailedDiff"] = {"accountName": {"kind": "update-replace", "inputDiff": True}}
    digest = preview.read(json.dumps({"steps": [renamed], "diagnostics": [], "changeSummary": {}}, indent=1), "dev")
    assert digest.changes == read_preview([RENAME]).changes
    assert report(digest).blocked
    assert "PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true" in report(digest).text


def command(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", "change-report", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("events", "result", "allowed", "code", "says"),
    [
        ([SCALE], "succeeded", "false", 0, "1 changed"),
        ([RENAME], "succeeded", "false", 3, "The change is blocked"),
        ([RENAME], "succeeded", "true", 0, "The loss was allowed for this change"),
        ([log_line("error", "no such region")], "failed", "true", 1, "no such region"),
        (
            [policy("mandatory", "tls", "TLS 1.2"), log_line("error", "preview failed")],
            "failed",
            "true",
            1,
            "TLS 1.2",
        ),
    ],
)
def test_exit_codes_distinguish_a_failed_preview_from_a_blocked_change(
    events: list[dict[str, Any]], result: str, allowed: str, code: int, says: str, tmp_path: Path
) -> None:
    lines = [*stack(), *events, {"summaryEvent": {"result": result}}]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, lines)))
    done = command("dev.json", "--output", "reports", folder=tmp_path, ALLOW_STATEFUL=allowed)
    assert done.returncode == code, done.stderr
    assert says in (tmp_path / "reports" / "dev.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dev.json"], "dev.json is not the output of `pulumi preview --json`"),
        (["none.json"], "none.json cannot be read"),
        (["--base", "HEAD"], "has no stack file"),
    ],
)
def test_wrong_argument_is_reported_in_one_message(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text("Previewing update (dev)")
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@dataclass
class Project:
    """A repository with only this program, whose last commit is the base of a pull request."""

    folder: Path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.folder / file
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    def configure(self, key: str, value: object, **more: str) -> None:
        def change(text: str) -> str:
            stack_file = yaml.safe_load(text)
            return yaml.safe_dump({**stack_file, **more, "config": {**stack_file["config"], key: value}})

        self.edit("Pulumi.dev.yaml", change)

    def report(self) -> tuple[int, str]:
        scratch = self.folder.parent / "scratch"
        scratch.mkdir(exist_ok=True)
        reports = self.folder.parent / "reports"
        arguments = ["--base", "HEAD", "--output", str(reports)]
        done = command(*arguments, folder=self.folder, TMPDIR=str(scratch), ALLOW_STATEFUL="false")
        assert (reports / "dev.md").exists(), done.stderr
        assert list(scratch.iterdir()) == []
        return done.returncode, (reports / "dev.md").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("pull-request") / "repository"
    shutil.copytree(ROOT / "infra", folder / "infra", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workloads" / "datasets", folder / "workloads" / "datasets")
    for name in ("Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, folder / name)
    made = Project(folder)
    made.configure("serving:nodes_max", "3")
    # Like a team's stack: a secret that cannot be read without a login.
    vault = {"secretsprovider": "azurekeyvault://nowhere.vault.azure.net/keys/k", "encryptedkey": "AAAA"}
    made.configure("tags:hidden", [{"secure": "v1:AAAA:AAAA"}], **vault)
    made.configure("azure-native:subscriptionId", "00000000-0000-0000-0000-000000000000")
    made.edit(
        "infra/__main__.py",
        lambda text: (
            f"""{text}
pulumi.export("monthly_cost", {{"total": 100.0 * settings.serving.nodes_max, "key": pulumi.Output.secret("hush")}})
"""
        ),
    )
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "base")
    return made


@pytest.mark.stack
def test_pull_request_is_previewed_in_the_sandbox_by_the_real_engine(project: Project) -> None:
    project.configure("serving:nodes_max", "5")
    code, text = project.report()
    assert code == 0
    assert "| `kubernetes-scoring` | containerservice:AgentPool | `maxCount` 3 → 5 |" in text
    assert "| monthly cost total (USD) | 300.00 | 500.00 | +200.00 |" in text
    assert "replaced" not in text.splitlines()[1]

    project.edit("infra/config/naming.py", lambda text: text.replace('compact("lake", 24)', 'compact("pond", 24)'))
    code, text = project.report()
    assert code == 3
    assert text.startswith("<!-- personalization:dev:sandbox -->\n## Stack `dev` in the sandbox: ")
    assert "> - `lake` (storage:StorageAccount) is replaced, forced by `accountName`" in text
    assert "> - `lake-raw` (storage:BlobContainer) is replaced, forced by `accountName`" in text
    assert "maxCount` 3 → 5" in text
    for hidden in ("hush", "ponddev", "lakedev", "127.0.0.1"):
        assert hidden not in text

    assert project.git("status", "--short").split() == ["M", "Pulumi.dev.yaml", "M", "infra/config/naming.py"]
    scratch = str(project.folder.parent)
    assert not [line for line in _command_lines() if scratch in line]


def _command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
