"""The fault matrix: a fault in a stage of `up` causes a clear message at most, and the next `up` repairs the stack.

Takes more than an hour, so it runs only on request: `pytest tests/end_to_end/faults --faults`, which writes
docs/reliability.md. `tests/end_to_end/test_release_changes.py` tries two of its cells in every test run.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from testing.sandbox.process import in_environment
from testing.stack.fault_matrix import CELL, CELLS, DeployedStack, Fault, Stage, trial
from testing.stack.local_run import LocalRun

pytestmark = [pytest.mark.stack, pytest.mark.faults]

# Models trained on few rows are poor and differ much from each other.
LIMITS = ("auc_drop_max", "log_loss_rise_max", "calibration_gap_max", "calibration_error_max", "unseen_rise_max")
QUICK = {
    **{f"quality:{name}": "1" for name in LIMITS},
    "quality:psi_max": "100",
    "quality:auc_min": "0.5",
    "release:prediction_shift_max": "10",
    "release:probe_seconds": "0.5",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    run = LocalRun(tmp_path_factory.mktemp("faults"))
    try:
        run.up()
        for key, value in QUICK.items():
            run.configure(key, value)
        with in_environment(run.environment):
            deployed = DeployedStack.of(run)
            deployed.trains_on_other_rows()
            assert run.pulumi("up")
            yield deployed
    finally:
        run.down()
    assert run.processes() == []


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(*cell, id="-".join(each.name for each in cell)) for cell in CELLS]
)
def test_next_up_repairs_an_up_that_met_a_fault(
    stack: DeployedStack, stage: Stage, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    outcome = trial(stack, stage, fault)
    record_property(CELL, [stage.name, fault.name, asdict(outcome)])
