"""Tags for every resource that can carry them, by one transformation instead of an argument in each component.

It is a transformation of the program, not a transform of the engine, because mocks have no engine. Does not tag
resources without a `tags` argument in azure-native (containers, role assignments).
"""

from collections.abc import Mapping

import pulumi

from infra.config import tag_rules


def apply_to_all(tags: Mapping[str, str]) -> None:
    """Add `tags` to every azure-native resource with that argument; a resource's own tags take precedence."""

    def add(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if not args.type_.startswith("azure-native:") or "tags" not in args.props:
            return None
        ours = tag_rules.for_dns(tags) if args.type_.startswith("azure-native:privatedns:") else tags
        merged = pulumi.Output.from_input(args.props["tags"]).apply(lambda own: {**ours, **(own or {})})
        return pulumi.ResourceTransformationResult(props={**args.props, "tags": merged}, opts=args.opts)

    pulumi.runtime.register_stack_transformation(add)
