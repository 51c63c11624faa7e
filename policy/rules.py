"""Rules for every stack, on azure-native types and on the dynamic resources of this program.

A rule is a function of one resource (for public network access: of the whole stack) that yields each problem with the
value to set. All are mandatory except `public-network-access` and `tls-inside-network`; `--policy-pack-config` changes
the level of a rule, the regions and the tags. The setting `personalization:production` makes a stack production
(`stack.py`). Private endpoints identify a private network.

A public production endpoint must use TLS: otherwise its key and its users' features cross the internet in plain text.
Inside a private network this is advice, repeated in every preview. No stack file can contain a certificate, because it
belongs to a name of the organisation, and a reader of the traffic is already inside the network.

Does not read Azure: manual changes there are infrastructure drift. Cannot distinguish a secret value from plain text,
because the engine unwraps it: a key is refused in both cases, because everything here authenticates by identity. The
only exception is the key of the endpoint's certificate.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pulumi_azure_native
from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.inputs import Resource, known, nodes, read
from policy.settings import (
    LOCAL_ACCOUNTS,
    LOCAL_AUTHENTICATION,
    PUBLIC_ACCESS,
    PUBLIC_BLOBS,
    REGISTRY_LOGIN,
    SHARED_KEYS,
    TLS,
    Setting,
)
from policy.stack import is_production

REQUIRED_TAGS = ["environment", "stack"]
STATEFUL = {
    "azure-native:containerregistry:Registry",
    "azure-native:containerservice:ManagedCluster",
    "azure-native:databricks:Workspace",
    "azure-native:keyvault:Vault",
    "azure-native:machinelearningservices:Workspace",
    "azure-native:storage:StorageAccount",
}
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
BROAD_ROLES = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": "Owner",
    "b24988ac-6180-42a0-ab88-20f7382dd24c": "Contributor",
}
SINGLE_RESOURCE = re.compile(r"/subscriptions/[^/]+(/resourceGroups/[^/]+)?/providers/[^/]+/[^/]+/[^/]+", re.IGNORECASE)
SDK = Path(pulumi_azure_native.__file__).parent
TAGS_PARAMETER = re.compile(r"^ +tags: pulumi\.Input", re.MULTILINE)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
SECRETS = {
    "a storage account key": re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==(?!=)|AccountKey=[A-Za-z0-9+/]{20}"),
    "a shared access signature": re.compile(r"\bsig=[A-Za-z0-9%+/]{40}"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a Databricks token": re.compile(r"\bdapi[0-9a-f]{32}"),
}

EXTENSION = "azure-native:kubernetesconfiguration:Extension"
PROTECTED = (
    # The service accepts these settings and never returns them (azure-rest-api-specs, Microsoft.KubernetesConfiguration
    # extensions.json, `configurationProtectedSettings`).
    (EXTENSION, "configurationProtectedSettings."),
    # The engine gives dynamic providers the stack's whole configuration, in the state with its secrets encrypted.
    ("pulumi:providers:pulumi-python", "serving:tls_key"),
)
AZURE_ML = "microsoft.azureml.kubernetes"
PINS = {
    "coordinates": (
        re.compile(r"[^:\s]+:[^:\s]+:\d[\w.-]*(?<!SNAPSHOT)", re.IGNORECASE),
        "<group>:<artifact>:<version>, one released version",
    ),
    "package": (re.compile(r"[\w.\[\],-]+==\d[\w.!]*"), "<package>==<version>"),
    "spark_version": (re.compile(r"\d+\.\d+\.x-[\w-]*scala\d+\.\d+"), "one runtime, such as 16.4.x-scala2.12"),
}
"""Required form of a value, by the name of a library's or a cluster's property."""

Check = Callable[[ResourceValidationArgs], Iterator[str]]


def settings(table: list[Setting]) -> Check:
    return lambda resource: (problem for setting in table for problem in setting.problems(resource))


def training_cluster(resource: ResourceValidationArgs) -> Iterator[str]:
    """Fixed size of training clusters: LightGBM's network ring can neither lose nor gain a worker.

    SynapseML's documentation excludes autoscaling.
    """
    if "databricks" not in resource.resource_type:
        return
    for path, cluster in nodes(known(resource.props)):
        if not isinstance(cluster, dict):
            continue
        if cluster.get("autoscale"):
            yield f"{path}.autoscale is set; give a fixed num_workers instead."
        attributes = cluster.get("azure_attributes", cluster.get("azureAttributes"))
        availability = str(attributes.get("availability")) if isinstance(attributes, dict) else ""
        workers = cluster.get("num_workers", cluster.get("numWorkers")) or 0
        if availability.startswith("SPOT") and workers > 1:
            yield (
                f"{path} has {workers:.0f} workers of availability {availability}; "
                "set it to ON_DEMAND_AZURE, or num_workers to 1."
            )


def secrets(resource: ResourceValidationArgs) -> Iterator[str]:
    for path, value in nodes(known(resource.props)):
        if path == "__provider":
            continue  # a class of this program by name, in an encoding that may be as long as a key
        if any(resource.resource_type == kind and path.startswith(prefix) for kind, prefix in PROTECTED):
            continue
        for kind, shape in SECRETS.items():
            if isinstance(value, str) and shape.search(value):
                yield f"{path} holds {kind}; use an identity with a role, or a reference to a key vault's secret."


def tags(resource: ResourceValidationArgs) -> Iterator[str]:
    if takes_tags(resource.resource_type):
        present = read(resource.props, "tags") or {}
        for tag in resource.get_config().get("tags", REQUIRED_TAGS):
            if not present.get(tag):
                yield f"tags.{tag} is not set; give it a value, such as infra/config/tags.py gives to every resource."


@cache
def takes_tags(token: str) -> bool:
    """Whether the SDK declares tags for the type. It is read as text, because importing the modules takes seconds."""
    if not token.startswith("azure-native:"):
        return False
    _, module, name = token.split(":")
    return any(
        TAGS_PARAMETER.search(file.read_text("utf-8"))
        for file in (SDK / module).glob("*.py")
        if file.stem.replace("_", "") == name.lower()
    )


def regions(resource: ResourceValidationArgs) -> Iterator[str]:
    """Allowed regions. Without a list, the region of the resource's provider: one stack is in one region."""
    home = read(resource.provider.props, "location") if resource.provider else None
    allowed = resource.get_config().get("regions") or ([home] if home else [])
    location = read(resource.props, "location")
    if allowed and location and _region(location) not in {"global", *map(_region, allowed)}:
        yield f"location is {location}; set it to {' or '.join(allowed)}, or let `regions` of this rule name it."


