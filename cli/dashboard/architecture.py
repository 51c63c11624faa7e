"""The architecture as the stack's state has it, each thing with whether it stands, and a drawing of it.

Azure Resource Manager is asked of everything it knows. Of the rest (a run, a build, an upload) the state alone tells,
and the page says so. Does not draw what the program declares but the stack has not made.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from cli.azure_resource_manager import Arm, NotAnswered
from cli.dashboard.stack_source import UNANSWERED, reason
from cli.stacks.state import Resource
from infra.cloud.clients import AzureClients

_AT_ONCE = 4
_AREAS = {
    "Storage": ("storage", "lake"),
    "Databricks": ("databricks",),
    "Azure ML": ("machinelearningservices", "machinelearning"),
    "Registry": ("containerregistry",),
    "AKS": ("containerservice", "kubernetesconfiguration"),
    "Monitoring": ("operationalinsights", "applicationinsights", "monitor", "consumption", "portal"),
    "Network": ("network", "privatedns"),
    "Access": ("keyvault", "managedidentity", "authorization", "resources"),
}
"""By module of the resource types, as Pulumi names them; what is of no area is shown with the last."""
_FLOWS = (
    ("Storage", "Databricks", "rows"),
    ("Databricks", "Azure ML", "model"),
    ("Registry", "AKS", "image"),
    ("Azure ML", "AKS", "traffic"),
)


class Standing(StrEnum):
    STANDS = "stands"
    UNWELL = "does not stand well"
    GONE = "is gone"
    RECORDED = "recorded"
    UNASKED = "not known"


@dataclass(frozen=True)
class Thing:
    kind: str
    name: str
    standing: Standing
    says: str
    """Where it is more than `standing` tells."""


@dataclass(frozen=True)
class Area:
    name: str
    things: list[Thing]

    @property
    def standing(self) -> Standing:
        """The worst of its things."""
        worst = (Standing.GONE, Standing.UNWELL, Standing.UNASKED, Standing.STANDS)
        found = {thing.standing for thing in self.things}
        return next((one for one in worst if one in found), Standing.RECORDED)

    @property
    def summary(self) -> str:
        asked = [thing for thing in self.things if thing.standing is not Standing.RECORDED]
        stand = sum(thing.standing is Standing.STANDS for thing in asked)
        recorded = len(self.things) - len(asked)
        told = [f"{stand} of {len(asked)} stand"] if asked else []
        return ", ".join(told + ([f"{recorded} recorded"] if recorded else []))

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """The kinds of its things with their number, the fewest (those it is named for) first."""
        counts: dict[str, int] = {}
        for thing in self.things:
            counts[thing.kind] = counts.get(thing.kind, 0) + 1
        return sorted(counts.items(), key=lambda kind: kind[1])


class _Found(BaseModel):
    properties: dict[str, Any] | None = None

    @property
    def state(self) -> str:
        return str((self.properties or {}).get("provisioningState") or "")


def areas(resources: Iterable[Resource]) -> list[Area]:
    """Of everything in the state, asked just now. Never fails for want of an answer: it is `Standing.UNASKED` then."""
    found = list(resources)
    grouped: dict[str, list[Thing]] = {name: [] for name in _AREAS}
    for resource, (standing, says) in zip(found, _ask_all(found), strict=True):
        module, _, kind = resource.kind.partition(":")
        name = next((area for area, modules in _AREAS.items() if module in modules), list(_AREAS)[-1])
        grouped[name].append(Thing(_spaced(kind), resource.name or resource.id, standing, says))
    return [Area(name, things) for name, things in grouped.items() if things]


def _ask_all(resources: Sequence[Resource]) -> list[tuple[Standing, str]]:
    try:
        cloud = AzureClients.discover()
        credential = cloud.credential()
        credential.get_token(cloud.scope)  # once, and not by each that asks at the same time
        arm = Arm(cloud.resource_manager, credential, cloud.scope)
    except UNANSWERED as error:
        said = reason(error)
        return [(Standing.UNASKED, said) if resource.api_version else _recorded() for resource in resources]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda resource: _ask(arm, resource), resources))


def _ask(arm: Arm, resource: Resource) -> tuple[Standing, str]:
    if not resource.api_version or not resource.id.startswith("/"):
        return _recorded()
    try:
        found = arm.get(_Found, resource.id, resource.api_version)
    except NotAnswered as error:
        return Standing.UNASKED, str(error)
    if found is None:
        return Standing.GONE, "the state has it, Azure Resource Manager does not"
    if found.state in ("", "Succeeded"):
        return Standing.STANDS, ""
    return Standing.UNWELL, f"Azure Resource Manager says {found.state}"


def _recorded() -> tuple[Standing, str]:
    return Standing.RECORDED, "of the stack's state; Azure Resource Manager does not know such things"


def _spaced(kind: str) -> str:
    """`StorageAccount` as `Storage account`."""
    return "".join(f" {c.lower()}" if c.isupper() and i else c for i, c in enumerate(kind))


# --- the drawing


@dataclass(frozen=True)
class Box:
    area: Area
    x: int
    y: int
    width: int
    height: int
    lines: list[str]


@dataclass(frozen=True)
class Arrow:
    path: str
    label: str
    x: int
    y: int
    anchor: str = "middle"


@dataclass(frozen=True)
class Drawing:
    width: int
    height: int
    boxes: list[Box]
    arrows: list[Arrow]


_LINES = 4
_WIDE = {
    "Storage": (0, 0),
    "Databricks": (1, 0),
    "Azure ML": (2, 0),
    "Registry": (0, 1),
    "AKS": (2, 1),
    "Monitoring": (1, 1),
    "Access": (0, 2),
    "Network": (1, 2),
}


def drawing(found: Sequence[Area], narrow: bool) -> Drawing:
    """In three columns along the way of a release, or one below the other for a narrow screen."""
    width, height, gap = (300, 112, 30) if narrow else (236, 128, 72)
    boxes = {}
    for number, area in enumerate(found):
        column, row = (0, number) if narrow else _WIDE[area.name]
        x, y = 2 + column * (width + gap), 2 + row * (height + (gap if narrow else 46))
        boxes[area.name] = Box(area, x, y, width, height, _lines(area))
    arrows = [
        _arrow(boxes[start], boxes[end], label)
        for start, end, label in _FLOWS
        if start in boxes and end in boxes and (not narrow or _next(found, start, end))
    ]
    across = max((box.x + width for box in boxes.values()), default=0) + 2
    down = max((box.y + height for box in boxes.values()), default=0) + 2
    return Drawing(across, down, list(boxes.values()), arrows)


def _next(found: Sequence[Area], start: str, end: str) -> bool:
    names = [area.name for area in found]
    return names.index(end) == names.index(start) + 1


def _lines(area: Area) -> list[str]:
    told = [f"{kind}, {count}" if count > 1 else kind for kind, count in area.kinds]
    return told if len(told) <= _LINES else [*told[: _LINES - 1], f"and {len(told) - _LINES + 1} kinds more"]


def _arrow(start: Box, end: Box, label: str) -> Arrow:
    if start.x == end.x:  # one below the other
        x, top, bottom = start.x + start.width // 2, start.y + start.height, end.y
        return Arrow(f"M{x} {top} V{bottom - 7}", label, x + 10, (top + bottom) // 2 + 4, "start")
    y, left, right = start.y + start.height // 2, start.x + start.width, end.x
    if start.y == end.y and right - left < start.width:
        return Arrow(f"M{left} {y} H{right - 7}", label, (left + right) // 2 - 2, y - 8)
    # Past the box in between: below it.
    low = start.y + start.height + 22
    near, far = start.x + start.width - 30, end.x + 30
    return Arrow(
        f"M{near} {start.y + start.height} V{low} H{far} V{end.y + end.height + 7}", label, (near + far) // 2, low - 6
    )
