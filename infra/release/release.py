"""One release as a component: the training stage, the serving stage, and interactive access for people.

Does not create infrastructure: it uses the components in its arguments, and starts only when they are ready.
"""

from collections.abc import Callable, Sequence

import pulumi

from infra.release.arguments import ReleaseArgs
from infra.release.interactive_access.access import InteractiveAccess
from infra.release.serving_stage.stage import ServingStage
from infra.release.training_stage.stage import TrainingStage


class Release(pulumi.ComponentResource):
    training: TrainingStage
    serving: ServingStage
    interactive_access: InteractiveAccess
    decisions: dict[str, str]
    """Inputs that determine the release, known before it starts: every preview shows which of them change."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        waiting = pulumi.ResourceOptions(transformations=[_wait_for(args.ready)])
        super().__init__("personalization:release:Release", name, None, pulumi.ResourceOptions.merge(opts, waiting))
        settings, child = args.settings, pulumi.ResourceOptions(parent=self)
        self.training = TrainingStage(name, args, child)
        self.serving = ServingStage(name, args, self.training, child)
        self.interactive_access = InteractiveAccess(name, args, self.training, self.serving, child)
        self.decisions = {
            "model": str(settings.release.model),
            "rows": f"{settings.training.dataset} {self.training.rows}",
            "code": self.training.code,
            "image": self.serving.source,
            "engine": settings.serving.engine,
            "steps": " ".join(map(str, settings.release.traffic_steps)),
        }
        self.register_outputs({})


def _wait_for(ready: Sequence[pulumi.Resource]) -> Callable[..., pulumi.ResourceTransformationResult]:
    """Return a transformation that lets every resource below the component depend on all of `ready`.

    These resources call the lake, Databricks, the registry, Azure ML or the endpoint from this machine. They need
    roles, which take effect late, and in a private network names that resolve once the private endpoints exist.

    Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
    """

    def wait(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult:
        opts = pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(depends_on=list(ready)))
        return pulumi.ResourceTransformationResult(props=args.props, opts=opts)

    return wait
