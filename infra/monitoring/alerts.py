"""Who is told of what: alert rules on the scoring path, the nodes and the training, with one action group.

Rules without a query window of their own look at five minutes, every five minutes. Does not alert on the public front
that the organisation puts before the endpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_azure_native import monitor

from infra.monitoring import queries
from infra.naming import Names
from infra.settings import AlertSettings

_NODE_METRICS = {"cpu": "node_cpu_usage_percentage", "memory": "node_memory_working_set_percentage"}


@dataclass(frozen=True)
class LogAlert:
    subject: str
    says: str
    query: str
    threshold: float
    operator: Literal["GreaterThan", "GreaterThanOrEqual", "LessThan"] = "GreaterThan"
    severity: int = 2
    window: str = "PT5M"
    every: str = "PT5M"


def log_alerts(limits: AlertSettings, replicas_max: int, trains: bool) -> list[LogAlert]:
    found = [
        LogAlert(
            "errors",
            f"More than {limits.error_share:.1%} of requests are answered 5xx.",
            queries.ERROR_SHARE,
            limits.error_share,
            severity=1,
        ),
        LogAlert("latency", f"p99 is above {limits.p99_ms} ms in a replica.", queries.P99_MS, limits.p99_ms),
        LogAlert(
            "replicas",
            f"All {replicas_max} replicas serve: more load makes requests wait.",
            queries.REPLICAS,
            replicas_max,
            operator="GreaterThanOrEqual",
        ),
        LogAlert(
            "features",
            f"More than {limits.missing_share:.1%} of requests hold a row in which no feature has a value.",
            queries.WITHOUT_FEATURES_SHARE,
            limits.missing_share,
        ),
        LogAlert(
            "model-age",
            f"The model that serves was trained more than {limits.model_age_days} days ago.",
            queries.MODEL_AGE_HOURS,
            limits.model_age_days * 24,
            window="PT1H",
            every="PT1H",
        ),
    ]
    if trains:
        found += [
            LogAlert("training-failed", "A training run failed.", queries.RUNS_FAILED, 0, window="PT1H", every="PT1H"),
            LogAlert(
                "training-late",
                "No training run has succeeded for a day.",
                queries.RUNS_SUCCEEDED,
                1,
                operator="LessThan",
                window="P1D",
                every="PT1H",
            ),
        ]
    return found


@dataclass(frozen=True)
class AlertsArgs:
    resource_group_name: pulumi.Input[str]
    names: Names
    location: str
    workspace_id: pulumi.Input[str]
    cluster_id: pulumi.Input[str]
    limits: AlertSettings
    replicas_max: int
    trains: bool


def declare(name: str, args: AlertsArgs, parent: pulumi.Resource) -> None:
    child = pulumi.ResourceOptions(parent=parent)
    told = _action_group(name, args, child)
    for alert in log_alerts(args.limits, args.replicas_max, args.trains):
        monitor.ScheduledQueryRule(
            f"{name}-{alert.subject}",
            rule_name=args.names.alert(alert.subject),
            resource_group_name=args.resource_group_name,
            location=args.location,
            kind=monitor.Kind.LOG_ALERT,
            display_name=f"Personalization: {alert.subject}",
            description=alert.says,
            enabled=True,
            severity=alert.severity,
            scopes=[args.workspace_id],
            evaluation_frequency=alert.every,
            window_size=alert.window,
            # The tables come with their first line, which is after this rule.
            skip_query_validation=True,
            auto_mitigate=True,
            criteria=monitor.ScheduledQueryRuleCriteriaArgs(
                all_of=[
                    monitor.ConditionArgs(
                        query=alert.query,
                        metric_measure_column="value",
                        time_aggregation=monitor.TimeAggregation.MAXIMUM,
                        operator=alert.operator,  # the SDK's enumeration of that name is another service's
                        threshold=alert.threshold,
                        failing_periods=monitor.ConditionFailingPeriodsArgs(
                            number_of_evaluation_periods=1, min_failing_periods_to_alert=1
                        ),
                    )
                ]
            ),
            actions=monitor.ActionsArgs(action_groups=told) if told else None,
            opts=child,
        )
    for what, metric in _NODE_METRICS.items():
        monitor.MetricAlert(
            f"{name}-node-{what}",
            rule_name=args.names.alert(f"node-{what}"),
            resource_group_name=args.resource_group_name,
            location="global",
            description=f"Mean {what} use of the nodes is above {args.limits.node_percent} %.",
            enabled=True,
            severity=2,
            scopes=[args.cluster_id],
            evaluation_frequency="PT5M",
            window_size="PT15M",
            auto_mitigate=True,
            criteria=monitor.MetricAlertSingleResourceMultipleMetricCriteriaArgs(
                odata_type="Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
                all_of=[
                    monitor.MetricCriteriaArgs(
                        criterion_type="StaticThresholdCriterion",
                        name=what,
                        metric_namespace="Microsoft.ContainerService/managedClusters",
                        metric_name=metric,
                        operator=monitor.Operator.GREATER_THAN,
                        threshold=args.limits.node_percent,
                        time_aggregation=monitor.AggregationTypeEnum.AVERAGE,
                    )
                ],
            ),
            actions=[monitor.MetricAlertActionArgs(action_group_id=group) for group in told],
            opts=child,
        )


def _action_group(name: str, args: AlertsArgs, child: pulumi.ResourceOptions) -> Sequence[pulumi.Output[str]]:
    if not args.limits.emails:
        return []
    group = monitor.ActionGroup(
        name,
        action_group_name=args.names.action_group,
        resource_group_name=args.resource_group_name,
        location="Global",
        group_short_name="personalize",  # at most twelve characters, shown in text messages
        enabled=True,
        email_receivers=[
            monitor.MicrosoftCommonEmailReceiverArgs(name=address, email_address=address, use_common_alert_schema=True)
            for address in args.limits.emails
        ],
        opts=child,
    )
    return [group.id]
