"""What a change does to one stack, as Markdown for a pull request, and whether it may go on.

Blocks what would replace or delete a resource that holds data (`STATEFUL`). Values are shown where they are numbers,
switches and plain words of a resource that holds no data: never a secret, an id or an address. Does not run the engine
(`sandbox_preview.py`, or `pulumi preview --json`) and does not talk to GitHub (`.github/workflows`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from cli.changes.plan import CAPACITY, COST, RELEASE
from cli.changes.preview import MANDATORY, Action, Change, Finding, Preview, Property
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
"""What production protects, and what else loses rows, models, secrets, images or logs if it is replaced."""

_SCORING_POOL = "azure-native:containerservice:AgentPool"
_SYSTEM_POOL = "pulumi-python:dynamic/containerservice:SystemPool"

LABEL = "allow-stateful-change"
"""The pull request label that stands for `--allow-stateful`."""

LIMIT = 60_000
"""Characters of a report: GitHub refuses a comment above 65,536."""

_PATHS = 8
_PLAIN_WORD = re.compile(r"[A-Za-z0-9._ +-]{1,48}")
_ID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_NOT_YET = "not yet known"


@dataclass(frozen=True)
class Report:
    stack: str
    text: str
    failed: bool
    """Whether the preview itself failed, or broke a mandatory policy."""
    blocked: bool
    """Whether it replaces or deletes what holds data, and nobody allowed that."""


def report(
    preview: Preview,
    *,
    base: Preview | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    allow_stateful: bool = False,
    place: str = "",
) -> Report:
    """Report on `preview`, leaving out what the preview of the `base` branch would do just the same.

    `before` and `after` are stack outputs that take the place of the preview's own. `place` says where it was made, if
    not on the stack itself.
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
        *_findings("Policies broken", [found for found in preview.findings if found.level == MANDATORY]),
        *_release(before, planned, bool(preview.errors)),
        *_figures(before, planned, bool(preview.errors)),
    ]
    for action in Action:
        lines += _table(action, [change for change in changes if change.action is action])
    if left := len(preview.changes) - len(changes):
        lines += [f"The base branch, not yet deployed, makes {left} more of the preview's changes just the same.", ""]
    lines += _findings("Policies advise", [found for found in preview.findings if found.level != MANDATORY])
    return Report(preview.stack, _bounded(lines), preview.failed, bool(stateful) and not allow_stateful)


def _endangers(change: Change) -> bool:
    return change.type in STATEFUL and change.action in (Action.REPLACED, Action.DELETED)


def _replaces_nodes(change: Change) -> bool:
    """Whether a pool of another shape takes the place of this one (`infra/aks/node_pools.py`)."""
    if change.type == _SYSTEM_POOL:
        return change.action is Action.CHANGED and any(found.path == "pool" for found in change.properties)
    return change.type == _SCORING_POOL and change.action is Action.REPLACED


def _new_nodes(pools: Sequence[Change]) -> Iterator[str]:
    if not pools:
        return
    names = " and ".join(_code(pool.name) for pool in pools)
    yield from ("> [!WARNING]", f"> Every node of {names} is replaced: the new pool is created, then the old one is")
    yield "> drained and deleted. Until then both count against the quota for machines. Pods move meanwhile: a"
    yield from ("> deployment with one replica does not answer while that one starts again.", "")


def _counts(changes: Sequence[Change]) -> str:
    found = [(action, sum(change.action is action for change in changes)) for action in Action]
    return ", ".join(f"{count} {action}" for action, count in found if count) or "no changes"


def _errors(preview: Preview) -> Iterator[str]:
    for error in preview.errors:
        yield from ("```text", error[-3000:].replace("```", "'''"), "```", "")
    if preview.errors and preview.changes:
        yield from ("What follows is what the engine had found until then.", "")


def _verdict(stateful: Sequence[Change], allowed: bool) -> Iterator[str]:
    if not stateful:
        return
    yield from ("> [!CAUTION]", "> This replaces or deletes what holds data, and the data is lost with it.")
    if allowed:
        yield "> It was allowed for this change."
    else:
        yield f"> It blocks the change. If the loss is wanted, label the pull request `{LABEL}`."
    yield ">"
    for change in stateful:
        forced = [_code(found.path) for found in change.properties if found.forces]
        reason = f", forced by {', '.join(forced)}" if forced else ""
        yield f"> - {_code(change.name)} ({_type(change)}) is {change.action}{reason}"
    yield ""


