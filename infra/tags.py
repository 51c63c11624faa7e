"""Tags for every resource that can carry them, by one transformation instead of an argument in each component.

A transformation of the program rather than a transform of the engine: it works under mocks, which have no engine.
Does not tag what azure-native gives no `tags` argument (containers, role assignments).
"""

from collections.abc import Mapping

import pulumi

from infra import tag_rules


def apply_to_all(tags: Mapping[str, str]) -> None:
    """Give every azure-native resource that takes tags `tags`; a resource's own tags win."""

    def add(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if not args.type_.startswith("azure-native:") or "tags" not in args.props:
            return None
        ours = tag_rules.for_dns(tags) if args.type_.startswith("azure-native:privatedns:") else tags
        merged = pulumi.Output.from_input(args.props["tags"]).apply(lambda own: {**ours, **(own or {})})
        return pulumi.ResourceTransformationResult(props={**args.props, "tags": merged}, opts=args.opts)

    pulumi.runtime.register_stack_transformation(add)
