"""Reads the output of `pulumi preview --json` into data classes.

With PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true the output is the engine's events, one JSON object per line, as in an
`--event-log` file; without it, one digest. The digest lacks new stack outputs, policy findings, and deletions below a
replaced parent. Does not evaluate the changes and writes no text: `report.py` does.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pulumi.runtime.rpc import UNKNOWN

from cli.errors import UserError

T = TypeVar("T")
STREAMING = {"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"}
"""Environment variables with which `pulumi preview --json` prints events."""

MANDATORY = "mandatory"
"""Level of a policy whose violation makes the engine fail."""


class Action(StrEnum):
    REPLACED = "replaced"
    DELETED = "deleted"
    ADDED = "added"
    CHANGED = "changed"


# The engine reports a replacement as one logical and two physical steps. A `delete-replaced` alone is a deletion: the
# resource is deleted together with its parent, and the program no longer declares it.
ACTIONS = {
    "create": Action.ADDED,
    "import": Action.ADDED,
    "update": Action.CHANGED,
    "replace": Action.REPLACED,
    "create-replacement": Action.REPLACED,
    "import-replacement": Action.REPLACED,
    "delete": Action.DELETED,
    "delete-replaced": Action.DELETED,
}
_GENERIC_ERRORS = ("preview failed", "an unhandled error occurred: Program exited with non-zero exit code")


@dataclass(frozen=True)
class Property:
    path: str
    kind: str
    """`add`, `update` or `delete`."""
    forces: bool
    """Whether the change requires a replacement of the resource."""
    before: Any = None
    after: Any = None

    @property
    def unknown(self) -> bool:
        """Whether the new value depends on a change that has not been applied yet."""
        return UNKNOWN in json.dumps(self.after)


@dataclass(frozen=True)
class Change:
    action: Action
    type: str
    """Type token without an API version, such as `azure-native:storage:StorageAccount`."""
    name: str
    properties: tuple[Property, ...] = ()


@dataclass(frozen=True)
class PolicyFinding:
    level: str
    """`mandatory`, `advisory` or `remediate`."""
    policy: str
    resource: str
    message: str


@dataclass(frozen=True)
class Preview:
    stack: str
    changes: tuple[Change, ...]
    before: Mapping[str, Any]
    """Recorded stack outputs."""
    after: Mapping[str, Any] | None
    """Stack outputs after the change; None for a digest or after an error."""
    findings: tuple[PolicyFinding, ...]
    errors: tuple[str, ...]
    """Errors that ended the preview; empty if it succeeded, or failed only because of policy findings."""

    @property
    def failed(self) -> bool:
        return bool(self.errors) or any(finding.level == MANDATORY for finding in self.findings)


def load(path: Path) -> Preview:
    """Read a file with the output of `pulumi preview --json`. Raises `UserError` for another content."""
    return load_as(lambda text: read(text, path.stem), path)


def load_as(reader: Callable[[str], T], path: Path) -> T:
    """Apply `reader` to a file with the output of `pulumi preview --json`. Raises `UserError` for another content."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"the preview {path} cannot be read: {error.strerror}") from None
    try:
        return reader(text)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not the output of `pulumi preview --json`. Create it with: "
            f"PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true pulumi preview --json --stack {path.stem} > {path}"
        ) from None


def read(text: str, stack: str) -> Preview:
    """Read the output of `pulumi preview --json`.

    stack: name of the stack if the preview ended before the first resource; otherwise the resources contain it.
    """
    events = events_of(text)
    steps = [event["resourcePreEvent"]["metadata"] for event in events if "resourcePreEvent" in event]
    outputs = [
        event["resOutputsEvent"]["metadata"]
        for event in events
        if event.get("resOutputsEvent", {}).get("metadata", {}).get("type") == "pulumi:pulumi:Stack"
    ]
    errors = _errors(events)
    root: dict[str, Any] = next((step for step in steps if step["type"] == "pulumi:pulumi:Stack"), {})
    return Preview(
        stack=next((step["urn"].split(":")[2] for step in steps), stack),
        changes=tuple(_changes(steps)),
        before=(root.get("old") or {}).get("outputs") or {},
        after=outputs[-1]["new"]["outputs"] if outputs and not errors else None,
        findings=_findings(events),
        errors=errors,
    )


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the engine's events from the output of `pulumi preview --json`."""
    try:
        digest = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line]
    return list(_of_digest(digest)) if "steps" in digest or "diagnostics" in digest else [digest]


