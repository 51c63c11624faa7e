"""The budget through the real engine in later months: only the program's clock is moved, not Azure's."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testing.arm.azure_native import Engine, engine
from testing.sandbox.process import RunningSandbox, running_sandbox

__all__ = ["engine"]

pytestmark = pytest.mark.stack

PROGRAM = """
from datetime import UTC, datetime
from unittest import mock

import pulumi

from infra.monitoring import budget
from infra.config.settings import BudgetSettings

config = pulumi.Config()
with mock.patch.object(budget, "datetime") as clock:
    clock.now.return_value = datetime.fromisoformat(config.require("day"))
    budget.declare(
        "budget",
        budget_name=config.require("name"),
        subscription_id=pulumi.Config("azure-native").require("subscriptionId"),
        resource_groups=["g"],
        budget=BudgetSettings(monthly=config.require_int("amount")),
        emails=["a@b.example"],
        parent=pulumi.ComponentResource("test:index:Parent", "parent"),
    )
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud") / "sandbox") as running:
        yield running


def test_budget_keeps_its_first_month_until_it_is_renamed(engine: Engine, cloud: RunningSandbox) -> None:
    engine.environment = {**engine.environment, **cloud.environment}
    engine.program(PROGRAM)
    engine("stack", "init", "test")
    today = datetime.now(UTC)

    def configure(**values: Any) -> None:
        for key, value in values.items():
            engine("config", "set", key, str(value))

    def budgets() -> dict[str, tuple[str, int]]:
        listed = cloud.arm("GET", "providers/Microsoft.Consumption/budgets").json()["value"]
        return {
            found["name"]: (found["properties"]["timePeriod"]["startDate"][:7], found["properties"]["amount"])
            for found in listed
        }

    later = today + timedelta(days=35)
    engine("config", "set", "azure-native:subscriptionId", cloud.environment["ARM_SUBSCRIPTION_ID"])
    configure(day=later.isoformat(), name="b-1", amount=10)
    engine("up", "--yes", "--skip-preview")
    configure(day=today.isoformat())
    engine("preview", "--expect-no-changes")

    configure(amount=20)
    engine("up", "--yes", "--skip-preview")
    assert budgets() == {"b-1": (f"{later:%Y-%m}", 20)}

    configure(name="b-2")
    steps = {step["op"] for step in json.loads(engine("preview", "--json"))["steps"]} - {"same"}
    assert steps == {"create", "delete"}
    engine("up", "--yes", "--skip-preview")
    assert budgets() == {"b-2": (f"{today:%Y-%m}", 20)}