def _findings(title: str, findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield from (f"### {title}", "")
    for finding in findings:
        where = f"{_code(finding.resource)}: " if finding.resource else ""
        yield f"- {where}{_sentence(finding.message)} ({_code(finding.policy)})"
    yield ""


def _release(before: Mapping[str, Any], after: Mapping[str, Any] | None, failed: bool) -> Iterator[str]:
    """What the endpoint will flip to, if anything of it changes."""
    old, new = _leaves(before, RELEASE), _leaves(after or {}, RELEASE)
    rows = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if failed or after is None or not rows:
        return
    yield from ("### Release", "", "| | before | after |", "| --- | --- | --- |")
    for key in rows:
        yield f"| {_sentence(key[-1])} | {_figure(key, old.get(key))} | {_figure(key, new.get(key))} |"
    yield ""


def _figures(before: Mapping[str, Any], after: Mapping[str, Any] | None, failed: bool) -> Iterator[str]:
    """Capacity and cost as the stack's outputs give them, in a table of what differs."""
    if failed:
        return
    yield from ("### Capacity and cost", "")
    if after is None:
        yield "Not in this preview: set `PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true` to have stack outputs in it."
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
    yield from (f"### {action.capitalize()}", "", "| resource | type | what |", "| --- | --- | --- |")
    for change in changes:
        yield f"| {_code(change.name)} | {_type(change)} | {_what(change)} |"
    yield ""


def _what(change: Change) -> str:
    if not change.properties:
        return "with what it depends on" if change.action is Action.REPLACED else ""
    forcing = [found for found in change.properties if found.forces]
    other = [found for found in change.properties if not found.forces]
    # A stateful resource may hold anything, and what a replaced one had is gone: neither needs its values told.
    tells = change.type not in STATEFUL
    parts = [f"forced by {_listed(forcing, tells)}"] if forcing else []
    return "; ".join(parts + ([_listed(other, tells)] if other else []))


def _listed(properties: Sequence[Property], tells: bool) -> str:
    shown = [_property(found, tells) for found in properties[:_PATHS]]
    left = len(properties) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _property(found: Property, tells: bool) -> str:
    if found.unknown:
        return f"{_code(found.path)} ({_NOT_YET})"
    if found.kind != "update":
        return f"{_code(found.path)} {'added' if found.kind == 'add' else 'removed'}"
    before, after = _shown(found.before), _shown(found.after)
    if tells and before and after:
        return f"{_code(found.path)} {before} → {after}"
    return _code(found.path)


def _shown(value: Any) -> str | None:
    """The value as a reader may see it: a number, a switch or a plain word, and nothing that could be more."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        # The engine's JSON has one kind of number.
        return f"{value:,.0f}" if value == int(value) else f"{value:,}"
    if isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and not _ID.search(value):
        return value
    return None


def _type(change: Change) -> str:
    return _sentence(re.sub(r"^(azure-native:|pulumi-python:dynamic/)", "", change.type))


def _code(text: str) -> str:
    return f"`{re.sub(r'[`|<>]|[^ -~]', '?', text)[:120]}`"


def _sentence(text: str) -> str:
    """Text of others on one line, with nothing in it that Markdown or GitHub (`@name`) would take up."""
    return re.sub(r"([\\`*_\[\]<>|@#])", r"\\\1", " ".join(text.split()))[:1000]


def _bounded(lines: Sequence[str]) -> str:
    """Whole lines up to the limit; the order of the report puts what matters most first."""
    size, kept = 0, 0
    for line in lines:
        size += len(line) + 1
        if size > LIMIT:
            break
        kept += 1
    left = (
        [f"… and {len(lines) - kept} more lines, left out because a comment has a limit."] if kept < len(lines) else []
    )
    return "\n".join([*lines[:kept], *left]).rstrip("\n") + "\n"
