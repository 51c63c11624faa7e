"""The stack's resource group: does not exist yet, or is in the stack's state.

`up` cannot create a group that exists ("cannot create already existing resource"). Names depend on subscription, region
and stack, so a stack of the same name in another Pulumi backend has the same group with the same tags. Only the state
distinguishes the two. Does not compare other resources with the state; `pulumi preview --refresh` does.
"""

from collections.abc import Iterator
from functools import partial

from cli.errors import UserError
from cli.preflight.arm_models import Listed
from cli.preflight.check import Check, Finding, Level, Target
from cli.stacks import state
from cli.stacks.retained_resources import own_groups

# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
_GROUPS = "2021-04-01"


def checks(target: Target) -> Iterator[Check]:
    yield Check("state", target.names.resource_group, partial(_group, target))


def _group(target: Target) -> Iterator[Finding]:
    name = target.names.resource_group
    group = target.arm.get(Listed, target.group, _GROUPS)
    backend = "pulumi whoami --verbose  # the backend in use: log in to the one that holds the stack"
    groups: list[str] = []
    try:
        groups = own_groups(state.resources(target.folder, target.stack))
    except UserError as error:
        if group:
            message = f"resource group {name} exists, but whether {target.stack} created it is unknown: {error}"
            yield Finding("state", Level.WARNING, message, backend)
            return
    if group is None:
        yield _absent(target, groups)
        return
    if target.group.lower() in map(str.lower, groups):
        yield Finding("state", Level.OK, f"{name} is in the state of {target.stack}")
        return
    tags = ", ".join(f"{key} {group.tags[key]}" for key in ("stack", "environment") if key in group.tags)
    message = (
        f"resource group {name} exists ({f'tags: {tags}' if tags else 'without tags of a stack'}) and is not in the "
    )
    message += (
        f"state of {target.stack}, so `up` cannot create it: another backend holds the stack, or its state is lost"
    )
    renamed = target.set("generation", target.settings.generation + 1)
    yield Finding("state", Level.BLOCKING, message, f"{backend}\n{renamed}  # other names, next to the existing ones")


def _absent(target: Target, groups: list[str]) -> Finding:
    name, others = target.names.resource_group, [group.rpartition("/")[2] for group in groups]
    if not others or name in others:
        return Finding("state", Level.OK, f"{name} does not exist yet")
    message = (
        f"the state of {target.stack} holds {', '.join(others)}, and the names are now those of {name}: the next `up` "
    )
    message += (
        "replaces everything, data included, because the stack's name, region, environment or generation has changed"
    )
    return Finding("state", Level.WARNING, message, f"make preview STACK={target.stack}")
