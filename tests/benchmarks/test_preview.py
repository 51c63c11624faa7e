"""Bounds on the figures of `benchmarks/preview.py`, wide enough that other work on the machine does not break them."""

from benchmarks import preview
from cli.paths import PROJECT


def test_program_of_a_production_stack_stays_within_its_memory_and_three_times_its_cpu_bar() -> None:
    cost = preview.of_program(PROJECT / "Pulumi.prod-westeurope.yaml")
    assert cost.resources > 100
    assert cost.megabytes <= preview.MEGABYTES, cost
    # The bar itself is for an idle machine (docs/benchmarks.md).
    assert cost.cpu_seconds <= 3 * preview.CPU_SECONDS, cost
