"""One release as a component: a model is trained, it is served, and people are given what they look at it with.

Does not create infrastructure: it uses the components in its arguments, and nothing in it begins before they are ready.
"""

from collections.abc import Callable, Sequence

import pulumi

from infra.release.arguments import ReleaseArgs
from infra.release.interactive_access.access import People
from infra.release.serving_stage.stage import Served
from infra.release.training_stage.stage import Trained


class Release(pulumi.ComponentResource):
    trained: Trained
    served: Served
    people: People
    says: dict[str, str]
    """What decides the release, known before anything is done: as an output, every preview shows what will flip."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        waiting = pulumi.ResourceOptions(transformations=[_after(args.ready)])
        super().__init__("personalization:release:Release", name, None, pulumi.ResourceOptions.merge(opts, waiting))
        settings, child = args.settings, pulumi.ResourceOptions(parent=self)
        self.trained = Trained(name, args, child)
        self.served = Served(name, args, self.trained, child)
        self.people = People(name, args, self.trained, self.served, child)
        self.says = {
            "model": str(settings.release.model),
            "rows": f"{settings.training.dataset} {self.trained.rows}",
            "code": self.trained.code,
            "image": self.served.source,
            "engine": settings.serving.engine,
            "steps": " ".join(map(str, settings.release.traffic_steps)),
        }
        self.register_outputs({})


def _after(ready: Sequence[pulumi.Resource]) -> Callable[..., pulumi.ResourceTransformationResult]:
    """Let every resource below the component wait for `ready`, also one that names none of it.

    All call the lake, Databricks, the registry, Azure ML or the endpoint from here, by roles that take effect late and,
    in a private network, by names that lead nowhere before.

    Source: MicrosoftDocs/azure-docs articles/private-link/private-endpoint-dns.md
    """

    def wait(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult:
        opts = pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(depends_on=list(ready)))
        return pulumi.ResourceTransformationResult(props=args.props, opts=opts)

    return wait
