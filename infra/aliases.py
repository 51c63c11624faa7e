"""Earlier names of a resource's type, by which the engine finds it in the state of a stack that knows it by one.

azure-native gives each type one for every API version there has been, some 1,300 for this program, and to work them out
takes it two thirds of its time once the SDK is loaded. A stack of this program knows types without a version, so those
names go; a type's name from before it was moved or renamed stays.
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
    """False for what the SDK does not write: a URN, and a type that is not known yet."""
    return (
        isinstance(alias, pulumi.Alias) and isinstance(alias.type_, str) and bool(_OF_AN_API_VERSION.match(alias.type_))
    )
