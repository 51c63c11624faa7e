"""Tests that the largest and most unusual bodies of a request cost little time and memory."""

from collections.abc import Iterator

import pytest

from benchmarks import abuse
from testing.scoring import Running, make_artefact, scoring_environment, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    toys = make_artefact(tmp_path_factory.mktemp("scoring") / "toys")
    with (
        (toys.folder.parent / "log").open("w") as log,
        serving(scoring_environment(toys.folder, SCORING_BODY_SECONDS=30), log=log) as running,
    ):
        yield running


@pytest.mark.parametrize("kind", abuse.WORST)
def test_worst_body_costs_little_time_and_memory(service: Running, kind: str) -> None:
    """The bar for the service's CPU time is scaled by the present speed of this machine."""
    worst = abuse.WORST[kind]()
    cost = abuse.cost(service, worst)
    assert cost.status == worst.status
    assert cost.seconds <= abuse.BAR_SECONDS * abuse.slowness()
    assert cost.megabytes <= abuse.BAR_MEGABYTES
