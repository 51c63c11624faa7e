"""Change report: the effect of a change on one stack, as Markdown for a pull request, and whether it is blocked.

A change is blocked if it replaces or deletes a resource that holds data (`STATEFUL`). Of resources without data, values
are shown if they are numbers, booleans or simple words; secrets, ids and addresses never are. Does not run the engine
(`sandbox_preview.py` or `pulumi preview --json` does) and does not contact GitHub (`.github/workflows` does).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from cli.changes.plan import CAPACITY, COST, RELEASE
from cli.changes.preview import MANDATORY, Action, Change, PolicyFinding, Preview, Property
from policy.rules import STATEFUL as PROTECTED

STATEFUL = frozenset(
    {
        *PROTECTED,
        "azure-native:resources:ResourceGroup",
        "azure-native:storage:BlobContainer",
        "azure-native:operationalinsights:Workspace",
        "pulumi-python:dynamic/databricks:Catalog",
    }
)
"""Types that production protects, and other types whose replacement loses rows, models, secrets, images or logs."""

_SCORING_POOL = "azure-native:containerservice:AgentPool"
_SYSTEM_POOL = "pulumi-python:dynamic/containerservice:SystemPool"

LABEL = "allow-stateful-change"
"""Pull request label with the effect of `--allow-stateful`."""

LIMIT = 60_000
"""Maximum characters of a report: GitHub refuses a comment of more than 65,536."""

_MAX_PROPERTIES = 8
_SIMPLE_WORD = re.compile(r"[A-Za-z0-9._ +-]{1,48}")
_ID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_NOT_YET = "not yet known"


@dataclass(frozen=True)
class ChangeReport:
    stack: str
    text: str
    failed: bool
    """Whether the preview itself failed, or broke a mandatory policy."""
    blocked: bool
    """Whether it replaces or deletes resources with data, which was not allowed."""


def report(
    preview: Preview,
    *,
    base: Preview | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    allow_stateful: bool = False,
    place: str = "",
) -> ChangeReport:
    """Report on `preview`, without the changes that the preview of the `base` branch contains too.

    before, after: stack outputs that replace those of the preview. allow_stateful: do not block. place: where the
    preview was made, if not on the stack itself.
    """
    changes = [change for change in preview.changes if not base or change not in base.changes]
    stateful = [change for change in changes if _endangers(change)]
    if before is None:
        before = base.after if base and base.after else preview.before
    planned = after if after is not None else preview.after
    summary = "the preview failed" if preview.errors else _counts(changes)
    lines = [
        f"<!-- personalization:{':'.join(filter(None, (preview.stack, place)))} -->",
        f"## Stack {_code(preview.stack)}{f' in the {place}' if place else ''}: {summary}",
        "",
        *_errors(preview),
        *_verdict(stateful, allow_stateful),
        *_new_nodes([change for change in changes if _replaces_nodes(change)]),
        *_findings("Violated policies", [finding for finding in preview.findings if finding.level == MANDATORY]),
        *_release(before, planned, bool(preview.errors)),
        *_figures(before, planned, bool(preview.errors)),
    ]
    for action in Action:
        lines += _table(action, [change for change in changes if change.action is action])
    if left := len(preview.changes) - len(changes):
        lines += [f"Not shown: {left} changes of the base branch that are not deployed yet.", ""]
    lines += _findings("Advice of policies", [finding for finding in preview.findings if finding.level != MANDATORY])
    return ChangeReport(preview.stack, _bounded(lines), preview.failed, bool(stateful) and not allow_stateful)


def _endangers(change: Change) -> bool:
    return change.type in STATEFUL and change.action in (Action.REPLACED, Action.DELETED)


def _replaces_nodes(change: Change) -> bool:
    """Return whether a pool with other nodes replaces this pool (`infra/aks/node_pools.py`)."""
    if change.type == _SYSTEM_POOL:
        return change.action is Action.CHANGED and any(changed.path == "pool" for changed in change.properties)
    return change.type == _SCORING_POOL and change.action is Action.REPLACED


def _new_nodes(pools: Sequence[Change]) -> Iterator[str]:
    if not pools:
        return
    names = " and ".join(_code(pool.name) for pool in pools)
    yield from ("> [!WARNING]", f"> Every node of {names} is replaced: the new pool is created, then the old one is")
    yield "> drained and deleted. Until then the VM quota must cover both. Pods are restarted on the new nodes: a"
    yield from ("> deployment with one replica does not answer during the restart.", "")


def _counts(changes: Sequence[Change]) -> str:
    counts = [(action, sum(change.action is action for change in changes)) for action in Action]
    return ", ".join(f"{count} {action}" for action, count in counts if count) or "no changes"


def _errors(preview: Preview) -> Iterator[str]:
    for error in preview.errors:
        yield from ("```text", error[-3000:].replace("```", "'''"), "```", "")
    if preview.errors and preview.changes:
        yield from ("The rest of this report covers the changes before the error.", "")


def _verdict(stateful: Sequence[Change], allowed: bool) -> Iterator[str]:
    if not stateful:
        return
    yield from ("> [!CAUTION]", "> This change replaces or deletes resources that hold data. Their data is lost.")
    if allowed:
        yield "> The loss was allowed for this change."
    else:
        yield f"> The change is blocked. To accept the loss, add the label `{LABEL}` to the pull request."
    yield ">"
    for change in stateful:
        forced = [_code(changed.path) for changed in change.properties if changed.forces]
        reason = f", forced by {', '.join(forced)}" if forced else ""
        yield f"> - {_code(change.name)} ({_type(change)}) is {change.action}{reason}"
    yield ""


def _findings(title: str, findings: Sequence[PolicyFinding]) -> Iterator[str]:
    if not findings:
        return
    yield from (f"### {title}", "")
    for finding in findings:
        where = f"{_code(finding.resource)}: " if finding.resource else ""
        yield f"- {where}{_sentence(finding.message)} ({_code(finding.policy)})"
    yield ""


def _release(before: Mapping[str, Any], after: Mapping[str, Any] | None, failed: bool) -> Iterator[str]:
    """Yield a table of the changed inputs of the release, if any."""
    old, new = _leaves(before, RELEASE), _leaves(after or {}, RELEASE)
    rows = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if failed or after is None or not rows:
        return
    yield from ("### Release", "", "| | before | after |", "| --- | --- | --- |")
    for key in rows:
        yield f"| {_sentence(key[-1])} | {_figure(key, old.get(key))} | {_figure(key, new.get(key))} |"
    yield ""


def _figures(before: Mapping[str, Any], after: Mapping[str, Any] | None, failed: bool) -> Iterator[str]:
    """Yield a table of the changed capacity and cost figures in the stack's outputs."""
    if failed:
        return
    yield from ("### Capacity and cost", "")
    if after is None:
        yield "Not in this preview: set `PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true` to include stack outputs."
    elif not any(name in outputs for outputs in (before, after) for name in (CAPACITY, COST)):
        yield f"This stack exports neither `{CAPACITY}` nor `{COST}`."
    else:
        old, new = (_leaves(outputs, CAPACITY, COST) for outputs in (before, after))
        total = (COST, "total")
        rows = [key for key in sorted(old | new, key=lambda key: (key != total, key)) if old.get(key) != new.get(key)]
        if not rows:
            cost = f" {_figure(total, new[total])} USD a month" if total in new else ""
            yield f"Unchanged{':' if cost else ''}{cost}."
        else:
            yield from ("| | before | after | |", "| --- | ---: | ---: | ---: |")
            for key in rows:
                label = " ".join(key).replace("_", " ") + (" (USD)" if key[0] == COST else "")
                figures = [_figure(key, old.get(key)), _figure(key, new.get(key)), _difference(key, old, new)]
                yield f"| {_sentence(label)} | {' | '.join(figures)} |"
    yield ""


