"""Monthly cost of a stack, from the resources that the program declares and dated price lists: `prices.yaml`, and for
virtual machines `vm_prices.yaml`.

The recorder is a transformation of the program, like the tags: it receives every declared resource, in a preview and
under mocks, and needs no cloud. An item without a price in the lists is reported and not part of the sum, never
guessed; a price that the lists have only for another region is used and marked with that region. Does not estimate
costs that depend on use (traffic, storage, logs): `excluded` names them.

Assumptions: 730 hours a month; an autoscaling pool runs midway between its bounds on average; training runs once a day
(30.4 times a month) for `training:run_hours` each, on its workers and one driver of the same size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pulumi
import yaml

from infra.config.settings import Settings
from infra.planning.compatibility import machines

_Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    item: str
    monthly: float | None
    """USD; None where the price list has no row."""
    basis: str


@dataclass(frozen=True)
class Estimate:
    lines: tuple[Line, ...]
    excluded: tuple[str, ...]
    price_date: str

    @property
    def total(self) -> float:
        """USD a month of all items with a price."""
        return sum(line.monthly or 0 for line in self.lines)

    def as_output(self) -> dict[str, Any]:
        priced = [line for line in self.lines if line.monthly is not None]
        return {
            "total": round(self.total, 2),
            "lines": {line.item: round(line.monthly or 0, 2) for line in priced},
            "basis": {line.item: line.basis for line in priced},
            "unpriced": [f"{line.item}: {line.basis}" for line in self.lines if line.monthly is None],
            "left_out": list(self.excluded),
            "price_date": self.price_date,
        }


class CostRecorder:
    """Records the resources that are declared after `started`."""

    def __init__(self) -> None:
        self._declared: list[tuple[str, _Inputs]] = []

    @classmethod
    def started(cls) -> Self:
        recorder = cls()
        pulumi.runtime.register_stack_transformation(lambda args: recorder.record(args.type_, args.props))
        return recorder

    def record(self, token: str, inputs: _Inputs) -> None:
        """Record a resource's type and its inputs: names in snake_case, nested values as the SDK's argument classes."""
        self._declared.append((token, dict(inputs)))

    def estimate(self, settings: Settings) -> Estimate:
        """Return one line for each item, which may sum up several resources."""
        charges: dict[str, list[_Charge]] = {}
        for token, inputs in self._declared:
            if rule := _RULES.get(token):
                for charge in rule(inputs, settings):
                    charges.setdefault(charge.item, []).append(charge)
        return Estimate(
            tuple(_line(item, parts) for item, parts in charges.items()),
            tuple(_prices()["left_out"]),
            str(_vm_list()["date"]),
        )


@dataclass(frozen=True)
class _Charge:
    item: str
    count: float
    unit: str
    """The priced thing, as the basis shows it."""
    each: float | None
    """USD a month for one unit; None if the lists have no price."""


def _line(item: str, charges: list[_Charge]) -> Line:
    missing = sorted({charge.unit for charge in charges if charge.each is None})
    if missing:
        return Line(item, None, f"no price for {', '.join(missing)}")
    units = dict.fromkeys(charge.unit for charge in charges)
    counts = {unit: sum(charge.count for charge in charges if charge.unit == unit) for unit in units}
    total = sum(charge.count * (charge.each or 0) for charge in charges)
    return Line(item, total, " + ".join(f"{count:g} x {unit}" for unit, count in counts.items()))


def _cluster(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    tier = _at(inputs, "sku", "tier")
    yield _listed("Kubernetes control plane", f"cluster_{str(tier).lower()}", settings, unit_name=f"{tier} tier")
    for pool in _at(inputs, "agent_pool_profiles") or ():
        yield from _nodes("system pool", _at(pool, "count"), _at(pool, "vm_size"), settings)
    yield _listed("load balancers", "load_balancer", settings)
    if not settings.network.is_private:
        # One for traffic that leaves the cluster, one for the endpoint.
        yield _listed("public addresses", "public_address", settings, count=2)


def _pool(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    average = (inputs["min_count"] + inputs["max_count"]) / 2
    yield from _nodes("scoring pool", average, inputs["vm_size"], settings)


def _nodes(item: str, count: float, size: str, settings: Settings) -> Iterator[_Charge]:
    yield _machines(item, count, size, settings.location, _prices()["hours_per_month"])
    machine = machines().get(size)
    if machine and not machine.local_disk:
        gib = max((least, gib) for least, gib in _prices()["node_disk"].items() if least <= machine.vcpus)[1]
        yield _listed("disks of nodes", f"disk_{gib}", settings, count=count, unit_name=f"{gib} GiB")


def _machines(item: str, count: float, size: str, region: str, hours: float) -> _Charge:
    machine = machines().get(size)
    rate = _vm_prices().get(region, {}).get(machine.series) if machine else None
    if machine is None or rate is None:
        return _Charge(item, count, f"{size} in {region}", None)
    price = round(rate * machine.vcpus, 4)
    return _Charge(item, count, f"{size} for {hours:g} h at {price:g}", price * hours)


def _training(_inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    count, size = settings.training.workers + 1, settings.training.node_type
    hours = settings.training.run_hours * _prices()["runs_per_month"]
    yield _machines("training machines", count, size, settings.location, hours)
    databricks, machine = _prices()["databricks"], machines().get(size)
    unit = databricks["unit"]["hour"]
    units = databricks["units_per_hour"].get(machine.series, {}).get(machine.vcpus) if machine else None
    if units is None:
        yield _Charge("training Databricks units", count, f"the units of {size}", None)
    else:
        basis = f"{units:g} units an hour for {hours:g} h at {unit:g}"
        yield _Charge("training Databricks units", count, basis, units * unit * hours)


def _registry(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    tier = _at(inputs, "sku", "name")
    yield _listed("container registry", f"registry_{str(tier).lower()}", settings, unit_name=f"{tier} tier")


def _build_machines(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    tier = inputs["tier"]
    vcpus = _prices()["build_pool_vcpus"].get(tier)
    if vcpus is None:
        yield _Charge("registry build machines", inputs["count"], f"a registry's pool of tier {tier}", None)
    else:
        count = inputs["count"] * vcpus
        yield _listed("registry build machines", "registry_build_vcpu", settings, count=count, unit_name="vCPU")


def _runners(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    yield from _nodes("runners", _at(inputs, "sku", "capacity"), _at(inputs, "sku", "name"), settings)


def _each(item: str, price: str) -> "_Rule":
    return lambda _inputs, settings: iter([_listed(item, price, settings)])


def _listed(item: str, name: str, settings: Settings, *, count: float = 1, unit_name: str = "") -> _Charge:
    """Charge for `count` units of the list's row `name`; the basis shows `unit_name` before the price."""
    row = _prices()["each"].get(name)
    if row is None:
        return _Charge(item, count, unit_name or name, None)
    hours = _prices()["hours_per_month"]
    unit, in_a_month = next(each for each in (("hour", hours), ("day", hours / 24), ("month", 1)) if each[0] in row)
    article = "an" if unit == "hour" else "a"
    elsewhere = "" if row["region"] in ("Global", settings.location) else f" (price of {row['region']})"
    shown = f"{row[unit]:g} {article} {unit}{elsewhere}"
    return _Charge(item, count, f"{unit_name} at {shown}" if unit_name else shown, row[unit] * in_a_month)


