"""Azure Monitor's rules for tables, data collection rules and log alert rules. Does not collect or evaluate data.

A table exists once it is declared. Azure also creates a table with its first row, but no row arrives in the sandbox.
Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/platform/diagnostic-settings.md
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox

_TABLE = "Microsoft.OperationalInsights/workspaces/tables"
_COLLECTION_RULE = "Microsoft.Insights/dataCollectionRules"
_ALERT_RULE = "Microsoft.Insights/scheduledQueryRules"
_TRANSFORMATIONS = Path(__file__).with_name("transformations.yaml")
_BUILT_IN_STREAM = "Microsoft-"
# Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/logs/create-custom-table.md (suffix of custom tables)
_CUSTOM = "_CL"
_KEYWORDS = {"and", "or", "in", "by"}
_LITERAL = re.compile(r"""@?"(?:\\.|[^"\\])*"|@?'(?:\\.|[^'\\])*'""")


def behaviours() -> dict[str, Behaviour]:
    return {
        _TABLE.lower(): Behaviour(before_delete=_refuse_deletion),
        _COLLECTION_RULE.lower(): Behaviour(before_put=_check_collection_rule),
        _ALERT_RULE.lower(): Behaviour(before_put=_check_alert_rule),
    }


def _refuse_deletion(sandbox: Sandbox, table_id: str, body: Body) -> None:
    """Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/logs/create-custom-table.md"""
    if not body["name"].endswith(_CUSTOM):
        # No source: status, code and text; delete such a table on Azure.
        raise CloudError(400, "BadRequest", f"Table '{body['name']}' is an Azure table, and those cannot be deleted.")


def _check_collection_rule(sandbox: Sandbox, rule_id: str, body: Body, existing: Body | None) -> None:
    """Source: hashicorp/terraform-provider-azurerm#28709; hashicorp/terraform-provider-azurerm#27820"""
    if faults := [*_without_table(sandbox, body), *_wrong_transformations(body)]:
        raise CloudError(400, "InvalidPayload", f"Data collection rule is invalid: {'; '.join(faults)}")


def _without_table(sandbox: Sandbox, body: Body) -> Iterator[str]:
    """Source: hashicorp/terraform-provider-azurerm#28709 (code and words)"""
    workspaces = {
        destination["name"]: destination["workspaceResourceId"]
        for destination in dig(body, "properties.destinations.logAnalytics") or ()
    }
    for flow in dig(body, "properties.dataFlows") or ():
        streams = [flow["outputStream"]] if flow.get("outputStream") else flow["streams"]
        for stream in streams:
            table = stream.removeprefix(_BUILT_IN_STREAM).removeprefix("Custom-")
            for destination in flow["destinations"]:
                if destination not in workspaces:
                    yield f"InvalidDataFlow: destination '{destination}' is not defined."
                elif sandbox.store.get(f"{workspaces[destination]}/tables/{table}") is None:
                    yield (
                        f"InvalidOutputTable: Table for output stream '{stream}' is not available for destination "
                        f"'{destination}'."
                    )


def _wrong_transformations(body: Body) -> Iterator[str]:
    for flow in dig(body, "properties.dataFlows") or ():
        if query := flow.get("transformKql"):
            for fault in _transformation_faults(query):
                yield f"InvalidTransformQuery: {fault}"


def _transformation_faults(query: str) -> Iterator[str]:
    """A transformation reads `source`, uses only the operators and functions of the list, and is one line.

    Source: https://learn.microsoft.com/azure/azure-monitor/data-collection/data-collection-transformations-kql
    Source: https://learn.microsoft.com/azure/azure-monitor/data-collection/data-collection-transformations-create
    """
    if "\n" in query:
        yield "the query must be on one line."
    source, *steps = _LITERAL.sub("''", query).split("|")
    if source.strip() != "source":
        yield f"'{source.strip()}' is not the incoming data, `source`; the sandbox supports neither `let` nor `print`."
    allowed = _transformations()
    for step in steps:
        operator, _, arguments = step.strip().partition(" ")
        if operator not in allowed["operators"]:
            yield f"operator '{operator}' is not supported in transformations."
        for function in re.findall(r"([A-Za-z_]\w*)\s*\(", arguments):
            if function not in allowed["functions"] and function not in _KEYWORDS:
                yield f"function '{function}' is not supported in transformations."


@lru_cache
def _transformations() -> Mapping[str, Any]:
    transformations: Mapping[str, Any] = yaml.safe_load(_TRANSFORMATIONS.read_bytes())
    return transformations


def _check_alert_rule(sandbox: Sandbox, rule_id: str, body: Body, existing: Body | None) -> None:
    """Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/alerts/alerts-log-query.md"""
    for criterion in dig(body, "properties.criteria.allOf") or ():
        if query := criterion.get("query"):
            for fault in _alert_faults(query):
                # No source: status, code and text; create such a rule on Azure with and without `skipQueryValidation`.
                raise CloudError(400, "BadArgumentError", f"The query of rule '{rule_id}' is not supported: {fault}")
            if not dig(body, "properties.skipQueryValidation"):
                _require_table(sandbox, dig(body, "properties.scopes") or (), query)


def _alert_faults(query: str) -> Iterator[str]:
    """Yield the unsupported words of a log alert rule's query. A query across resources may use `union`.

    Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/alerts/alerts-log-query.md
    Source: MicrosoftDocs/azure-monitor-docs articles/azure-monitor/alerts/alerts-create-log-alert-rule.md
    """
    text = _LITERAL.sub("''", query)
    across = re.search(r"\b(workspace|app|adx|arg)\s*\(", text)
    for word in re.findall(r"\b(union|search|bag_unpack|pivot|narrow|AggregatedValue)\b", text):
        if not (across and word == "union"):
            yield f"it uses '{word}'."


def _require_table(sandbox: Sandbox, scopes: Any, query: str) -> None:
    """Source: Azure/azure-rest-api-specs#32650 (review comment on `skipQueryValidation`);
    CDCgov/prime-reportstream#11773 (400, BadRequest, and the text within its BadArgumentError and SemanticError)
    """
    table = query.split("|")[0].strip()
    for scope in scopes:
        if "/workspaces/" in scope and sandbox.store.get(f"{scope}/tables/{table}") is None:
            message = f"'where' operator: Failed to resolve table or column expression named '{table}'"
            raise CloudError(400, "BadRequest", message)