def _leaves(outputs: Mapping[str, Any], *names: str) -> dict[tuple[str, ...], Any]:
    def walk(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, dict) and "ciphertext" not in value:
            for key, below in value.items():
                yield from walk((*path, str(key)), below)
        elif path[1:] or isinstance(value, int | float):
            yield path, value

    return dict(leaf for name in names for leaf in walk((name,), outputs.get(name, {})))


def _difference(key: tuple[str, ...], old: Mapping[tuple[str, ...], Any], new: Mapping[tuple[str, ...], Any]) -> str:
    numbers = [side[key] for side in (old, new) if isinstance(side.get(key), int | float)]
    if len(numbers) < 2 or bool in map(type, numbers):
        return ""
    before, after = numbers
    return f"{'+' if after > before else '-'}{_figure(key, abs(after - before))}"


def _figure(key: tuple[str, ...], value: Any) -> str:
    if key[0] == COST and isinstance(value, int | float):
        return f"{value:,.2f}"
    return "none" if value is None else _NOT_YET if value == UNKNOWN else _shown(value) or "…"


def _table(action: Action, changes: Sequence[Change]) -> Iterator[str]:
    if not changes:
        return
    yield from (f"### {action.capitalize()}", "", "| resource | type | change |", "| --- | --- | --- |")
    for change in changes:
        yield f"| {_code(change.name)} | {_type(change)} | {_description(change)} |"
    yield ""


