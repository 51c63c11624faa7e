"""Tags for every resource that can carry them, by one transform instead of an argument in each component.

Does not tag what azure-native gives no `tags` argument (containers, role assignments, agent pool children).
"""

import inspect
import sys
from collections.abc import Mapping

import pulumi


def apply_to_all(tags: Mapping[str, str]) -> None:
    """Give every taggable azure-native resource of this program `tags`; a resource's own tags win."""

    def add(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        if not _takes_tags(args.type_):
            return None
        own = args.props.get("tags") or {}
        return pulumi.ResourceTransformResult(props={**args.props, "tags": {**tags, **own}}, opts=args.opts)

    pulumi.runtime.register_resource_transform(add)


def _takes_tags(token: str) -> bool:
    package, module, name = token.split(":")
    if package != "azure-native":
        return False
    resource = getattr(sys.modules.get(f"pulumi_azure_native.{module}"), name, None)
    return resource is not None and "tags" in inspect.signature(resource._internal_init).parameters
