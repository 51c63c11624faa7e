"""Alert rules on the scoring path, the nodes and the training, and the action group that they notify.

Rules that name no window evaluate five minutes, every five minutes. No rule reads metrics or logs of the online
endpoint: Azure records none for an endpoint on Kubernetes. So errors that the router itself returns, with no replica or
with its queue full, are counted nowhere; `silent` and `replicas` watch for what leads to them. Does not alert on the
public front that the organisation puts before the endpoint.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online.md
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_azure_native import monitor

from infra.config.naming import Names
from infra.config.settings import AlertSettings
from infra.monitoring import queries

# Source: https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-containerservice-managedclusters-metrics
_NODE_METRICS = {"cpu": "node_cpu_usage_percentage", "memory": "node_memory_working_set_percentage"}


@dataclass(frozen=True)
class LogAlert:
    subject: str
    description: str
    query: str | Callable[[str], str]
    """The query, or a function of the training job's id that returns it."""
    threshold: float
    operator: Literal["GreaterThan", "GreaterThanOrEqual", "LessThan"] = "GreaterThan"
    severity: int = 2
    window: str = "PT5M"
    every: str = "PT5M"


def log_alerts(limits: AlertSettings, replicas_min: int, replicas_max: int, *, releases: bool) -> list[LogAlert]:
    """Rules of a stack; those about training and the number of replicas only if the stack `releases` models."""
    return [
        *_serving_alerts(limits, replicas_max),
        *(_release_alerts(replicas_min) if releases else ()),
    ]


def _serving_alerts(limits: AlertSettings, replicas_max: int) -> list[LogAlert]:
    """Rules on the summaries of the scoring service."""
    return [
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
            f"More than {limits.featureless_share:.1%} of requests hold a row in which no feature has a value.",
            queries.WITHOUT_FEATURES_SHARE,
            limits.featureless_share,
        ),
        LogAlert(
            "model-age",
            f"The live model was trained more than {limits.model_age_days} days ago.",
            queries.MODEL_AGE_HOURS,
            limits.model_age_days * 24,
            window="PT1H",
            every="PT1H",
        ),
    ]


def _release_alerts(replicas_min: int) -> list[LogAlert]:
    """Rules that need a training job and a deployed model."""
    return [
        LogAlert(
            "silent",
            f"Fewer than {replicas_min} replicas run: the router may be answering 502, 503 or 504.",
            queries.REPORTING,
            replicas_min,
            operator="LessThan",
            severity=1,
            window="PT10M",
        ),
        LogAlert("training-failed", "A training run failed.", queries.runs_failed, 0, window="PT1H", every="PT1H"),
        LogAlert(
            "training-late",
            "No training run has succeeded for a day.",
            queries.runs_succeeded,
            1,
            operator="LessThan",
            window="P1D",
            every="PT1H",
        ),
        LogAlert(
            "model-refused",
            "The quality gate refused a model in the last day; verdict.json next to its artefact has the reasons.",
            queries.MODELS_REFUSED,
            0,
            window="P1D",
            every="PT1H",
        ),
    ]


@dataclass(frozen=True)
class AlertsArgs:
    resource_group_name: pulumi.Input[str]
    names: Names
    location: str
    workspace_id: pulumi.Input[str]
    cluster_id: pulumi.Input[str]
    limits: AlertSettings
    replicas_min: int
    replicas_max: int
    tables: Sequence[pulumi.Resource]
    training_job_id: pulumi.Output[str] | None
    """None where the stack releases no models."""


def declare(name: str, args: AlertsArgs, parent: pulumi.Resource) -> None:
    child = pulumi.ResourceOptions(parent=parent)
    groups = _action_groups(name, args, child)
    _log_rules(name, args, groups, pulumi.ResourceOptions(parent=parent, depends_on=list(args.tables)))
    _metric_rules(name, args, groups, child)