def images(resource: ResourceValidationArgs) -> Iterator[str]:
    for path, value in nodes(known(resource.props)):
        if path.rpartition(".")[2] == "image" and isinstance(value, str) and not DIGEST.search(value):
            yield f"{path} is {value}, which may name another image later; name it as <repository>@sha256:<digest>."


def pins(resource: ResourceValidationArgs) -> Iterator[str]:
    """Pinned versions: a job that resolves versions at its start may train with different code each day."""
    if "databricks" not in resource.resource_type:
        return
    for path, value in nodes(known(resource.props)):
        # In a cluster policy the value is within a rule of kind `fixed`.
        kind = path.removesuffix(".value").rpartition(".")[2].replace("sparkVersion", "spark_version")
        if isinstance(value, str) and kind in PINS and not PINS[kind][0].fullmatch(value):
            yield f"{path} is {value}; set it to {PINS[kind][1]}."


def endpoint_tls(resource: ResourceValidationArgs, inside: bool) -> Iterator[str]:
    """TLS of the endpoint in production. `inside`: check routers in a private network, otherwise public ones."""
    if resource.resource_type != EXTENSION or read(resource.props, "extensionType") != AZURE_ML:
        return
    settings = read(resource.props, "configurationSettings") or {}
    private = str(settings.get("scoringFe.serviceType.internalLoadBalancer", False)).lower() != "false"
    plain = str(settings.get("allowInsecureConnections")).lower() == "true"
    if plain and private == inside and is_production():
        yield (
            "configurationSettings.allowInsecureConnections is True, and the endpoint's key crosses the network in "
            "plain text; set a certificate for the endpoint's name (serving:hostname)."
        )


def protection(resource: ResourceValidationArgs) -> Iterator[str]:
    if resource.resource_type in STATEFUL and not resource.opts.protect and is_production():
        yield "the resource option protect is not set; set it to True, because its data cannot be created again."


