"""Interactive access: a cluster with the job's definition, a cluster policy, and notebooks on the live model."""

import json

import pulumi

from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.interactive_access.cluster import (
    ClusterInputs,
    ClusterPolicy,
    InteractiveCluster,
    PolicyInputs,
    interactive_settings,
    policy_definition,
)
from infra.release.interactive_access.endpoint_key import EndpointKey, EndpointKeyInputs
from infra.release.interactive_access.notebooks import Notebooks, NotebooksInputs, notebooks_digest
from infra.release.serving_stage.stage import ServingStage
from infra.release.training_stage.job import libraries
from infra.release.training_stage.stage import TrainingStage


class InteractiveAccess(pulumi.ComponentResource):
    policy: ClusterPolicy | None = None
    cluster: InteractiveCluster | None = None
    notebooks: Notebooks

    def __init__(
        self,
        name: str,
        args: ReleaseArgs,
        training: TrainingStage,
        serving: ServingStage,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        # The type token is in the state of every stack, so it keeps the class's earlier name.
        super().__init__("personalization:release:People", name, None, opts)
        if args.settings.has_interactive_cluster:
            self.policy, self.cluster = self._cluster(name, args, training)
        # The notebooks call the endpoint with a key that they read from the secret scope.
        key = EndpointKey(
            f"{name}-endpoint-key",
            EndpointKeyInputs(
                **args.workspace,
                scope=args.names.catalog,
                ml_workspace_id=args.machine_learning.workspace_id,
                endpoint_name=args.inference.endpoint_name,
                endpoint_revision=args.inference.endpoint_revision,
            ),
            pulumi.ResourceOptions(parent=self),
        )
        self.notebooks = Notebooks(
            f"{name}-notebooks",
            NotebooksInputs(
                **args.workspace,
                folder=f"{args.code}/notebooks",
                digest=notebooks_digest(),
                ml_workspace_id=args.machine_learning.workspace_id,
                model_name=MODEL,
                model_version=training.version,
                volumes=training.volumes,
                scoring_uri=args.inference.scoring_uri,
                scope=args.names.catalog,
                team=args.settings.access.team,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=[key, serving.rollout]),
        )
        self.register_outputs({})

    def _cluster(
        self, name: str, args: ReleaseArgs, training: TrainingStage
    ) -> tuple[ClusterPolicy, InteractiveCluster]:
        """Declare the policy and the cluster that follows it."""
        minutes, team = args.settings.training.autotermination_minutes, args.settings.access.team
        catalog = args.names.catalog
        child = pulumi.ResourceOptions(parent=self)
        policy = ClusterPolicy(
            f"{name}-cluster-policy",
            PolicyInputs(
                **args.workspace,
                policy_name=f"{catalog}-interactive",
                definition=training.spec.apply(lambda spec: json.dumps(policy_definition(spec, minutes=minutes))),
                team=team,
            ),
            child,
        )
        settings = pulumi.Output.all(training.spec, policy.policy_id).apply(
            lambda known: json.dumps(interactive_settings(known[0], policy_id=known[1], minutes=minutes, team=team))
        )
        cluster = InteractiveCluster(
            f"{name}-interactive-cluster",
            ClusterInputs(
                **args.workspace,
                cluster_name=f"{catalog}-interactive",
                settings=settings,
                libraries=training.spec.apply(lambda spec: json.dumps(libraries(spec))),
                team=team,
                catalog=catalog,
            ),
            child,
        )
        return policy, cluster
