"""The values that all names of a stack depend on, and the resource group, which is the first resource.

Another subscription, region, environment or generation gives every resource another name. The engine would then replace
the whole stack: it would delete the lake with its rows and the registry with its models, and stop the endpoint. So a
deployed stack refuses such a change, in a preview too and before anything is deleted. Creates only the group in Azure.
"""

from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult
from pulumi_azure_native import resources

from infra.config.naming import Names
from infra.config.settings import Settings
from infra.dynamic.inputs import InputField, Inputs, Outputs, refused
from infra.dynamic.provider import Creation, ReleaseProvider
from infra.dynamic.resource import DynamicResource

_KEYS = {
    "subscription": "azure-native:subscriptionId",
    "location": "azure-native:location",
    "environment": "personalization:environment",
    "generation": "personalization:generation",
}


class PlacementInputs(Inputs):
    subscription: InputField[str] = refused()
    location: InputField[str] = refused()
    environment: InputField[str] = refused()
    generation: InputField[str] = refused()


class _PlacementProvider(ReleaseProvider[PlacementInputs, Outputs]):
    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        changed = [name for name in _KEYS if name in olds and olds[name] != news.get(name)]
        return CheckResult(news, [CheckFailure(name, _refusal(name, olds[name], news.get(name))) for name in changed])

    def create_object(self, inputs: PlacementInputs) -> Creation[Outputs]:
        return Creation("/".join(inputs.declared().values()), Outputs())


def _refusal(name: str, before: str, after: str | None) -> str:
    return (
        f"{_KEYS[name]} was {before} when this stack was deployed and is {after} now. It is part of every resource's "
        f"name, so this would delete the whole stack with its data and deploy another. Set it back to {before}. For a "
        "second deployment, make a new stack (personalization new-stack). To move this one, take it down first (make "
        "down, which deletes its data), then run make up."
    )


class Placement(DynamicResource[PlacementInputs], module="stack", name="Placement", provider=_PlacementProvider):
    """The values, each of which must stay."""


def resource_group(settings: Settings, subscription: str, names: Names) -> pulumi.Output[str]:
    """Name of the stack's resource group, which all other resources depend on."""
    inputs = PlacementInputs(
        subscription=subscription,
        location=settings.location,
        environment=settings.environment,
        generation=str(settings.generation),
    )
    placement = Placement("placement", inputs)
    options = pulumi.ResourceOptions(depends_on=[placement])
    return resources.ResourceGroup("personalization", resource_group_name=names.resource_group, opts=options).name
