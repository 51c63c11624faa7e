"""Aliases of resource types: earlier names under which the engine looks for a resource in a stack's state.

azure-native declares one alias for each API version of a type, about 1,300 for this program, and computing them takes
two thirds of the program's time after the SDK is loaded. The states of this program hold types without a version, so
these aliases are removed. Aliases from before a type was moved or renamed stay.
"""

import re

import pulumi

_OF_AN_API_VERSION = re.compile(r"azure-native:\w+/v\d{8}\w*:")


def leave_out_api_versions() -> None:
    def leave_out(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if not args.opts.aliases:
            return None
        args.opts.aliases = [alias for alias in args.opts.aliases if not _is_of_an_api_version(alias)]
        return pulumi.ResourceTransformationResult(props=args.props, opts=args.opts)

    pulumi.runtime.register_stack_transformation(leave_out)


def _is_of_an_api_version(alias: pulumi.Input[str | pulumi.Alias]) -> bool:
    """Whether the alias names an API version. False for URNs and unknown types, which the SDK does not declare."""
    return (
        isinstance(alias, pulumi.Alias) and isinstance(alias.type_, str) and bool(_OF_AN_API_VERSION.match(alias.type_))
    )
