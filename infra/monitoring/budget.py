"""A monthly budget over all three resource groups of an environment, with an e-mail at each threshold.

Databricks and Kubernetes keep their machines in separate groups, so a budget on the program's group alone would miss
the largest costs. Does not stop anything: Azure's budgets only send notifications.

A monthly budget starts in the month of its creation: Azure refuses an earlier start, and a later change of it. So the
state keeps the month of the first `up`, and later months are ignored. Azure would refuse the recorded month if the
budget were replaced. Therefore the budget's name is also the resource's name: another name makes another resource with
its own month.

Source: hashicorp/terraform-provider-azurerm#12121; Azure/CanadaPubSecALZ#317
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import pulumi
from pulumi_azure_native import consumption

from infra.config.settings import BudgetSettings


def declare(
    name: str,
    *,
    budget_name: str,
    subscription_id: str,
    resource_groups: Sequence[pulumi.Input[str]],
    budget: BudgetSettings,
    emails: Sequence[str],
    parent: pulumi.Resource,
) -> None:
    if budget.monthly is None:
        return
    consumption.Budget(
        budget_name,
        budget_name=budget_name,
        scope=f"/subscriptions/{subscription_id}",
        amount=budget.monthly,
        category=consumption.CategoryType.COST,
        time_grain=consumption.TimeGrainType.MONTHLY,
        time_period=consumption.BudgetTimePeriodArgs(start_date=f"{datetime.now(UTC):%Y-%m}-01T00:00:00Z"),
        filter=consumption.BudgetFilterArgs(
            dimensions=consumption.BudgetComparisonExpressionArgs(
                # Source: hashicorp/terraform-provider-azurerm
                # website/docs/r/consumption_budget_subscription.html.markdown (dimension)
                name="ResourceGroupName",
                operator=consumption.BudgetOperatorType.IN_,
                values=list(resource_groups),
            )
        ),
        notifications={
            f"at-{percent}-percent": consumption.NotificationArgs(
                enabled=True,
                operator=consumption.OperatorType.GREATER_THAN_OR_EQUAL_TO,
                threshold=percent,
                threshold_type=consumption.ThresholdType.ACTUAL,
                contact_emails=list(emails),
            )
            for percent in budget.thresholds_percent
        },
        opts=pulumi.ResourceOptions(
            parent=parent,
            ignore_changes=["timePeriod"],
            aliases=[pulumi.Alias(name=name)],  # the name in states from before 2026-12
        ),
    )