def _log_rules(name: str, args: AlertsArgs, groups: Sequence[pulumi.Output[str]], opts: pulumi.ResourceOptions) -> None:
    """Declare a scheduled query for each rule of `log_alerts`."""
    job_id = args.training_job_id
    for alert in log_alerts(args.limits, args.replicas_min, args.replicas_max, releases=job_id is not None):
        monitor.ScheduledQueryRule(
            f"{name}-{alert.subject}",
            rule_name=args.names.alert(alert.subject),
            resource_group_name=args.resource_group_name,
            location=args.location,
            kind=monitor.Kind.LOG_ALERT,
            display_name=f"Personalization: {alert.subject}",
            description=alert.description,
            enabled=True,
            severity=alert.severity,
            scopes=[args.workspace_id],
            evaluation_frequency=alert.every,
            window_size=alert.window,
            # A declared table may not be queryable yet.
            # Source: Azure/azure-rest-api-specs#32650
            skip_query_validation=True,
            auto_mitigate=True,
            criteria=monitor.ScheduledQueryRuleCriteriaArgs(
                all_of=[
                    monitor.ConditionArgs(
                        query=_query(alert, job_id),
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
            actions=monitor.ActionsArgs(action_groups=groups) if groups else None,
            opts=opts,
        )


def _metric_rules(
    name: str, args: AlertsArgs, groups: Sequence[pulumi.Output[str]], opts: pulumi.ResourceOptions
) -> None:
    """Declare a rule for the CPU and one for the memory of the nodes."""
    for resource, metric in _NODE_METRICS.items():
        monitor.MetricAlert(
            f"{name}-node-{resource}",
            rule_name=args.names.alert(f"node-{resource}"),
            resource_group_name=args.resource_group_name,
            # Source: hashicorp/terraform-provider-azurerm internal/services/monitor/monitor_metric_alert_resource.go
            location="global",
            description=f"Mean {resource} use of the nodes is above {args.limits.node_percent} %.",
            enabled=True,
            severity=2,
            scopes=[args.cluster_id],
            # Source: hashicorp/terraform-provider-azurerm internal/services/monitor/monitor_metric_alert_resource.go
            evaluation_frequency="PT5M",
            # Source: hashicorp/terraform-provider-azurerm internal/services/monitor/monitor_metric_alert_resource.go
            window_size="PT15M",
            auto_mitigate=True,
            criteria=monitor.MetricAlertSingleResourceMultipleMetricCriteriaArgs(
                # Source: azure-mgmt-monitor==7.0.0 azure/mgmt/monitor/models/_models_py3.py
                # (`MetricAlertSingleResourceMultipleMetricCriteria`)
                odata_type="Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
                all_of=[
                    monitor.MetricCriteriaArgs(
                        # Source: azure-mgmt-monitor==7.0.0 azure/mgmt/monitor/models/_models_py3.py (`MetricCriteria`)
                        criterion_type="StaticThresholdCriterion",
                        name=resource,
                        # Source: https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-containerservice-managedclusters-metrics
                        metric_namespace="Microsoft.ContainerService/managedClusters",
                        metric_name=metric,
                        operator=monitor.Operator.GREATER_THAN,
                        threshold=args.limits.node_percent,
                        time_aggregation=monitor.AggregationTypeEnum.AVERAGE,
                    )
                ],
            ),
            actions=[monitor.MetricAlertActionArgs(action_group_id=group) for group in groups],
            opts=opts,
        )


def _query(alert: LogAlert, job_id: pulumi.Output[str] | None) -> pulumi.Input[str]:
    if isinstance(alert.query, str):
        return alert.query
    assert job_id is not None  # `log_alerts` has no such rule without a job
    return job_id.apply(alert.query)


def _action_groups(name: str, args: AlertsArgs, child: pulumi.ResourceOptions) -> Sequence[pulumi.Output[str]]:
    if not args.limits.emails:
        return []
    group = monitor.ActionGroup(
        name,
        action_group_name=args.names.action_group,
        resource_group_name=args.resource_group_name,
        # Source: hashicorp/terraform-provider-azurerm internal/services/monitor/monitor_action_group_resource.go
        location="Global",
        # Shown in text messages.
        # Source: azure-mgmt-monitor==7.0.0 azure/mgmt/monitor/models/_models_py3.py (`group_short_name`: at most 12)
        group_short_name="personalize",
        enabled=True,
        email_receivers=[
            monitor.MicrosoftCommonEmailReceiverArgs(name=address, email_address=address, use_common_alert_schema=True)
            for address in args.limits.emails
        ],
        opts=child,
    )
    return [group.id]
