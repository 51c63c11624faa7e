"""Settings `budget:`: the monthly budget and its notifications."""

from typing import Annotated

from pydantic import Field

from infra.config.settings.fields import Group


class BudgetSettings(Group):
    monthly: int | None = Field(
        None,
        ge=1,
        description="Monthly budget in the subscription's currency. Unset: no budget is created.",
        examples=[3000],
    )
    # Source: azure-mgmt-consumption==11.0.0 azure/mgmt/consumption/models/_models.py (`Notification.threshold`: up to
    # 1000; "up to five notifications", of which the forecast's is one)
    thresholds_percent: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [50, 80, 100],
        min_length=1,
        max_length=4,
        description="Percentages of the budget at which Azure sends an e-mail to alerts:emails.",
        examples=[[80, 100]],
    )
