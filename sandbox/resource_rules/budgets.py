"""Budgets of Microsoft.Consumption: rules for a monthly budget's start. Counts no cost and sends no notification."""

import datetime

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox

TYPE = "Microsoft.Consumption/budgets"
_START = "properties.timePeriod.startDate"


def behaviours() -> dict[str, Behaviour]:
    return {TYPE.lower(): Behaviour(on_put=_check)}


# Source: azure-mgmt-consumption==11.0.0 azure/mgmt/consumption/models/_models.py (`BudgetProperties.time_period`);
# hashicorp/terraform-provider-azurerm#12121; jpsnover/ai-triad-research#1697 (an update may repeat the old start)
async def _check(sandbox: Sandbox, resource_id: str, body: Body) -> None:
    start, existing = _day(dig(body, _START)), sandbox.store.get(resource_id)
    if existing is not None:
        if start != _day(dig(existing, _START)):
            # Source: Azure/CanadaPubSecALZ#317; Azure/azure-quickstart-templates#7095 (its message)
            raise CloudError(
                400, "400", "Start date of budgets cannot be updated. Please delete and create a new budget."
            )
        return
    this_month = datetime.datetime.now(datetime.UTC).date().replace(day=1)
    if start.day != 1:
        raise CloudError(400, "400", f"Start date {start} must be the first of a month.")
    if start < this_month:
        raise CloudError(
            400, "400", f"Start date {start} must be within the current timegrain period, {this_month} on."
        )
    if start > this_month.replace(year=this_month.year + 1):
        raise CloudError(400, "400", f"Start date {start} must not be more than twelve months in the future.")


def _day(text: object) -> datetime.date:
    try:
        return datetime.datetime.fromisoformat(str(text)).date()
    except ValueError:
        # No source: PUT a budget on Azure whose start is not a date, and read the code.
        raise CloudError(400, "400", f"Start date '{text}' is not a date.") from None
