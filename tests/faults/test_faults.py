"""Whatever happens to `up` in whichever stage: a clear message at most, and `up` again makes it whole.

Takes an hour and more, so it is run when asked for: `pytest tests/faults --faults`, which writes docs/reliability.md.
Two of its cells are tried with every test run, by test_stack_lifecycle.py.
"""

import platform
from collections.abc import Iterator

import pytest
from fault_matrix import FAULTS, STAGES, Fault, Outcome, Stage, Stand, trial
from stack_fixtures import ROOT, LocalRun

pytestmark = [pytest.mark.stack, pytest.mark.faults]

# Training, which takes longest, comes last.
CELLS = [
    (stage, fault) for fault in FAULTS for stage in sorted(STAGES, key=lambda stage: stage.trains) if fault.fits(stage)
]
# Few rows make poor models, each unlike the last.
LIMITS = ("auc_drop_max", "log_loss_rise_max", "calibration_gap_max", "calibration_error_max", "unseen_rise_max")
QUICK = {
    **{f"quality:{name}": "1" for name in LIMITS},
    "quality:psi_max": "100",
    "quality:auc_min": "0.5",
    "release:drift_max": "10",
    "release:probe_seconds": "0.5",
}
PAGE = ROOT / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    run = LocalRun(tmp_path_factory.mktemp("faults"))
    with pytest.MonkeyPatch.context() as patch:
        try:
            run.up()
            for name, value in run.environment.items():
                patch.setenv(name, value)
            for key, value in QUICK.items():
                run.configure(key, value)
            found = Stand.of(run)
            found.trains_on_other_rows()
            assert run.pulumi("up")
            yield found
        finally:
            run.down()
    assert run.processes() == []


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the cells found; written down where all were to be tried."""
    found: dict[tuple[str, str], Outcome] = {}
    yield found
    if request.config.getoption("--faults"):
        PAGE.write_text(page(found))


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(*cell, id="-".join(each.name for each in cell)) for cell in CELLS]
)
def test_up_again_makes_whole_what_a_fault_left(
    stand: Stand, stage: Stage, fault: Fault, outcomes: dict[tuple[str, str], Outcome]
) -> None:
    outcomes[stage.name, fault.name] = trial(stand, stage, fault)


def page(found: dict[tuple[str, str], Outcome]) -> str:
    names = [fault.name for fault in FAULTS]
    lines = [
        "# Reliability",
        "",
        "Each stage of `up` with each fault in it, on the sandbox, through the real engine: written by",
        "`pytest tests/faults --faults`. A cell says how `up` went on: `at once` if the run that met the fault",
        "succeeded, else the seconds that the next `up` took; `-` if the fault cannot be there. In every cell but",
        "those of `cloud dies`, a probe asked the endpoint twenty times a second, and each answer was 200. After",
        "each: one job, one model version for each model trained, one live deployment, no secret in log or state.",
        "",
        f"{len(found)} cells, {sum(each.asked for each in found.values()):,} requests, "
        f"{sum(each.lost for each in found.values())} lost. {platform.machine()}, 2 cores.",
        "",
        "| stage | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for stage in STAGES:
        cells = [_said(found.get((stage.name, fault.name)), fault.fits(stage)) for fault in FAULTS]
        lines.append(f"| {stage.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _said(outcome: Outcome | None, fits: bool) -> str:
    if outcome is None:
        return "not tried" if fits else "-"
    return "at once" if outcome.first else f"{outcome.seconds:.0f} s"
