"""What a release gives people: a cluster of the job's definition, its policy, and notebooks on what serves now."""

import json

import pulumi

from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.interactive_access.cluster import (
    ClusterPolicy,
    InteractiveCluster,
    interactive_settings,
    policy_definition,
)
from infra.release.interactive_access.endpoint_key import EndpointKey
from infra.release.interactive_access.notebooks import Notebooks, notebooks_digest
from infra.release.serving_stage.stage import Served
from infra.release.training_stage.job import libraries
from infra.release.training_stage.stage import Trained


class People(pulumi.ComponentResource):
    policy: ClusterPolicy | None = None
    cluster: InteractiveCluster | None = None
    notebooks: Notebooks

    def __init__(
        self, name: str, args: ReleaseArgs, trained: Trained, served: Served, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("personalization:release:People", name, None, opts)
        if args.settings.has_interactive_cluster:
            self.policy, self.cluster = self._interactive(name, args, trained)
        # They ask the endpoint with a key of their own reading.
        key = EndpointKey(
            f"{name}-endpoint-key",
            **args.workspace,
            scope=args.names.catalog,
            ml_workspace_id=args.machine_learning.workspace_id,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.notebooks = Notebooks(
            f"{name}-notebooks",
            **args.workspace,
            folder=f"{args.code}/notebooks",
            digest=notebooks_digest(),
            ml_workspace_id=args.machine_learning.workspace_id,
            model_name=MODEL,
            model_version=trained.version,
            volumes=trained.volumes,
            scoring_uri=args.inference.scoring_uri,
            scope=args.names.catalog,
            team=args.settings.access.team,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[key, served.rollout]),
        )
        self.register_outputs({})

    def _interactive(self, name: str, args: ReleaseArgs, trained: Trained) -> tuple[ClusterPolicy, InteractiveCluster]:
        minutes, team, catalog = (
            args.settings.training.autotermination_minutes,
            args.settings.access.team,
            args.names.catalog,
        )
        child = pulumi.ResourceOptions(parent=self)
        policy = ClusterPolicy(
            f"{name}-cluster-policy",
            **args.workspace,
            policy_name=f"{catalog}-interactive",
            definition=trained.spec.apply(lambda spec: json.dumps(policy_definition(spec, minutes=minutes))),
            team=team,
            opts=child,
        )
        cluster = InteractiveCluster(
            f"{name}-interactive-cluster",
            **args.workspace,
            cluster_name=f"{catalog}-interactive",
            settings=pulumi.Output.all(trained.spec, policy.policy_id).apply(
                lambda found: json.dumps(interactive_settings(found[0], policy_id=found[1], minutes=minutes, team=team))
            ),
            libraries=trained.spec.apply(lambda spec: json.dumps(libraries(spec))),
            team=team,
            catalog=catalog,
            opts=child,
        )
        return policy, cluster
