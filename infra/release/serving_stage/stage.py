"""Serving of a registered model: image, environment, rollout, and the record of the live deployment."""

import pulumi

from infra.planning.capacity import DEFAULT_INSTANCE_TYPE, heap, plan
from infra.release.arguments import MODEL, ReleaseArgs
from infra.release.serving_stage.deployment import Scale
from infra.release.serving_stage.environment import EnvironmentInputs, EnvironmentVersion
from infra.release.serving_stage.image import ImageInputs, ScoringImage, context_digest
from infra.release.serving_stage.live_record import LiveReference, LiveReferenceInputs
from infra.release.serving_stage.rollout import ALL_TRAFFIC, Rollout, RolloutInputs
from infra.release.training_stage.stage import TrainingStage


class ServingStage(pulumi.ComponentResource):
    source: str
    """Origin of the image: the first sixteen digits of the build context's digest, or of an existing image's digest."""
    image: ScoringImage
    rollout: Rollout

    def __init__(
        self, name: str, args: ReleaseArgs, training: TrainingStage, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        # The type token is in the state of every stack, so it keeps the class's earlier name.
        super().__init__("personalization:release:Served", name, None, opts)
        engine = args.settings.serving.engine
        self.image = self._image(f"{name}-image", args)
        environment_name = f"scoring-{engine}"
        environment = EnvironmentVersion(
            f"{name}-environment",
            EnvironmentInputs(**args.model_registry, environment_name=environment_name, image=self.image.image),
            pulumi.ResourceOptions(parent=self),
        )
        reference = environment.version.apply(lambda version: f"{environment_name}:{version}")
        self.rollout = self._rollout(f"{name}-rollout", args, training, reference)
        LiveReference(
            f"{name}-live",
            LiveReferenceInputs(
                **args.models,
                **args.lake_identity,
                **args.model_registry,
                endpoint_name=args.inference.endpoint_name,
                model_name=MODEL,
                model_version=training.version,
                environment=reference,
                engine=engine,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=[self.rollout]),
        )
        self.register_outputs({})

    def _image(self, name: str, args: ReleaseArgs) -> ScoringImage:
        """Declare the image that the registry builds from `scoring/`, or the existing one of `release:image`."""
        existing = args.settings.release.image
        context = None if existing else context_digest()
        self.source = context[:16] if context else f"existing {str(existing)[7:23]}"
        inputs = ImageInputs(
            registry_id=args.registry.registry_id,
            registry_uid=args.registry.registry_uid,
            login_server=args.registry.login_server,
            engine=args.settings.serving.engine,
            digest=context,
            existing=existing,
            build_pool=args.registry.build_pool,
        )
        return ScoringImage(name, inputs, pulumi.ResourceOptions(parent=self))

    def _rollout(
        self, name: str, args: ReleaseArgs, training: TrainingStage, environment: pulumi.Output[str]
    ) -> Rollout:
        """Declare the rollout, with replicas from the capacity plan."""
        serving, planned = args.settings.serving, plan(args.settings.serving)
        scale: Scale = {
            "min": planned.replicas_min,
            "max": planned.replicas_max,
            "cpu": serving.cpu,
            "memory": serving.memory,
            "concurrency": serving.concurrency,
            "utilisation": planned.utilisation,
        }
        if jvm := heap(serving):
            scale["heap"] = jvm
        inputs = RolloutInputs(
            **args.models,
            **args.model_registry,
            endpoint_name=args.inference.endpoint_name,
            endpoint_revision=args.inference.endpoint_revision,
            model_name=MODEL,
            model_version=training.version,
            environment=environment,
            engine=serving.engine,
            instance_type=serving.instance_type or DEFAULT_INSTANCE_TYPE,
            scale=scale,
            rollout=args.settings.release.traffic_steps,
            limits=args.settings.release.limits,
            share=ALL_TRAFFIC,
        )
        return Rollout(name, inputs, pulumi.ResourceOptions(parent=self, depends_on=[training.registered]))
