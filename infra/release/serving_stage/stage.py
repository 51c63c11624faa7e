"""Serving of a registered model: image, environment, rollout, and the record of the live deployment."""

import pulumi

from infra.planning.capacity import DEFAULT_INSTANCE_TYPE, heap, plan
from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.serving_stage.environment import EnvironmentVersion
from infra.release.serving_stage.image import ScoringImage, context_digest
from infra.release.serving_stage.live_record import LiveReference
from infra.release.serving_stage.rollout import Rollout
from infra.release.training_stage.stage import Trained


class Served(pulumi.ComponentResource):
    source: str
    """Origin of the image: the first sixteen digits of the build context's digest, or of an existing image's digest."""
    image: ScoringImage
    rollout: Rollout

    def __init__(
        self, name: str, args: ReleaseArgs, trained: Trained, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("personalization:release:Served", name, None, opts)
        settings, serving, planned = args.settings, args.settings.serving, plan(args.settings.serving)
        child = pulumi.ResourceOptions(parent=self)
        existing = settings.release.image
        context = None if existing else context_digest()
        self.source = context[:16] if context else f"existing {str(existing)[7:23]}"
        self.image = ScoringImage(
            f"{name}-image",
            registry_id=args.registry.registry_id,
            registry_uid=args.registry.registry_uid,
            login_server=args.registry.login_server,
            engine=serving.engine,
            digest=context,
            existing=existing,
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
        reference = environment.version.apply(lambda version: f"{environment_name}:{version}")
        self.rollout = Rollout(
            f"{name}-rollout",
            **args.models,
            **args.registry_of_models,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            model_name=MODEL,
            model_version=trained.version,
            environment=reference,
            engine=serving.engine,
            instance_type=serving.instance_type or DEFAULT_INSTANCE_TYPE,
            scale={
                "min": planned.replicas_min,
                "max": planned.replicas_max,
                "cpu": serving.cpu,
                "memory": serving.memory,
                "concurrency": serving.concurrency,
                "utilisation": planned.utilisation,
                **({"heap": jvm} if (jvm := heap(serving)) else {}),
            },
            rollout=settings.release.traffic_steps,
            limits=settings.release.limits,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[trained.registered]),
        )
        LiveReference(
            f"{name}-live",
            **args.models,
            **args.lake_identity,
            **args.registry_of_models,
            endpoint_name=args.inference.endpoint_name,
            model_name=MODEL,
            model_version=trained.version,
            environment=reference,
            engine=serving.engine,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.rollout]),
        )
        self.register_outputs({})
