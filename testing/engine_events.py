"""Events of Pulumi's engine, as `pulumi preview --json` prints them, for tests of their reader and of the report."""

import json
from collections.abc import Iterable
from typing import Any

from cli.changes import preview

ACCOUNT, POOL = "azure-native:storage:StorageAccount", "azure-native:containerservice:AgentPool"


def step(op: str, token: str, name: str, old: Any = None, new: Any = None, **more: Any) -> dict[str, Any]:
    """One `resourcePreEvent` as the engine prints it; `more` is `keys`, `diffs` or `detailedDiff` (path to kind)."""
    details = {path: {"diffKind": kind, "inputDiff": True} for path, kind in more.pop("detailedDiff", {}).items()}
    urn = f"urn:pulumi:dev::personalization::personalization:area:Part${token}::{name}"
    sides = {side: inputs and {"type": token, "inputs": inputs} for side, inputs in (("old", old), ("new", new))}
    return {
        "resourcePreEvent": {
            "metadata": {"op": op, "urn": urn, "type": token, "detailedDiff": details, **sides, **more}
        }
    }


def stack(before: Any = None, after: Any = None) -> list[dict[str, Any]]:
    token = "pulumi:pulumi:Stack"
    metadata = {"op": "same", "urn": f"urn:pulumi:dev::personalization::{token}::personalization-dev", "type": token}
    metadata |= {"old": {"outputs": before or {}}, "new": {"outputs": after or {}}}
    return [{"resourcePreEvent": {"metadata": metadata}}, {"resOutputsEvent": {"metadata": metadata}}]


def policy(level: str, name: str, message: str) -> dict[str, Any]:
    urn = f"urn:pulumi:dev::personalization::{ACCOUNT}::lake"
    found = {"resourceUrn": urn, "message": message, "policyName": name, "enforcementLevel": level}
    return {"policyEvent": found}


def log_line(severity: str, message: str) -> dict[str, Any]:
    return {"diagnosticEvent": {"severity": severity, "message": message}}


def read_preview(events: Iterable[dict[str, Any]], result: str = "succeeded") -> preview.Preview:
    lines = [*events, {"summaryEvent": {"result": result}}]
    return preview.read("\n".join(map(json.dumps, lines)), "dev")
