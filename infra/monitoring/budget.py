"""A monthly budget over all three resource groups of an environment, with people told at each step.

Databricks and Kubernetes keep their machines in groups of their own, so a budget on the program's group would miss what
costs most. Does not stop anything: Azure's budgets tell.

A monthly budget starts in the month it is created in: Azure refuses an earlier start and a change of it later. So the
month of the first `up` is kept in the state and later ones are ignored. A kept month would be refused if the budget
were replaced; therefore the budget's name is the resource's name too, and another name makes another resource with its
own month.

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
            aliases=[pulumi.Alias(name=name)],  # the name in states of before 2026-12
        ),
    )
