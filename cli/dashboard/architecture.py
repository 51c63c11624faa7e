"""Architecture view: the resources of the stack's state by area, each with its status in Azure, and a drawing.

Azure Resource Manager is queried for each resource that it manages. Other resources (a run, a build, an upload) are
shown as recorded in the state. Does not show resources that the program declares but no `up` has created.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from cli.azure_resource_manager import Arm, NotAnswered
from cli.dashboard.stack_source import EXPECTED_ERRORS, reason
from cli.stacks.state import Resource
from infra.cloud.clients import AzureClients

_PARALLEL_REQUESTS = 4
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
"""Modules of Pulumi's resource types by area. A type of another module is shown in the last area."""
_FLOWS = (
    ("Storage", "Databricks", "rows"),
    ("Databricks", "Azure ML", "model"),
    ("Registry", "AKS", "image"),
    ("Azure ML", "AKS", "traffic"),
)


class Status(StrEnum):
    EXISTS = "exists"
    UNHEALTHY = "not healthy"
    MISSING = "missing"
    RECORDED = "recorded"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ResourceStatus:
    kind: str
    """Type of the resource in words, such as `Storage account`."""
    name: str
    status: Status
    detail: str
    """Reason for the status; empty for a resource that exists."""


@dataclass(frozen=True)
class Area:
    name: str
    resources: list[ResourceStatus]

    @property
    def status(self) -> Status:
        """The worst status of its resources."""
        worst_first = (Status.MISSING, Status.UNHEALTHY, Status.UNKNOWN, Status.EXISTS)
        present = {resource.status for resource in self.resources}
        return next((status for status in worst_first if status in present), Status.RECORDED)

    @property
    def summary(self) -> str:
        """Counts by status, such as `2 of 2 exist, 1 recorded`."""
        checked = [resource for resource in self.resources if resource.status is not Status.RECORDED]
        existing = sum(resource.status is Status.EXISTS for resource in checked)
        recorded = len(self.resources) - len(checked)
        counts = [f"{existing} of {len(checked)} exist"] if checked else []
        return ", ".join(counts + ([f"{recorded} recorded"] if recorded else []))

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """Kinds of resources with their counts. The rarest come first: they give the area its name."""
        counts: dict[str, int] = {}
        for resource in self.resources:
            counts[resource.kind] = counts.get(resource.kind, 0) + 1
        return sorted(counts.items(), key=lambda kind: kind[1])


class _ArmResource(BaseModel):
    properties: dict[str, Any] | None = None

    @property
    def state(self) -> str:
        return str((self.properties or {}).get("provisioningState") or "")


def areas(resources: Iterable[Resource]) -> list[Area]:
    """Query the status of all resources and group them. A failed request yields `Status.UNKNOWN`, not an error."""
    listed = list(resources)
    grouped: dict[str, list[ResourceStatus]] = {name: [] for name in _AREAS}
    for resource, (status, detail) in zip(listed, _query_all(listed), strict=True):
        module, _, kind = resource.kind.partition(":")
        name = next((area for area, modules in _AREAS.items() if module in modules), list(_AREAS)[-1])
        grouped[name].append(ResourceStatus(_in_words(kind), resource.name or resource.id, status, detail))
    return [Area(name, members) for name, members in grouped.items() if members]


def _query_all(resources: Sequence[Resource]) -> list[tuple[Status, str]]:
    try:
        cloud = AzureClients.discover()
        credential = cloud.credential()
        credential.get_token(cloud.scope)  # fill the cache once, before parallel requests need the token
        arm = Arm(cloud.resource_manager, credential, cloud.scope)
    except EXPECTED_ERRORS as error:
        detail = reason(error)
        return [(Status.UNKNOWN, detail) if resource.api_version else _recorded() for resource in resources]
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        return list(pool.map(lambda resource: _query(arm, resource), resources))


def _query(arm: Arm, resource: Resource) -> tuple[Status, str]:
    if not resource.api_version or not resource.id.startswith("/"):
        return _recorded()
    try:
        in_azure = arm.get(_ArmResource, resource.id, resource.api_version)
    except NotAnswered as error:
        return Status.UNKNOWN, str(error)
    if in_azure is None:
        return Status.MISSING, "in the state, but not in Azure"
    if in_azure.state in ("", "Succeeded"):
        return Status.EXISTS, ""
    return Status.UNHEALTHY, f"provisioning state {in_azure.state}"


def _recorded() -> tuple[Status, str]:
    return Status.RECORDED, "recorded in the stack's state; Azure Resource Manager does not manage such resources"


def _in_words(kind: str) -> str:
    """Return `Storage account` for `StorageAccount`."""
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


def drawing(areas: Sequence[Area], narrow: bool) -> Drawing:
    """Lay out the areas: in three columns in the order of a release, or in one column for a narrow screen."""
    width, height, gap = (300, 112, 30) if narrow else (236, 128, 72)
    boxes = {}
    for number, area in enumerate(areas):
        column, row = (0, number) if narrow else _WIDE[area.name]
        x, y = 2 + column * (width + gap), 2 + row * (height + (gap if narrow else 46))
        boxes[area.name] = Box(area, x, y, width, height, _lines(area))
    arrows = [
        _arrow(boxes[start], boxes[end], label)
        for start, end, label in _FLOWS
        if start in boxes and end in boxes and (not narrow or _adjacent(areas, start, end))
    ]
    across = max((box.x + width for box in boxes.values()), default=0) + 2
    down = max((box.y + height for box in boxes.values()), default=0) + 2
    return Drawing(across, down, list(boxes.values()), arrows)


def _adjacent(areas: Sequence[Area], start: str, end: str) -> bool:
    names = [area.name for area in areas]
    return names.index(end) == names.index(start) + 1


def _lines(area: Area) -> list[str]:
    lines = [f"{kind}, {count}" if count > 1 else kind for kind, count in area.kinds]
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"and {len(lines) - _LINES + 1} more kinds"]


def _arrow(start: Box, end: Box, label: str) -> Arrow:
    if start.x == end.x:  # one below the other
        x, top, bottom = start.x + start.width // 2, start.y + start.height, end.y
        return Arrow(f"M{x} {top} V{bottom - 7}", label, x + 10, (top + bottom) // 2 + 4, "start")
    y, left, right = start.y + start.height // 2, start.x + start.width, end.x
    if start.y == end.y and right - left < start.width:
        return Arrow(f"M{left} {y} H{right - 7}", label, (left + right) // 2 - 2, y - 8)
    # Lead the arrow below the box in between.
    low = start.y + start.height + 22
    near, far = start.x + start.width - 30, end.x + 30
    return Arrow(
        f"M{near} {start.y + start.height} V{low} H{far} V{end.y + end.height + 7}", label, (near + far) // 2, low - 6
    )
