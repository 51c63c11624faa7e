"""What `benchmarks/preview.py` measures, held where other work on the machine cannot tip it."""

from benchmarks import preview
from cli.paths import PROJECT


def test_the_program_of_a_production_stack_keeps_within_its_memory_and_does_not_multiply_its_work() -> None:
    cost = preview.of_program(PROJECT / "Pulumi.prod-westeurope.yaml")
    assert cost.resources > 100
    assert cost.megabytes <= preview.MEGABYTES, cost
    # The bar itself is for an idle machine (docs/benchmarks.md).
    assert cost.cpu_seconds <= 3 * preview.CPU_SECONDS, cost
