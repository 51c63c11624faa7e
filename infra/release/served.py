"""From a registered model to traffic: image, environment, rollout."""

import pulumi

from infra.capacity import plan
from infra.inference import INSTANCE_TYPE
from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.environment import EnvironmentVersion
from infra.release.image import ScoringImage, context_digest
from infra.release.rollout import Rollout
from infra.release.trained import Trained


class Served(pulumi.ComponentResource):
    context: str
    """Digest of what the image is built from."""
    image: ScoringImage
    rollout: Rollout

    def __init__(
        self, name: str, args: ReleaseArgs, trained: Trained, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("personalization:release:Served", name, None, opts)
        settings, serving, planned = args.settings, args.settings.serving, plan(args.settings.serving)
        child = pulumi.ResourceOptions(parent=self)
        self.context = context_digest()
        self.image = ScoringImage(
            f"{name}-image",
            registry_id=args.registry.registry_id,
            registry_uid=args.registry.registry_uid,
            login_server=args.registry.login_server,
            engine=serving.engine,
            digest=self.context,
            build_pool=args.registry.build_pool,
            opts=child,
        )
        environment_name = f"scoring-{serving.engine}"
        environment = EnvironmentVersion(
            f"{name}-environment",
            **args.registry_of_models,
            environment_name=environment_name,
            image=self.image.image,
            opts=child,
        )
        self.rollout = Rollout(
            f"{name}-rollout",
            **args.models,
            **args.registry_of_models,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            model_name=MODEL,
            model_version=trained.version,
            environment=environment.version.apply(lambda version: f"{environment_name}:{version}"),
            engine=serving.engine,
            instance_type=INSTANCE_TYPE,
            scale={
                "min": planned.replicas_min,
                "max": planned.replicas_max,
                "cpu": serving.cpu,
                "memory": serving.memory,
                "concurrency": serving.concurrency,
                "utilisation": planned.utilisation,
            },
            rollout=settings.release.rollout,
            limits=settings.release.limits,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[trained.registered]),
        )
        self.register_outputs({})
