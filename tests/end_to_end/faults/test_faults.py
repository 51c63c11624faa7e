"""Whatever happens to `up` in whichever stage: a clear message at most, and `up` again makes it whole.

Takes an hour and more, so it is run when asked for: `pytest tests/end_to_end/faults --faults`, which writes
docs/reliability.md. Two of its cells are tried with every test run, by test_stack_lifecycle.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from testing.sandbox.process import in_environment
from testing.stack.fault_matrix import CELL, CELLS, Fault, Stage, Stand, trial
from testing.stack.local_run import LocalRun

pytestmark = [pytest.mark.stack, pytest.mark.faults]

# Few rows make poor models, each unlike the last.
LIMITS = ("auc_drop_max", "log_loss_rise_max", "calibration_gap_max", "calibration_error_max", "unseen_rise_max")
QUICK = {
    **{f"quality:{name}": "1" for name in LIMITS},
    "quality:psi_max": "100",
    "quality:auc_min": "0.5",
    "release:prediction_shift_max": "10",
    "release:probe_seconds": "0.5",
}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    run = LocalRun(tmp_path_factory.mktemp("faults"))
    try:
        run.up()
        for key, value in QUICK.items():
            run.configure(key, value)
        with in_environment(run.environment):
            found = Stand.of(run)
            found.trains_on_other_rows()
            assert run.pulumi("up")
            yield found
    finally:
        run.down()
    assert run.processes() == []


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(*cell, id="-".join(each.name for each in cell)) for cell in CELLS]
)
def test_up_again_makes_whole_what_a_fault_left(
    stand: Stand, stage: Stage, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    found = trial(stand, stage, fault)
    record_property(CELL, [stage.name, fault.name, asdict(found)])
