"""One release as a component: a model is trained, it is served, and people are given what they look at it with.

Does not create infrastructure: it is handed what it runs on.
"""

import pulumi

from infra.release.arguments import ReleaseArgs
from infra.release.people import People
from infra.release.served import Served
from infra.release.trained import Trained


class Release(pulumi.ComponentResource):
    trained: Trained
    served: Served
    people: People
    says: dict[str, str]
    """What decides the release, known before anything is done: as an output, every preview shows what will flip."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:release:Release", name, None, opts)
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
            "steps": " ".join(map(str, settings.release.rollout)),
        }
        self.register_outputs({})
