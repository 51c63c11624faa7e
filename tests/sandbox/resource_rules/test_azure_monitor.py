"""Refusals of the sandbox's Azure Monitor: rules for a table that does not exist yet, and unsupported KQL."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from infra.components.inference import NAMESPACE
from infra.monitoring.containers import summaries_only
from testing.sandbox.process import RunningSandbox, running_sandbox

STREAM = "Microsoft-ContainerLogV2"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("cloud") / "sandbox") as running:
        yield running


@pytest.fixture
def workspace(cloud: RunningSandbox) -> str:
    """The id of a new Log Analytics workspace."""
    group = f"resourceGroups/g{uuid.uuid4().hex[:8]}"
    cloud.arm("PUT", group, {"location": "westeurope"}).raise_for_status()
    path = f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs"
    answer = cloud.arm("PUT", path, {"location": "westeurope", "properties": {"sku": {"name": "PerGB2018"}}})
    assert cloud.settle(answer)["status"] == "Succeeded"
    return str(answer.json()["id"])


def declare_table(cloud: RunningSandbox, workspace: str, table: str = "ContainerLogV2") -> dict[str, Any]:
    path = f"{workspace}/tables/{table}"
    answer = cloud.arm("PUT", path, {"properties": {"plan": "Analytics"}})
    assert cloud.settle(answer)["status"] == "Succeeded", answer.text
    found: dict[str, Any] = cloud.arm("GET", path).json()
    return found


def collect(cloud: RunningSandbox, workspace: str, transformation: str | None = None, **flow: Any) -> str:
    """The error of a data collection rule; empty without one."""
    flow = {"streams": [STREAM], "destinations": ["workspace"], **flow}
    if transformation:
        flow["transformKql"] = transformation
    destination = {"name": "workspace", "workspaceResourceId": workspace}
    properties = {"dataFlows": [flow], "destinations": {"logAnalytics": [destination]}}
    path = workspace.partition("/providers/")[0] + "/providers/Microsoft.Insights/dataCollectionRules/output"
    return error(cloud.arm("PUT", path, {"location": "westeurope", "kind": "Linux", "properties": properties}))


def alert(cloud: RunningSandbox, workspace: str, query: str, *, skip: bool = True) -> str:
    """The error of a log alert rule; empty without one."""
    properties = {
        "scopes": [workspace],
        "skipQueryValidation": skip,
        "criteria": {"allOf": [{"query": query, "metricMeasureColumn": "value", "timeAggregation": "Maximum"}]},
    }
    path = workspace.partition("/providers/")[0] + "/providers/Microsoft.Insights/scheduledQueryRules/rule"
    return error(cloud.arm("PUT", path, {"location": "westeurope", "properties": properties}))


def error(answer: Any) -> str:
    return "" if answer.is_success else answer.json()["error"]["message"]


def test_collection_rule_needs_its_table_to_exist(cloud: RunningSandbox, workspace: str) -> None:
    missing = f"InvalidOutputTable: Table for output stream '{STREAM}' is not available for destination 'workspace'."
    assert missing in collect(cloud, workspace)
    declare_table(cloud, workspace)
    assert collect(cloud, workspace) == ""
    assert "InvalidOutputTable" in collect(cloud, workspace, outputStream="Custom-Other_CL")


def test_built_in_table_has_defaults_and_cannot_be_deleted(cloud: RunningSandbox, workspace: str) -> None:
    table = declare_table(cloud, workspace)
    assert table["properties"]["retentionInDays"] == 30
    schema = {"name": "ContainerLogV2", "tableType": "Microsoft", "tableSubType": "Any", "solutions": ["LogManagement"]}
    assert table["properties"]["schema"].items() >= schema.items()
    assert cloud.arm("DELETE", f"{workspace}/tables/ContainerLogV2").status_code == 400
    declare_table(cloud, workspace, "Clicks_CL")
    assert cloud.arm("DELETE", f"{workspace}/tables/Clicks_CL").is_success


@pytest.mark.parametrize(
    ("transformation", "fault"),
    [
        ("source", ""),
        (summaries_only(NAMESPACE), ""),
        ("source | where LogLevel in ('error', 'a | summarize b')", ""),
        ("ContainerLogV2 | where PodName == 'a'", "'ContainerLogV2' is not the incoming data"),
        ("source | summarize count() by PodName", "operator 'summarize' is not supported"),
        ("source | take 5", "operator 'take' is not supported"),
        ("source | where isnotempty(PodName) and not(PodName has 'a')", "function 'not' is not supported"),
        ("source | extend a = coalesce(PodName, 'x')", "function 'coalesce' is not supported"),
        ("source\n| where PodName == 'a'", "must be on one line"),
    ],
)
def test_transformation_is_limited_to_documented_operators(
    cloud: RunningSandbox, workspace: str, transformation: str, fault: str
) -> None:
    declare_table(cloud, workspace)
    answer = collect(cloud, workspace, transformation)
    assert fault in answer if fault else answer == ""


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("ContainerLogV2 | summarize value = count()", ""),
        ("ContainerLogV2 | where PodName has 'union' | summarize value = count()", ""),
        ("union workspace('a').ContainerLogV2, workspace('b').ContainerLogV2 | summarize value = count()", ""),
        ("union isfuzzy=true ContainerLogV2, (datatable(PodName: string)[]) | summarize value = count()", "'union'"),
        ("search 'summary' | summarize value = count()", "'search'"),
        ("ContainerLogV2 | evaluate bag_unpack(LogMessage) | summarize value = count()", "'bag_unpack'"),
        ("ContainerLogV2 | summarize AggregatedValue = count()", "'AggregatedValue'"),
    ],
)
def test_alert_rule_with_unsupported_operators_is_refused(
    cloud: RunningSandbox, workspace: str, query: str, fault: str
) -> None:
    answer = alert(cloud, workspace, query)
    assert fault in answer if fault else answer == ""


def test_alert_rule_reads_a_table_that_exists_unless_its_query_is_not_validated(
    cloud: RunningSandbox, workspace: str
) -> None:
    query = "DatabricksJobs\n| summarize value = count()"
    assert "Failed to resolve table" in alert(cloud, workspace, query, skip=False)
    assert alert(cloud, workspace, query) == ""
    declare_table(cloud, workspace, "DatabricksJobs")
    assert alert(cloud, workspace, query, skip=False) == ""