def _of_digest(digest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Convert a digest to events, which use other names for the same data."""
    for step in digest.get("steps") or []:
        old, new = step.get("oldState"), step.get("newState")
        details = {path: {"diffKind": diff["kind"], **diff} for path, diff in (step.get("detailedDiff") or {}).items()}
        named = {"op": step["op"], "urn": step["urn"], "type": (new or old)["type"], "old": old, "new": new}
        reasons = {"keys": step.get("replaceReasons"), "diffs": step.get("diffReasons"), "detailedDiff": details}
        yield {"resourcePreEvent": {"metadata": named | reasons}}
    for diagnostic in digest.get("diagnostics") or []:
        yield {"diagnosticEvent": diagnostic}
    failed = any(diagnostic["severity"] == "error" for diagnostic in digest.get("diagnostics") or [])
    yield {"summaryEvent": {"result": "failed" if failed else "succeeded"}}


def _changes(steps: Sequence[Mapping[str, Any]]) -> Iterator[Change]:
    """Yield one change per resource, in an order that does not depend on the engine's parallel work."""
    by_urn: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        if step["op"] in ACTIONS:
            by_urn.setdefault(step["urn"], []).append(step)
    order = list(Action)
    changes = []
    for urn, steps in by_urn.items():
        _, _, types, name = urn.split("::", 3)
        action = min((ACTIONS[step["op"]] for step in steps), key=order.index)
        token = re.sub(r"/v\d{8}(preview)?(?=:)", "", steps[0]["type"])
        changes.append((order.index(action), types.split("$"), Change(action, token, name, tuple(_properties(steps)))))
    for *_, change in sorted(changes, key=lambda entry: (entry[0], entry[1], entry[2].name)):
        yield change


def _properties(steps: Sequence[Mapping[str, Any]]) -> Iterator[Property]:
    """Yield the changed properties of one resource: from the detailed diff, or from the top-level names without one.

    For an update of a dynamic resource the engine reports neither; the inputs of both sides are compared then.
    """
    details: dict[str, str] = {}
    forcing: set[str] = set()
    for step in steps:
        details |= {path: diff["diffKind"] for path, diff in (step.get("detailedDiff") or {}).items()}
        forcing |= set(step.get("keys") or [])
        for name in [*(step.get("keys") or []), *(step.get("diffs") or [])]:
            if not any(_keys(path)[0] == name for path in details):
                details[name] = "update"
    # Some steps of a replacement have only one side.
    old, new = (
        next((step[side]["inputs"] for step in steps if step.get(side) and step[side].get("inputs")), None)
        for side in ("old", "new")
    )
    if not details and old and new and all(step["op"] == "update" for step in steps):
        details = dict(_differences(old, new))
    for path, kind in sorted(details.items()):
        # Kinds of the detailed diff are exact. Keys are top-level names, which may contain several changes.
        forces = kind.endswith("-replace") or (path in forcing)
        yield Property(path, kind.removesuffix("-replace"), forces, _at(old, path), _at(new, path))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the paths at which two sets of inputs differ, with the kind of change. Pulumi's own (`__…`) are ignored."""
    for key in sorted(old.keys() | new.keys()):
        path, before, after = f"{above}{key}", old.get(key), new.get(key)
        if before == after or key.startswith("__"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{path}.")
        else:
            yield path, "add" if key not in old else "delete" if key not in new else "update"


def _keys(path: str) -> list[str | int]:
    """Return `["a", "b", 0, "c.d"]` for the path `a.b[0]["c.d"]`."""
    parts = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.\[\]]+)', path)
    return [int(index) if index else quoted or name for quoted, index, name in parts] or [path]


def _at(inputs: Any, path: str) -> Any:
    for key in _keys(path):
        try:
            inputs = inputs[key]
        except (KeyError, IndexError, TypeError):
            # Members of an unknown or secret value are unknown too.
            return inputs if isinstance(inputs, str) else None
    return inputs


def _findings(events: Sequence[Mapping[str, Any]]) -> tuple[PolicyFinding, ...]:
    findings = {
        PolicyFinding(
            event["enforcementLevel"],
            event["policyName"],
            event.get("resourceUrn", "").rpartition("::")[2],
            event["message"].strip(),
        )
        for event in (event["policyEvent"] for event in events if "policyEvent" in event)
    }
    mandatory_first = sorted(
        findings, key=lambda finding: (finding.level != MANDATORY, finding.policy, finding.resource, finding.message)
    )
    return tuple(mandatory_first)


def _errors(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the error messages of a preview that failed or did not complete."""
    if any(event.get("summaryEvent", {}).get("result") == "succeeded" for event in events):
        return ()
    diagnostics = (event["diagnosticEvent"] for event in events if "diagnosticEvent" in event)
    messages = [entry["message"].strip() for entry in diagnostics if entry["severity"] == "error"]
    specific = tuple(text for text in messages if not text.removeprefix("error: ").startswith(_GENERIC_ERRORS))
    refused = any(event.get("policyEvent", {}).get("enforcementLevel") == MANDATORY for event in events)
    return specific or (() if refused else tuple(messages) or ("the preview ended without a result",))