def roles(resource: ResourceValidationArgs) -> Iterator[str]:
    """Scope of broad roles. A preview does not know the id of a new resource; `up` runs this rule again with the id."""
    if resource.resource_type != "azure-native:authorization:RoleAssignment":
        return
    role = BROAD_ROLES.get(read(resource.props, "roleDefinitionId").rpartition("/")[2].lower())
    with contextlib.suppress(UnknownValueError):
        if role and not SINGLE_RESOURCE.match(scope := read(resource.props, "scope")):
            yield f"scope of {role} is {scope}; set it to the id of a single resource, or give a narrower role."


def public_access(stack: StackValidationArgs, binding: bool) -> Iterator[tuple[str, Resource]]:
    """Resources with public endpoints. `binding`: only in a production stack with a private network."""
    private = any(resource.resource_type == "azure-native:network:PrivateEndpoint" for resource in stack.resources)
    if binding == (private and is_production()):
        for resource in stack.resources:
            for setting in PUBLIC_ACCESS:
                yield from ((problem, resource) for problem in setting.problems(resource))


def _region(name: str) -> str:
    return name.replace(" ", "").lower()


def _message(resource: Resource, problem: str) -> str:
    return f"{resource.name} ({resource.resource_type}): {problem}"


def _rule(
    name: str, description: str, check: Check, level: EnforcementLevel | None = None, **configurable: dict[str, Any]
) -> ResourceValidationPolicy:
    """Return a rule; `level` defaults to the pack's, which is mandatory."""

    def validate(resource: ResourceValidationArgs, report: ReportViolation) -> None:
        for problem in check(resource):
            report(_message(resource, problem), None)

    schema = PolicyConfigSchema(configurable) if configurable else None
    return ResourceValidationPolicy(name, description, validate, level, schema)


def _network_rule(name: str, description: str, level: EnforcementLevel) -> StackValidationPolicy:
    def validate(stack: StackValidationArgs, report: ReportViolation) -> None:
        for problem, resource in public_access(stack, binding=level is EnforcementLevel.MANDATORY):
            report(_message(resource, problem), resource.urn)

    return StackValidationPolicy(name, description, validate, level)


_NAMES = {"type": "array", "items": {"type": "string"}}
POLICIES: tuple[Policy, ...] = (
    _rule("storage-shared-keys", "Storage is accessed by identity, never by account key.", settings(SHARED_KEYS)),
    _rule("storage-public-blobs", "No blob can be read without logging in.", settings(PUBLIC_BLOBS)),
    _rule(
        "registry-login",
        "Images are pulled by identity, not anonymously and not by an admin user.",
        settings(REGISTRY_LOGIN),
    ),
    _rule("kubernetes-local-accounts", "Users log in to a cluster through Entra only.", settings(LOCAL_ACCOUNTS)),
    _rule("local-authentication", "No service has keys or access lists next to Entra.", settings(LOCAL_AUTHENTICATION)),
    _rule("tls", "Connections are encrypted with TLS 1.2 or later.", settings(TLS)),
    _rule("endpoint-tls", "A public production endpoint uses TLS.", partial(endpoint_tls, inside=False)),
    _rule(
        *("tls-inside-network", "A production endpoint also uses TLS inside its network."),
        *(partial(endpoint_tls, inside=True), EnforcementLevel.ADVISORY),
    ),
    _rule("pinned-versions", "Libraries and runtimes are named with one version.", pins),
    _rule("training-cluster-size", "A training cluster has a fixed number of workers.", training_cluster),
    _rule("secret-in-inputs", "No key, token or signature is an input of a resource.", secrets),
    _rule("required-tags", "Every resource that accepts tags has the required ones.", tags, tags=_NAMES),
    _rule("allowed-regions", "Every resource is in an allowed region.", regions, regions=_NAMES),
    _rule("image-by-digest", "A container image is named by its digest.", images),
    _rule("protected-in-production", "Resources with data are protected in production.", protection),
    _rule("broad-roles", "Owner and Contributor are assigned on single resources only.", roles),
    _network_rule("public-network-access", "No resource has a public endpoint.", EnforcementLevel.ADVISORY),
    _network_rule("private-network", "A private production stack has no public endpoint.", EnforcementLevel.MANDATORY),
)
