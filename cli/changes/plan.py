"""Capacity and cost of a stack, from the outputs that its program declares.

`capacity` and `cost` return rows. `show` prints them as two tables; the dashboard renders the same rows as HTML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cli.changes.mock_program import Graph
from cli.errors import UserError

CAPACITY, COST, RELEASE = "capacity", "monthly_cost", "release"
"""Outputs of the program. `infra/planning/capacity.py` and `infra/planning/cost.py` define the first two."""


@dataclass(frozen=True)
class CapacityRow:
    name: str
    value: str


@dataclass(frozen=True)
class CostRow:
    item: str
    basis: str
    """Quantity and unit price."""
    amount: str
    """US dollars a month."""


@dataclass(frozen=True)
class Cost:
    price_date: str
    rows: list[CostRow]
    total: CostRow
    unpriced: list[str]
    """Items without a list price, which the total does not contain."""
    excluded: list[str]
    """Kinds of cost that the estimate ignores."""


def show(graph: Graph, console: Console) -> None:
    """Print both tables. Raises `UserError` if the program exports no capacity or no cost."""
    missing = [name for name in (CAPACITY, COST) if name not in graph.outputs]
    if missing:
        raise UserError(f"the program does not export {' and '.join(missing)}: infra/__main__.py must export both")
    table = _table("Capacity", "what", "figure")
    for row in capacity(graph.outputs[CAPACITY]):
        table.add_row(row.name, row.value)
    console.print(table)
    estimate = cost(graph.outputs[COST])
    table = _table(f"Cost, list prices of {estimate.price_date}", "item", "basis")
    table.add_column("USD a month", justify="right")
    for line in estimate.rows:
        table.add_row(line.item, line.basis, line.amount)
    table.add_section()
    table.add_row(estimate.total.item, estimate.total.basis, estimate.total.amount, style="bold")
    console.print(table)
    for item in estimate.unpriced:
        console.print(f"  not in the sum: {item}", highlight=False)
    console.print(f"  not counted: {'; '.join(estimate.excluded)}", highlight=False)


def capacity(plan: Mapping[str, Any]) -> list[CapacityRow]:
    """Return the rows for the output `capacity`."""
    target = "no target" if plan["target_rps"] is None else f"target {plan['target_rps']:g} requests a second"
    for_all = f"{plan['nodes_at_most']} for {plan['replicas_max']} with the additional replicas of a rollout"
    system = f"{plan['system_nodes']} system ({plan['system_node_size']})"
    return [
        CapacityRow("replicas", f"{plan['replicas']} of {plan['replicas_min']} to {plan['replicas_max']} ({target})"),
        CapacityRow("the router adds a replica above", f"{plan['utilisation']} % utilisation"),
        CapacityRow("highest load", f"{plan['max_rps']:g} requests a second"),
        CapacityRow(
            "request of a replica",
            f"{plan['replica_cpu']}m CPU, {plan['replica_memory']} MiB (sidecar included)",
        ),
        CapacityRow(
            f"allocatable on a {plan['node_size']}",
            f"{plan['node_cpu']}m CPU, {plan['node_memory']} MiB: {plan['replicas_per_node']} replicas",
        ),
        CapacityRow("scoring nodes needed", f"{plan['nodes_at_peak']} for {plan['replicas']} replicas, {for_all}"),
        CapacityRow(
            "nodes of the pools",
            f"{system}, {plan['nodes_min']} to {plan['nodes_max']} scoring ({plan['node_size']})",
        ),
        CapacityRow("inference routers", str(plan["routers"])),
    ]


def cost(estimate: Mapping[str, Any]) -> Cost:
    """Return the rows for the output `monthly_cost`."""
    least = "at least " if estimate["unpriced"] else ""
    return Cost(
        price_date=str(estimate["price_date"]),
        rows=[CostRow(item, estimate["basis"][item], f"{amount:,.2f}") for item, amount in estimate["lines"].items()],
        total=CostRow("total", "", f"{least}{estimate['total']:,.2f}"),
        unpriced=list(estimate["unpriced"]),
        excluded=list(estimate["left_out"]),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, box=box.SIMPLE, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    return table
