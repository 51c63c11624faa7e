"""Resource providers: registered in the subscription, with the program's resource types in the region."""

from collections.abc import Iterator
from functools import partial

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import Provider
from cli.preflight.check import Check, Finding, Level, Target
from cli.preflight.requirements import load

# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
_VERSION = "2021-04-01"


def checks(target: Target) -> Iterator[Check]:
    for namespace, kinds in load().kinds_by_namespace(target.settings).items():
        yield Check("providers", namespace, partial(_provider, target, namespace, kinds))


def _provider(target: Target, namespace: str, kinds: list[str]) -> Iterator[Finding]:
    provider = target.arm.get(Provider, f"{target.scope}/providers/{namespace}", _VERSION)
    if provider is None:
        raise NotAnswered("is not a provider of this cloud", 404)
    missing = [kind for kind in kinds if not _offers(provider, kind, target.settings.location)]
    if provider.registration_state != "Registered":
        message = f"{namespace} is {provider.registration_state} in this subscription"
        yield Finding("providers", Level.BLOCKING, message, f"az provider register --namespace {namespace} --wait")
    elif not missing:
        yield Finding("providers", Level.OK, namespace)
    for kind in missing:
        message = f"{namespace}/{kind} is not offered in {target.settings.location}"
        query = f"resourceTypes[?resourceType=='{kind}'].locations"
        elsewhere = f"personalization new-stack {target.settings.environment}-<region> --like {target.stack}"
        remedy = f'az provider show --namespace {namespace} --query "{query}"\n{elsewhere}'
        yield Finding("services", Level.BLOCKING, message, remedy)


def _offers(provider: Provider, kind: str, region: str) -> bool:
    """Return whether the provider offers the type in the region.

    The list has some nested types, each with its own regions (`registries/agentPools`), and lacks others
    (`managedClusters/agentPools`). A nested type that is not listed is offered in its parent's regions.
    Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-support.md
    """
    listed = next((entry for entry in provider.resource_types if entry.resource_type.lower() == kind.lower()), None)
    if listed is None:
        return "/" in kind and _offers(provider, kind.rpartition("/")[0], region)
    regions = {name.replace(" ", "").lower() for name in listed.locations}
    return not regions or bool(regions & {region, "global"})  # an empty list means that the type has no region
