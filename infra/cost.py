"""What a stack costs a month, from the resources the program declares and a dated price list (`prices.yaml`).

The meter is a transformation of the program, like the tags: it sees what is declared, in a preview and under mocks
alike, and needs no cloud. What has no price in the list is said and left out of the sum, never guessed. Does not know
what depends on use (traffic, storage, logs): `left_out` names it.

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

from infra.compatibility import machines
from infra.settings import Settings

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
    left_out: tuple[str, ...]
    price_date: str

    @property
    def total(self) -> float:
        """USD a month, of what has a price."""
        return sum(line.monthly or 0 for line in self.lines)

    def as_output(self) -> dict[str, Any]:
        priced = [line for line in self.lines if line.monthly is not None]
        return {
            "total": round(self.total, 2),
            "lines": {line.item: round(line.monthly or 0, 2) for line in priced},
            "basis": {line.item: line.basis for line in priced},
            "unpriced": [f"{line.item}: {line.basis}" for line in self.lines if line.monthly is None],
            "left_out": list(self.left_out),
            "price_date": self.price_date,
        }


class Meter:
    """Keeps what is declared after `started`."""

    def __init__(self) -> None:
        self._declared: list[tuple[str, _Inputs]] = []

    @classmethod
    def started(cls) -> Self:
        meter = cls()
        pulumi.runtime.register_stack_transformation(lambda args: meter.see(args.type_, args.props))
        return meter

    def see(self, token: str, inputs: _Inputs) -> None:
        """Inputs as the program gives them: names in snake_case, nested values as the SDK's argument classes."""
        self._declared.append((token, dict(inputs)))

    def estimate(self, settings: Settings) -> Estimate:
        """Every priced resource, one line an item however many resources it comes from."""
        charges: dict[str, list[_Charge]] = {}
        for token, inputs in self._declared:
            if rule := _RULES.get(token):
                for charge in rule(inputs, settings):
                    charges.setdefault(charge.item, []).append(charge)
        return Estimate(
            tuple(_line(item, found) for item, found in charges.items()),
            tuple(_prices()["left_out"]),
            str(_prices()["date"]),
        )


@dataclass(frozen=True)
class _Charge:
    item: str
    count: float
    what: str
    each: float | None
    """USD a month for one; None if there is no price for `what`."""


def _line(item: str, charges: list[_Charge]) -> Line:
    missing = sorted({charge.what for charge in charges if charge.each is None})
    if missing:
        return Line(item, None, f"no price for {', '.join(missing)}")
    kinds = dict.fromkeys(charge.what for charge in charges)
    counts = {what: sum(charge.count for charge in charges if charge.what == what) for what in kinds}
    total = sum(charge.count * (charge.each or 0) for charge in charges)
    return Line(item, total, " + ".join(f"{count:g} x {what}" for what, count in counts.items()))


def _cluster(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    tier = _at(inputs, "sku", "tier")
    yield _hourly("Kubernetes control plane", 1, f"{tier} tier", _prices()["by_hour"]["cluster"].get(tier))
    for pool in _at(inputs, "agent_pool_profiles") or ():
        yield from _nodes("system pool", _at(pool, "count"), _at(pool, "vm_size"), settings)
    yield from _listed("load balancers", "load_balancer")
    if not settings.network.is_private:
        yield from _listed("public addresses", "public_address", 2)  # of what leaves the cluster, and of the endpoint


def _pool(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    average = (inputs["min_count"] + inputs["max_count"]) / 2
    yield from _nodes("scoring pool", average, inputs["vm_size"], settings)


def _nodes(item: str, count: float, size: str, settings: Settings) -> Iterator[_Charge]:
    yield _machines(item, count, size, settings.location, _prices()["hours_per_month"])
    machine = machines().get(size)
    if machine and not machine.local_disk:
        disks = _prices()["by_month"]["node_disk"]
        price = disks[max(least for least in disks if least <= machine.vcpus)]
        yield _Charge("disks of nodes", count, f"{price} a month{_unverified('node_disk')}", price)


def _machines(item: str, count: float, size: str, region: str, hours: float) -> _Charge:
    price = _prices()["vm_hours"].get(region, {}).get(size)
    if price is None:
        return _Charge(item, count, f"{size} in {region}", None)
    return _Charge(item, count, f"{size} for {hours:g} h at {price}", price * hours)


def _training(_inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    count, size = settings.training.workers + 1, settings.training.node_type
    hours = settings.training.run_hours * _prices()["runs_per_month"]
    yield _machines("training machines", count, size, settings.location, hours)
    unit, units = _prices()["databricks"]["unit"], _prices()["databricks"]["units_per_hour"].get(size)
    if units is None:
        yield _Charge("training Databricks units", count, f"the units of {size}", None)
    else:
        what = f"{units:g} units an hour for {hours:g} h at {unit}"
        yield _Charge("training Databricks units", count, what, units * unit * hours)


def _registry(inputs: _Inputs, _settings: Settings) -> Iterator[_Charge]:
    tier = _at(inputs, "sku", "name")
    price = _prices()["by_day"]["registry"].get(tier)
    yield _hourly("container registry", 1, f"{tier} tier", None if price is None else price / 24)


def _build_machines(inputs: _Inputs, _settings: Settings) -> Iterator[_Charge]:
    yield _Charge("registry build machines", inputs["count"], f"a registry's pool of tier {inputs['tier']}", None)


def _runners(inputs: _Inputs, settings: Settings) -> Iterator[_Charge]:
    yield from _nodes("runners", _at(inputs, "sku", "capacity"), _at(inputs, "sku", "name"), settings)


def _each(item: str, price: str) -> "_Rule":
    return lambda _inputs, _settings: _listed(item, price)


def _listed(item: str, price: str, count: float = 1) -> Iterator[_Charge]:
    monthly, hourly = _prices()["by_month"].get(price), _prices()["by_hour"].get(price)
    if monthly is None:
        yield _hourly(item, count, f"{hourly} an hour{_unverified(price)}", hourly)
    else:
        yield _Charge(item, count, f"{monthly} a month{_unverified(price)}", monthly)


def _hourly(item: str, count: float, what: str, price: float | None) -> _Charge:
    return _Charge(item, count, what, None if price is None else price * _prices()["hours_per_month"])


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
    """What stands at a path of mappings and argument classes."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return value


def _unverified(price: str) -> str:
    return " (to be verified)" if price in _prices()["to_be_verified"] else ""


@lru_cache
def _prices() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("prices.yaml").read_text())
    return found
