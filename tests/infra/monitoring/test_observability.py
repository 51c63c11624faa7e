"""Diagnostics, alert rules, dashboard and budget as declared. `test_queries.py` runs the queries."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.config.settings import AlertSettings
from infra.monitoring.alerts import log_alerts
from infra.monitoring.containers import summaries_only
from infra.monitoring.log_workspace import TABLES
from testing.arm.kusto_tables import documented
from testing.stack.infra_graph import Graph, graph

CONFIG = {
    "personalization__production": "true",
    "alerts__emails": '["platform@example.com"]',
    "budget__monthly": "2500",
}
RELEASING = {"silent", "training-failed", "training-late", "model-refused"}
"""Rules that only a stack with a release has."""
SUBJECTS = {"errors", "latency", "replicas", "features", "model-age"} | RELEASING


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(**CONFIG)


def test_all_logs_go_to_the_workspace(program: Graph) -> None:
    sent = {found.name.removeprefix("watch-logs-"): found.inputs for found in program.of("monitor:DiagnosticSetting")}
    assert set(sent) == {
        *("lake", "ml-storage", "vault", "registry", "databricks", "ml-workspace", "cluster", "monitoring"),
    }
    assert len({inputs["workspaceId"] for inputs in sent.values()}) == 1
    for inputs in sent.values():
        assert all(log["enabled"] for log in inputs["logs"])
        assert inputs["logs"]
    assert sent["lake"]["resourceUri"].endswith("/blobServices/default")
    assert {log["category"] for log in sent["cluster"]["logs"]} >= {"kube-audit-admin", "cluster-autoscaler"}


def test_private_network_sends_its_own_logs_too() -> None:
    sent = {found.name.removeprefix("watch-logs-") for found in graph(network__mode="private").of("DiagnosticSetting")}
    assert sent >= {"network", "outbound", "guard-databricks", "guard-nodes", "guard-endpoints"}


SENDERS = {
    "lake": "Microsoft.Storage/storageAccounts/blobServices",
    "ml-storage": "Microsoft.Storage/storageAccounts/blobServices",
    "vault": "Microsoft.KeyVault/vaults",
    "registry": "Microsoft.ContainerRegistry/registries",
    "databricks": "Microsoft.Databricks/workspaces",
    "ml-workspace": "Microsoft.MachineLearningServices/workspaces",
    "cluster": "Microsoft.ContainerService/managedClusters",
    "monitoring": "Microsoft.OperationalInsights/workspaces",
    "network": "Microsoft.Network/virtualNetworks",
    "outbound": "Microsoft.Network/publicIPAddresses",
    "guard-databricks": "Microsoft.Network/networkSecurityGroups",
    "guard-nodes": "Microsoft.Network/networkSecurityGroups",
    "guard-endpoints": "Microsoft.Network/networkSecurityGroups",
}


def test_every_category_that_is_sent_is_one_that_azure_documents_for_the_type() -> None:
    categories, metrics = documented("log_categories"), documented("metrics")
    settings = graph(network__mode="private").of("monitor:DiagnosticSetting")
    sent = {found.name.removeprefix("watch-logs-"): found.inputs for found in settings}
    assert sent.keys() == SENDERS.keys()
    for sender, inputs in sent.items():
        allowed = categories[SENDERS[sender]]
        for log in inputs["logs"]:
            assert log.get("category") in [*allowed["categories"], None], sender
            assert log.get("categoryGroup") in [*allowed["groups"], None], sender
        for metric in inputs.get("metrics") or ():
            assert metric["category"] == metrics[SENDERS[sender]]["category"], sender
            assert any(found["exported"] for found in metrics[SENDERS[sender]]["metrics"].values()), sender


def test_every_metric_of_an_alert_is_one_that_azure_documents_for_the_type(program: Graph) -> None:
    alerts = program.of("monitor:MetricAlert")
    assert alerts
    for alert in alerts:
        (criterion,) = alert.inputs["criteria"]["allOf"]
        assert criterion["metricNamespace"] == SENDERS["cluster"]
        known = documented("metrics")[criterion["metricNamespace"]]["metrics"]
        assert criterion["timeAggregation"] in known[criterion["metricName"]]["aggregations"]
        (scope,) = alert.inputs["scopes"]
        assert ":ManagedCluster/" in scope


def test_every_documented_list_has_a_source() -> None:
    for name in ("tables", "metrics", "log_categories"):
        for entry in documented(name).values():
            owner_repository, path = entry["source"].split(" ")
            assert owner_repository.count("/") == 1
            assert path
            assert len(entry["commit"]) == 40
            assert entry.get("date") or entry.get("read")


def test_tables_exist_before_the_rules_that_read_them(program: Graph) -> None:
    tables = program.of("operationalinsights:Table")
    assert {table.inputs["tableName"] for table in tables} == set(TABLES)
    assert {table.inputs["plan"] for table in tables} == {"Analytics"}


def test_container_output_is_collected_from_the_scoring_namespace(program: Graph) -> None:
    (rule,) = program.of("monitor:DataCollectionRule")
    (extension,) = program.of("kubernetesconfiguration:Extension")
    settings = rule.inputs["dataSources"]["extensions"][0]["extensionSettings"]["dataCollectionSettings"]
    assert settings["namespaces"] == [extension.inputs["scope"]["cluster"]["releaseNamespace"]]
    (flow,) = rule.inputs["dataFlows"]
    assert flow["streams"] == ["Microsoft-ContainerLogV2"]
    assert flow["transformKql"] == summaries_only(settings["namespaces"][0])
    (association,) = program.of("monitor:DataCollectionRuleAssociation")
    assert association.inputs["associationName"] == "ContainerInsightsExtension"
    (cluster,) = program.of("containerservice:ManagedCluster")
    assert association.inputs["resourceUri"].endswith(f"/{cluster.name}")
    assert cluster.inputs["addonProfiles"]["omsagent"]["enabled"] is True


def test_every_listed_failure_has_an_alert_rule(program: Graph) -> None:
    rules = program.of("monitor:ScheduledQueryRule")
    (group,) = program.of("monitor:ActionGroup")
    assert {rule.name.removeprefix("watch-alerts-") for rule in rules} == SUBJECTS
    metrics = program.of("monitor:MetricAlert")
    assert {alert.name for alert in metrics} == {"watch-alerts-node-cpu", "watch-alerts-node-memory"}
    for rule in rules:
        assert rule.inputs["actions"]["actionGroups"] == [f"/id/of/{group.type}/{group.name}"]
    for alert in metrics:
        assert alert.inputs["actions"][0]["actionGroupId"] == f"/id/of/{group.type}/{group.name}"
    assert [receiver["emailAddress"] for receiver in group.inputs["emailReceivers"]] == ["platform@example.com"]


def test_stack_without_a_release_has_no_rule_that_waits_for_one() -> None:
    rules = graph(**CONFIG, release__enabled="false").of("monitor:ScheduledQueryRule")
    assert {rule.name.removeprefix("watch-alerts-") for rule in rules} == SUBJECTS - RELEASING


def test_rules_of_training_read_the_stacks_own_job(program: Graph) -> None:
    rules = {rule.name.removeprefix("watch-alerts-"): rule.inputs for rule in program.of("monitor:ScheduledQueryRule")}
    (job,) = program.of(":TrainingJob")
    for subject in ("training-failed", "training-late"):
        (criterion,) = rules[subject]["criteria"]["allOf"]
        assert f'tostring(run.jobId) == "/id/of/{job.type}/{job.name}"' in criterion["query"]  # what `graph` makes up


def test_no_rule_uses_operators_unsupported_in_alerts(program: Graph) -> None:
    """The sandbox refuses these (`azure_monitor.py`), but it does not receive the rules of a release."""
    unsupported = {"union", "search", "bag_unpack", "pivot", "narrow", "AggregatedValue"}
    for rule in program.of("monitor:ScheduledQueryRule"):
        (criterion,) = rule.inputs["criteria"]["allOf"]
        assert not unsupported & set(re.findall(r"\w+", criterion["query"]))


@given(st.integers(1, 50), st.integers(1, 100), st.floats(0.001, 0.99), st.integers(1, 30))
def test_limits_of_the_configuration_are_the_thresholds_of_the_rules(
    least: int, most: int, share: float, days: int
) -> None:
    limits = AlertSettings(error_share=share, model_age_days=days)
    alerts = {alert.subject: alert for alert in log_alerts(limits, least, most, releases=True)}
    assert alerts["errors"].threshold == share
    assert alerts["model-age"].threshold == days * 24
    assert alerts["replicas"].threshold == most
    assert alerts["silent"].threshold == least


def test_workbook_shows_every_figure_over_time(program: Graph) -> None:
    (workbook,) = program.of("applicationinsights:Workbook")
    items = json.loads(workbook.inputs["serializedData"])["items"]
    assert len(items) == 10
    assert all("bin(TimeGenerated" in item["content"]["query"] for item in items)


def test_budget_includes_the_resource_groups_of_machines(program: Graph) -> None:
    (budget,) = program.of("consumption:Budget")
    (group,) = program.of("resources:ResourceGroup")
    (cluster,) = program.of("containerservice:ManagedCluster")
    (workspace,) = program.of("databricks:Workspace")
    counted = set(budget.inputs["filter"]["dimensions"]["values"])
    databricks = workspace.inputs["managedResourceGroupId"].rpartition("/")[2]
    assert counted == {group.inputs["resourceGroupName"], cluster.inputs["nodeResourceGroup"], databricks}
    notifications = budget.inputs["notifications"].values()
    assert sorted(each["threshold"] for each in notifications) == [50, 80, 100]
    assert all(each["contactEmails"] == ["platform@example.com"] for each in notifications)
