"""What the Pulumi engine says of a preview, as data.

Reads what `pulumi preview --json` prints: with PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true the engine's events, one JSON
object a line (an `--event-log` file holds the same), without it one digest. The digest lacks new stack outputs, policy
findings, and deletions below a replaced parent. Judges nothing and writes no text: that is `report.py`.
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
"""Environment that makes `pulumi preview --json` print events."""


MANDATORY = "mandatory"
"""The level of a policy that the engine lets nobody break."""


class Action(StrEnum):
    REPLACED = "replaced"
    DELETED = "deleted"
    ADDED = "added"
    CHANGED = "changed"


# The engine shows a replacement as one logical step and two physical ones. A `delete-replaced` alone is a deletion: of
# what goes with its parent and is not in the program any more.
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
_SAYS_NOTHING = ("preview failed", "an unhandled error occurred: Program exited with non-zero exit code")


@dataclass(frozen=True)
class Property:
    path: str
    kind: str
    """`add`, `update` or `delete`."""
    forces: bool
    """Whether it cannot be changed in place, so that the resource is replaced for it."""
    before: Any = None
    after: Any = None

    @property
    def unknown(self) -> bool:
        """Whether the new value is known only once something else has been changed."""
        return UNKNOWN in json.dumps(self.after)


@dataclass(frozen=True)
class Change:
    action: Action
    type: str
    """Type token without an API version, such as `azure-native:storage:StorageAccount`."""
    name: str
    properties: tuple[Property, ...] = ()


@dataclass(frozen=True)
class Finding:
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
    """Stack outputs as they are recorded."""
    after: Mapping[str, Any] | None
    """Stack outputs as they would be; nothing in a digest or after an error."""
    findings: tuple[Finding, ...]
    errors: tuple[str, ...]
    """What ended the preview; empty if it succeeded, or if findings alone made it fail."""

    @property
    def failed(self) -> bool:
        return bool(self.errors) or any(finding.level == MANDATORY for finding in self.findings)


def load(path: Path) -> Preview:
    """Read a file of `pulumi preview --json`. Raises `UserError` if it is none."""
    return load_as(lambda text: read(text, path.stem), path)


def load_as(reader: Callable[[str], T], path: Path) -> T:
    """What `reader` makes of a file of `pulumi preview --json`. Raises `UserError` if it is none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"the preview {path} cannot be read: {error.strerror}") from None
    try:
        return reader(text)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not what `pulumi preview --json` prints. Make it with: "
            f"PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true pulumi preview --json --stack {path.stem} > {path}"
        ) from None


def read(text: str, stack: str) -> Preview:
    """`stack` is the name to give a preview that ended before it reached a resource, all of which carry the name."""
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
    """The engine's events of what `pulumi preview --json` printed."""
    try:
        digest = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line]
    return list(_of_digest(digest)) if "steps" in digest or "diagnostics" in digest else [digest]