_Rule = Callable[[_Inputs, Settings], Iterator[_Charge]]
_RULES: Mapping[str, _Rule] = {
    "azure-native:containerservice:ManagedCluster": _cluster,
    "azure-native:containerservice:AgentPool": _pool,
    "azure-native:containerregistry:Registry": _registry,
    "azure-native:containerregistry:AgentPool": _build_machines,
    "azure-native:compute:VirtualMachineScaleSet": _runners,
    "azure-native:network:NatGateway": _each("NAT gateway", "nat_gateway"),
    "azure-native:network:PublicIPAddress": _each("public addresses", "public_address"),
    "azure-native:network:PrivateEndpoint": _each("private endpoints", "private_endpoint"),
    "azure-native:privatedns:PrivateZone": _each("private DNS zones", "private_zone"),
    "pulumi-python:dynamic/databricks:TrainingJob": _training,
}


def _at(value: Any, *path: str) -> Any:
    """The value at a path through mappings and argument classes; None if it is missing."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return value


@lru_cache
def _prices() -> Mapping[str, Any]:
    return _read("prices.yaml")


def _vm_prices() -> Mapping[str, Mapping[str, float]]:
    """USD for a vCPU and hour by region and series."""
    rates: Mapping[str, Mapping[str, float]] = _vm_list()["vcpu_hours"]
    return rates


@lru_cache
def _vm_list() -> Mapping[str, Any]:
    return _read("vm_prices.yaml")


def _read(name: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name(name).read_text())
    return content
