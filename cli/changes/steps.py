"""The steps of a preview, compared with the approved steps of an earlier preview.

A step is an operation on one resource, with the inputs before and after it. After a refresh the inputs before it are
those in the cloud, so the comparison detects a manual change that the step would undo. The file of approved steps holds
only digests of the inputs, because every reader of a workflow's artifacts can read it. The engine masks secrets in a
preview, so a changed secret is not detected. Does not cover the time between the comparison and `up`: the engine's plan
does.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cli.changes import preview
from cli.changes.preview import ACTIONS, MANDATORY
from cli.errors import UserError


class Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    operations: tuple[str, ...]
    """Operations of the engine, such as `("create-replacement", "delete-replaced", "replace")`."""
    before: Mapping[str, str]
    """Digests of the inputs before the step, by name; empty for a creation."""
    after: Mapping[str, str]
    """Digests of the inputs after the step, by name; empty for a deletion."""


class Steps(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str
    by_urn: Mapping[str, Step]

    @classmethod
    def of_preview(cls, path: Path) -> "Steps":
        """Read the steps from the output of `pulumi preview --json`. Raises `UserError` if the preview failed."""
        loaded = preview.load(path)
        if loaded.failed:
            reasons = [*loaded.errors, *(finding.message for finding in loaded.findings if finding.level == MANDATORY)]
            raise UserError(f"{path}: the preview failed, so nothing is approved or applied:\n{chr(10).join(reasons)}")
        events = preview.load_as(preview.events_of, path)
        steps = [event["resourcePreEvent"]["metadata"] for event in events if "resourcePreEvent" in event]
        return cls(stack=loaded.stack, by_urn=dict(_steps([step for step in steps if step["op"] in ACTIONS])))

    @classmethod
    def load(cls, path: Path) -> "Steps":
        """Read approved steps that `dump` wrote. Raises `UserError` if they cannot be read."""
        try:
            return cls.model_validate_json(path.read_text())
        except (OSError, ValidationError) as error:
            raise UserError(f"{path} does not contain approved steps: {str(error).splitlines()[0]}") from None

    def dump(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n")

    def differences(self, now: "Steps") -> list[str]:
        """Return the differences of `now` from these steps, one line per resource."""
        lines = [] if self.stack == now.stack else [f"approved for stack {self.stack}, not for {now.stack}"]
        for urn in sorted({*self.by_urn, *now.by_urn}):
            approved, planned = self.by_urn.get(urn), now.by_urn.get(urn)
            if approved == planned:
                continue
            lines.append(f"{_shown(urn)}: {_difference(approved, planned)}")
        return lines


def _steps(steps: list[dict[str, Any]]) -> Iterator[tuple[str, Step]]:
    for urn in sorted({step["urn"] for step in steps}):
        own = [step for step in steps if step["urn"] == urn]
        before, after = (_digests(next(filter(None, (step.get(side) for step in own)), {})) for side in ("old", "new"))
        yield urn, Step(operations=tuple(sorted({step["op"] for step in own})), before=before, after=after)


def _digests(state: Mapping[str, Any]) -> dict[str, str]:
    return {name: _digest(value) for name, value in sorted((state.get("inputs") or {}).items())}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _difference(approved: Step | None, planned: Step | None) -> str:
    if approved is None or planned is None or approved.operations != planned.operations:
        return f"{_operations(planned)} now, {_operations(approved)} as approved"
    if names := _unequal(approved.after, planned.after):
        return f"other values of {names} than approved"
    return f"{_unequal(approved.before, planned.before)} changed since the approval"


def _unequal(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    return ", ".join(sorted(name for name in {*one, *other} if one.get(name) != other.get(name)))


def _operations(step: Step | None) -> str:
    return ", ".join(step.operations) if step else "nothing"


def _shown(urn: str) -> str:
    types, name = urn.split("::", 3)[2:]
    return f"{name} ({types.rpartition('$')[2]})"