def _of_digest(digest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The digest in the shape of events, which name the same things otherwise."""
    for step in digest.get("steps") or []:
        old, new = step.get("oldState"), step.get("newState")
        details = {
            path: {"diffKind": found["kind"], **found} for path, found in (step.get("detailedDiff") or {}).items()
        }
        named = {"op": step["op"], "urn": step["urn"], "type": (new or old)["type"], "old": old, "new": new}
        reasons = {"keys": step.get("replaceReasons"), "diffs": step.get("diffReasons"), "detailedDiff": details}
        yield {"resourcePreEvent": {"metadata": named | reasons}}
    for diagnostic in digest.get("diagnostics") or []:
        yield {"diagnosticEvent": diagnostic}
    failed = any(diagnostic["severity"] == "error" for diagnostic in digest.get("diagnostics") or [])
    yield {"summaryEvent": {"result": "failed" if failed else "succeeded"}}


def _changes(steps: Sequence[Mapping[str, Any]]) -> Iterator[Change]:
    """One change a resource, in an order that does not depend on the engine's parallel work."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        if step["op"] in ACTIONS:
            found.setdefault(step["urn"], []).append(step)
    order = list(Action)
    changes = []
    for urn, steps in found.items():
        _, _, types, name = urn.split("::", 3)
        action = min((ACTIONS[step["op"]] for step in steps), key=order.index)
        token = re.sub(r"/v\d{8}(preview)?(?=:)", "", steps[0]["type"])
        changes.append((order.index(action), types.split("$"), Change(action, token, name, tuple(_properties(steps)))))
    for *_, change in sorted(changes, key=lambda one: (one[0], one[1], one[2].name)):
        yield change


def _properties(steps: Sequence[Mapping[str, Any]]) -> Iterator[Property]:
    """Changed properties of one resource: from the detailed diff, and from the top-level names where there is none.

    Of an update of a dynamic resource the engine names none; then both sides' inputs are compared.
    """
    details: dict[str, str] = {}
    forcing: set[str] = set()
    for step in steps:
        details |= {path: diff["diffKind"] for path, diff in (step.get("detailedDiff") or {}).items()}
        forcing |= set(step.get("keys") or [])
        for name in [*(step.get("keys") or []), *(step.get("diffs") or [])]:
            if not any(_keys(path)[0] == name for path in details):
                details[name] = "update"
    # Not every step of a replacement has both sides.
    old, new = (
        next((step[side]["inputs"] for step in steps if step.get(side) and step[side].get("inputs")), None)
        for side in ("old", "new")
    )
    if not details and old and new and all(step["op"] == "update" for step in steps):
        details = dict(_differences(old, new))
    for path, kind in sorted(details.items()):
        # Kinds of the detailed diff are exact; the keys are top-level names, under which much may have changed.
        forces = kind.endswith("-replace") or (path in forcing)
        yield Property(path, kind.removesuffix("-replace"), forces, _at(old, path), _at(new, path))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Paths below which two sets of inputs differ, each with the kind of change; Pulumi's own (`__…`) do not count."""
    for key in sorted(old.keys() | new.keys()):
        path, before, after = f"{above}{key}", old.get(key), new.get(key)
        if before == after or key.startswith("__"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{path}.")
        else:
            yield path, "add" if key not in old else "delete" if key not in new else "update"


def _keys(path: str) -> list[str | int]:
    """`a.b[0]["c.d"]` as `["a", "b", 0, "c.d"]`."""
    parts = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.\[\]]+)', path)
    return [int(index) if index else quoted or plain for quoted, index, plain in parts] or [path]


def _at(inputs: Any, path: str) -> Any:
    for key in _keys(path):
        try:
            inputs = inputs[key]
        except (KeyError, IndexError, TypeError):
            # Below an unknown or secret value nothing is known either.
            return inputs if isinstance(inputs, str) else None
    return inputs


def _findings(events: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    found = {
        Finding(
            event["enforcementLevel"],
            event["policyName"],
            event.get("resourceUrn", "").rpartition("::")[2],
            event["message"].strip(),
        )
        for event in (event["policyEvent"] for event in events if "policyEvent" in event)
    }
    return tuple(sorted(found, key=lambda one: (one.level != MANDATORY, one.policy, one.resource, one.message)))


def _errors(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Messages of a preview that failed or never came to its end."""
    if any(event.get("summaryEvent", {}).get("result") == "succeeded" for event in events):
        return ()
    diagnostics = (event["diagnosticEvent"] for event in events if "diagnosticEvent" in event)
    said = [found["message"].strip() for found in diagnostics if found["severity"] == "error"]
    telling = tuple(message for message in said if not message.removeprefix("error: ").startswith(_SAYS_NOTHING))
    refused = any(event.get("policyEvent", {}).get("enforcementLevel") == MANDATORY for event in events)
    return telling or (() if refused else tuple(said) or ("the preview ended without a result",))
