"""What is sent, who is told of what, and what it may cost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infra_graph import Graph, graph

from infra.monitoring import queries
from infra.monitoring.alerts import log_alerts
from infra.settings import AlertSettings

CONFIG = {
    "personalization__environment": "prod",
    "alerts__emails": '["platform@example.com"]',
    "budget__monthly": "2500",
}
SUBJECTS = {"errors", "latency", "replicas", "features", "model-age", "training-failed", "training-late"}


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(**CONFIG)


def test_everything_that_has_logs_sends_them_to_the_one_workspace(program: Graph) -> None:
    sent = {found.name.removeprefix("watch-logs-"): found.inputs for found in program.of("monitor:DiagnosticSetting")}
    assert set(sent) == {
        *("lake", "ml-storage", "vault", "registry", "databricks", "ml-workspace", "cluster", "endpoint"),
        "monitoring",
    }
    assert len({inputs["workspaceId"] for inputs in sent.values()}) == 1
    for inputs in sent.values():
        assert all(log["enabled"] for log in inputs["logs"])
        assert inputs["logs"]
    assert sent["lake"]["resourceUri"].endswith("/blobServices/default")
    assert {log["category"] for log in sent["cluster"]["logs"]} >= {"kube-audit-admin", "cluster-autoscaler"}


def test_a_private_network_sends_its_own_logs_too() -> None:
    sent = {found.name.removeprefix("watch-logs-") for found in graph(network__mode="private").of("DiagnosticSetting")}
    assert sent >= {"network", "outbound", "guard-databricks", "guard-nodes", "guard-endpoints"}


def test_container_output_is_collected_from_the_namespace_that_scores(program: Graph) -> None:
    (rule,) = program.of("monitor:DataCollectionRule")
    (extension,) = program.of("kubernetesconfiguration:Extension")
    settings = rule.inputs["dataSources"]["extensions"][0]["extensionSettings"]["dataCollectionSettings"]
    assert settings["namespaces"] == [extension.inputs["scope"]["cluster"]["releaseNamespace"]]
    (association,) = program.of("monitor:DataCollectionRuleAssociation")
    (cluster,) = program.of("containerservice:ManagedCluster")
    assert association.inputs["resourceUri"].endswith(f"/{cluster.name}")
    assert cluster.inputs["addonProfiles"]["omsagent"]["enabled"] is True


def test_every_trouble_on_the_list_has_an_alert_that_tells_people(program: Graph) -> None:
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


def test_a_stack_that_does_not_train_is_not_told_off_for_it() -> None:
    rules = graph(**CONFIG, release__enabled="false").of("monitor:ScheduledQueryRule")
    assert {rule.name.removeprefix("watch-alerts-") for rule in rules} == SUBJECTS - {
        "training-failed",
        "training-late",
    }


@given(st.integers(1, 100), st.floats(0.001, 0.99), st.integers(1, 30))
def test_limits_of_the_configuration_are_the_thresholds_of_the_rules(replicas: int, share: float, days: int) -> None:
    limits = AlertSettings(error_share=share, model_age_days=days)
    alerts = {alert.subject: alert for alert in log_alerts(limits, replicas, trains=True)}
    assert alerts["errors"].threshold == share
    assert alerts["model-age"].threshold == days * 24
    assert alerts["replicas"].threshold == replicas


def test_the_queries_read_what_the_scoring_service_writes() -> None:
    import re

    from scoring.summary import Summary

    line = Summary("toys:3", None).take()
    read = [
        queries.ERROR_SHARE,
        queries.WITHOUT_FEATURES_SHARE,
        queries.P99_MS,
        queries.MODEL_AGE_HOURS,
        queries.REQUESTS,
    ]
    for query in read:
        assert {key for key in re.findall(r"line\.(\w+)", query) if key != "message"} <= set(line)


def test_the_workbook_shows_every_figure_over_time(program: Graph) -> None:
    (workbook,) = program.of("applicationinsights:Workbook")
    items = json.loads(workbook.inputs["serializedData"])["items"]
    assert len(items) == 8
    assert all("bin(TimeGenerated" in item["content"]["query"] for item in items)


def test_the_budget_counts_the_machines_that_lie_in_groups_of_their_own(program: Graph) -> None:
    (budget,) = program.of("consumption:Budget")
    (group,) = program.of("resources:ResourceGroup")
    (cluster,) = program.of("containerservice:ManagedCluster")
    (workspace,) = program.of("databricks:Workspace")
    counted = set(budget.inputs["filter"]["dimensions"]["values"])
    databricks = workspace.inputs["managedResourceGroupId"].rpartition("/")[2]
    assert counted == {group.inputs["resourceGroupName"], cluster.inputs["nodeResourceGroup"], databricks}
    notifications = budget.inputs["notifications"].values()
    assert sorted(told["threshold"] for told in notifications) == [50, 80, 100]
    assert all(told["contactEmails"] == ["platform@example.com"] for told in notifications)
