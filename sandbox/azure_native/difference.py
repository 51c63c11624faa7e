"""Differences between two sets of inputs, and the inputs after a refresh found changed outputs."""

from collections.abc import Iterable, Iterator
from typing import Any

from pulumi.runtime.proto import provider_pb2 as proto

from sandbox.azure_native.checks import RANDOMLY_NAMED
from sandbox.azure_native.resource_type import ResourceType
from sandbox.azure_native.shape import Properties

_Change = tuple[tuple[str | int, ...], str]
_ABSENT = object()


def difference(
    kind: ResourceType, olds: Properties, news: Properties, ignored: Iterable[str] = ()
) -> proto.DiffResponse:
    """Differences, and which of them replace. `ignored`: dotted paths to skip; at a refresh the engine does not."""
    detailed, replaces = {}, []
    unseen = [tuple(path.split(".")) for path in ignored]
    for path, change in _changes(_comparable(olds), _comparable(news)):
        if any(path[: len(left)] == left for left in unseen):
            continue
        keys = tuple(part for part in path if isinstance(part, str))
        replacing = any(keys[: len(cause)] == cause for cause in kind.replacing)
        written = _written(path)
        detailed[written] = proto.PropertyDiff(
            kind=proto.PropertyDiff.Kind.Value(change + "_REPLACE" * replacing), inputDiff=True
        )
        if replacing:
            replaces.append(written)
    return proto.DiffResponse(
        changes=proto.DiffResponse.DIFF_SOME if detailed else proto.DiffResponse.DIFF_NONE,
        replaces=replaces,
        deleteBeforeReplace=bool(replaces) and not olds.get(RANDOMLY_NAMED, False),
        diffs=sorted({path.partition(".")[0].partition("[")[0] for path in detailed}),
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def drifted(inputs: Any, before: Any, after: Any) -> Any:
    """`inputs` with the changes from `before` to `after`; unchanged values stay as the program wrote them."""
    if before == after:
        return inputs
    if isinstance(inputs, dict) and isinstance(before, dict) and isinstance(after, dict):
        kept = {key: value for key, value in inputs.items() if key in after or key not in before}
        for key, value in after.items():
            if before.get(key, _ABSENT) != value:
                kept[key] = drifted(inputs[key], before.get(key), value) if key in inputs else value
        return kept
    if isinstance(inputs, list) and isinstance(before, list) and isinstance(after, list):
        known = min(len(inputs), len(before))
        return [drifted(inputs[i], before[i], value) if i < known else value for i, value in enumerate(after)]
    return after


def _comparable(inputs: Properties) -> Properties:
    """Inputs normalised as Azure compares them: case and blanks of a location, case of a resource group."""
    same = {key: value for key, value in inputs.items() if not key.startswith("__")}
    if isinstance(same.get("location"), str):
        same["location"] = same["location"].replace(" ", "").lower()
    if isinstance(same.get("resourceGroupName"), str):
        same["resourceGroupName"] = same["resourceGroupName"].lower()
    return same


def _changes(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> Iterator[_Change]:
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif old is _ABSENT or new is _ABSENT:
        yield path, "ADD" if old is _ABSENT else "DELETE"
    elif old != new:
        yield path, "UPDATE"


def _written(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += '["' + part.replace('"', '\\"') + '"]'
    return text
