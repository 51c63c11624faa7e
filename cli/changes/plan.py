"""Capacity and cost of a stack as two tables, from the outputs that its program declares."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cli.changes.mock_program import Graph
from cli.errors import UserError

CAPACITY, COST, RELEASE = "capacity", "monthly_cost", "release"
"""Outputs of the program; `infra/planning/capacity.py` and `infra/planning/cost.py` say what is in them."""


def show(graph: Graph, console: Console) -> None:
    """Raises `UserError` where the program exports neither figure."""
    missing = [name for name in (CAPACITY, COST) if name not in graph.outputs]
    if missing:
        raise UserError(f"the program exports no {' and no '.join(missing)}: infra/__main__.py has to")
    console.print(capacity(graph.outputs[CAPACITY]))
    console.print(cost(graph.outputs[COST]))
    for found in graph.outputs[COST]["unpriced"]:
        console.print(f"  not in the sum: {found}", highlight=False)
    console.print(f"  not counted: {'; '.join(graph.outputs[COST]['left_out'])}", highlight=False)


def capacity(plan: Mapping[str, Any]) -> Table:
    """Of the output of that name."""
    table = _table("Capacity", "what", "figure")
    wanted = "no target" if plan["target_rps"] is None else f"target {plan['target_rps']:g} requests a second"
    table.add_row("replicas", f"{plan['replicas']} of {plan['replicas_min']} to {plan['replicas_max']} ({wanted})")
    table.add_row("the router adds one above", f"{plan['utilisation']} % use")
    table.add_row("most they serve", f"{plan['max_rps']:g} requests a second")
    table.add_row("a replica asks for", f"{plan['replica_cpu']}m CPU, {plan['replica_memory']} MiB (sidecar included)")
    left = f"{plan['node_cpu']}m CPU, {plan['node_memory']} MiB: {plan['replicas_per_node']} replicas"
    table.add_row(f"a {plan['node_size']} has left", left)
    most = f"{plan['nodes_at_most']} for {plan['replicas_max']}, with what a rollout keeps beside them"
    table.add_row("scoring nodes needed", f"{plan['nodes_at_peak']} for {plan['replicas']} replicas, {most}")
    system = f"{plan['system_nodes']} system ({plan['system_node_size']})"
    pools = f"{system}, {plan['nodes_min']} to {plan['nodes_max']} scoring ({plan['node_size']})"
    table.add_row("nodes of the pools", pools)
    table.add_row("inference routers", str(plan["routers"]))
    return table


def cost(estimate: Mapping[str, Any]) -> Table:
    """Of the output `monthly_cost`."""
    table = _table(f"Cost, list prices of {estimate['price_date']}", "item", "basis")
    table.add_column("USD a month", justify="right")
    for item, amount in estimate["lines"].items():
        table.add_row(item, estimate["basis"][item], f"{amount:,.2f}")
    table.add_section()
    least = "at least " if estimate["unpriced"] else ""
    table.add_row("total", "", f"{least}{estimate['total']:,.2f}", style="bold")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, box=box.SIMPLE, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    return table