def _description(change: Change) -> str:
    if not change.properties:
        return "because a dependency is replaced" if change.action is Action.REPLACED else ""
    forcing = [changed for changed in change.properties if changed.forces]
    other = [changed for changed in change.properties if not changed.forces]
    # Values of stateful resources may be confidential, so they are not shown.
    with_values = change.type not in STATEFUL
    parts = [f"forced by {_listed(forcing, with_values)}"] if forcing else []
    return "; ".join(parts + ([_listed(other, with_values)] if other else []))


def _listed(properties: Sequence[Property], with_values: bool) -> str:
    shown = [_property(changed, with_values) for changed in properties[:_MAX_PROPERTIES]]
    left = len(properties) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _property(changed: Property, with_values: bool) -> str:
    if changed.unknown:
        return f"{_code(changed.path)} ({_NOT_YET})"
    if changed.kind != "update":
        return f"{_code(changed.path)} {'added' if changed.kind == 'add' else 'removed'}"
    before, after = _shown(changed.before), _shown(changed.after)
    if with_values and before and after:
        return f"{_code(changed.path)} {before} → {after}"
    return _code(changed.path)


def _shown(value: Any) -> str | None:
    """Return a number, a boolean or a simple word as text; None for values that could be confidential."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        # The engine writes integers as floats.
        return f"{value:,.0f}" if value == int(value) else f"{value:,}"
    if isinstance(value, str) and _SIMPLE_WORD.fullmatch(value) and not _ID.search(value):
        return value
    return None


def _type(change: Change) -> str:
    return _sentence(re.sub(r"^(azure-native:|pulumi-python:dynamic/)", "", change.type))


def _code(text: str) -> str:
    return f"`{re.sub(r'[`|<>]|[^ -~]', '?', text)[:120]}`"


def _sentence(text: str) -> str:
    """Return foreign text on one line, with characters escaped that Markdown or GitHub (`@name`) would interpret."""
    return re.sub(r"([\\`*_\[\]<>|@#])", r"\\\1", " ".join(text.split()))[:1000]


def _bounded(lines: Sequence[str]) -> str:
    """Return complete lines up to the limit. The most important sections of a report come first."""
    size, count = 0, 0
    for line in lines:
        size += len(line) + 1
        if size > LIMIT:
            break
        count += 1
    omitted = len(lines) - count
    note = [f"… and {omitted} more lines, omitted because GitHub limits a comment."] if omitted else []
    return "\n".join([*lines[:count], *note]).rstrip("\n") + "\n"
