"""The largest and oddest bodies that a request may have cost little time and memory."""

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
def test_a_worst_body_costs_little_time_and_memory(service: Running, kind: str) -> None:
    """CPU of the service, by the speed of this machine at present."""
    worst = abuse.WORST[kind]()
    cost = abuse.cost(service, worst)
    assert cost.status == worst.status
    assert cost.seconds <= abuse.BAR_SECONDS * abuse.slowness()
    assert cost.megabytes <= abuse.BAR_MEGABYTES
