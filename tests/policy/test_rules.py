"""Each rule of the policy pack: a resource that keeps to it, one that does not, and the text of the violation."""

import base64
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
import pytest
from pulumi_azure_native import keyvault
from pulumi_policy import (
    EnforcementLevel,
    PolicyCustomTimeouts,
    PolicyProviderResource,
    PolicyResource,
    PolicyResourceOptions,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, UnknownValueError, unknown_checking_proxy

from infra.config.loading import ConfigError, load
from infra.release.training_stage.job import JobSpec, job_settings
from policy import rules, stack
from testing.stack.infra_graph import STACK, graph

RESOURCE_RULES = {rule.name: rule for rule in rules.POLICIES if isinstance(rule, ResourceValidationPolicy)}
STACK_RULES = {rule.name: rule for rule in rules.POLICIES if isinstance(rule, StackValidationPolicy)}
ACCOUNT, REGISTRY, VAULT = "storage:StorageAccount", "containerregistry:Registry", "keyvault:Vault"
JOB, ENVIRONMENT = (
    "pulumi-python:dynamic/databricks:TrainingJob",
    "pulumi-python:dynamic/machinelearning:EnvironmentVersion",
)
GROUP = "/subscriptions/s/resourceGroups/g"
# Put together here, so that no scanner takes these for keys of someone's.
KEY = base64.b64encode(bytes(range(64))).decode()
PEM = f"-----BEGIN RSA {'PRIVATE'} KEY-----\nMII"
SECRETS = {
    "a storage account key": [KEY, f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY[:60]}"],
    "a shared access signature": [f"https://lake.blob.core.windows.net/raw?sv=2024-11-04&sig={KEY[:43]}%3D"],
    "a private key": [PEM],
    "a Databricks token": ["dapi" + "0" * 32],
}


def declared(
    resource_type: str, properties: Mapping[str, Any], *, protect: bool = False, **config: Any
) -> ResourceValidationArgs:
    """A resource as the SDK hands it to a rule, of a provider whose region is westeurope."""
    token = full(resource_type)
    return ResourceValidationArgs(
        token,
        unknown_checking_proxy(dict(properties)),
        f"urn:pulumi:dev::personalization::{token}::it",
        "it",
        options(protect),
        PolicyProviderResource("pulumi:providers:azure-native", {"location": "westeurope"}, "urn", "default"),
        config,
    )


def configure(*, production: bool) -> None:
    stack.configure({stack.PRODUCTION: str(production).lower()})


@pytest.fixture(autouse=True)
def _not_production() -> Iterator[None]:
    configure(production=False)
    yield
    stack.configure({})


def full(resource_type: str) -> str:
    return resource_type if resource_type.count(":") == 2 else f"azure-native:{resource_type}"


def options(protect: bool = False) -> PolicyResourceOptions:
    return PolicyResourceOptions(protect, [], None, [], PolicyCustomTimeouts(0, 0, 0), [])


def violations(rule: str, resource: ResourceValidationArgs) -> list[str]:
    found: list[str] = []
    RESOURCE_RULES[rule].validate(resource, lambda message, _urn: found.append(message))
    return found


def job(**changes: Any) -> dict[str, Any]:
    """The program's own job, its cluster changed."""
    workers, spot = changes.pop("workers", 2), changes.pop("spot", False)
    spec = JobSpec(
        "j",
        "movielens",
        "s",
        "/Volumes",
        "w",
        "code",
        "/e",
        "16.4.x-scala2.12",
        "D4",
        workers,
        spot,
        "0 0 3 * * ?",
        False,
        60,
        "all",
        {},
    )
    settings = job_settings(spec)
    settings["job_clusters"][0]["new_cluster"] |= changes
    return {"settings": json.dumps(settings)}


def role(role_id: str, scope: str) -> dict[str, Any]:
    return {"roleDefinitionId": f"{GROUP}/providers/Microsoft.Authorization/roleDefinitions/{role_id}", "scope": scope}


def libraries(**library: dict[str, str]) -> dict[str, Any]:
    """The program's own job with one library of its first task changed."""
    settings = json.loads(job()["settings"])
    settings["tasks"][0]["libraries"] = [library]
    return {"settings": json.dumps(settings)}


def policy(spark_version: str) -> str:
    return json.dumps({"spark_version": {"type": "fixed", "value": spark_version}})


def router(plain: bool, private: bool) -> dict[str, Any]:
    settings = {"allowInsecureConnections": str(plain)}
    settings |= {"scoringFe.serviceType.internalLoadBalancer": "True"} if private else {}
    return {"extensionType": "microsoft.azureml.kubernetes", "configurationSettings": settings}


OWNER, CONTRIBUTOR = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "b24988ac-6180-42a0-ab88-20f7382dd24c"
PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
LAKE = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/lake"
DIGEST = f"acr.azurecr.io/scoring@sha256:{'0' * 64}"
OWN_CLUSTER = "databricks:index/cluster:Cluster"
POLICY = "pulumi-python:dynamic/databricks:ClusterPolicy"
COMPUTE, EXTENSION = "machinelearningservices:Compute", "kubernetesconfiguration:Extension"
TAGGED = {"tags": {"environment": "dev", "stack": "dev"}}

# Rule, type, allowed inputs, refused inputs, and the text of the violation: the property and an allowed value.
CASES = [
    ("storage-shared-keys", ACCOUNT, {"allowSharedKeyAccess": False}, {}, "allowSharedKeyAccess is not set", "false"),
    ("storage-shared-keys", ACCOUNT, {"allowSharedKeyAccess": False}, {"allowSharedKeyAccess": True}, "true", "false"),
    ("storage-public-blobs", ACCOUNT, {}, {"allowBlobPublicAccess": True}, "allowBlobPublicAccess is true", "false"),
    ("storage-public-blobs", "storage:BlobContainer", {}, {"publicAccess": "Blob"}, "publicAccess", '"None"'),
    ("registry-login", REGISTRY, {}, {"adminUserEnabled": True}, "adminUserEnabled is true", "false"),
    ("registry-login", REGISTRY, {}, {"anonymousPullEnabled": True}, "anonymousPullEnabled is true", "false"),
    ("kubernetes-local-accounts", "containerservice:ManagedCluster", {"disableLocalAccounts": True}, {}, "not", "true"),
    (
        *("local-authentication", COMPUTE, {"properties": {"disableLocalAuth": True}}),
        *({"properties": {"computeType": "AmlCompute"}}, "properties.disableLocalAuth is not set", "true"),
    ),
    (
        *("local-authentication", "operationalinsights:Workspace", {"features": {"disableLocalAuth": True}}),
        *({}, "features.disableLocalAuth is not set", "true"),
    ),
    (
        *("local-authentication", "applicationinsights:Component", {"disableLocalAuth": True}),
        *({"disableLocalAuth": False}, "disableLocalAuth is false", "true"),
    ),
    (
        *("local-authentication", VAULT, {"properties": {"enableRbacAuthorization": True}}),
        *({"properties": {}}, "properties.enableRbacAuthorization is not set", "true"),
    ),
    (
        *("local-authentication", "machinelearningservices:Workspace", {"systemDatastoresAuthMode": "identity"}),
        *({}, "systemDatastoresAuthMode is not set", "Identity"),
    ),
    ("local-authentication", ACCOUNT, {}, None, "", ""),
    ("pinned-versions", JOB, job(), libraries(maven={"coordinates": "a:b_2.12:latest.release"}), "is a:b", "<version>"),
    ("pinned-versions", JOB, job(), libraries(maven={"coordinates": "a:b:[1.0,2.0)"}), "coordinates", "one released"),
    (
        "pinned-versions",
        JOB,
        job(),
        libraries(maven={"coordinates": "a:b:1.0-SNAPSHOT"}),
        "coordinates",
        "one released",
    ),
    ("pinned-versions", JOB, job(), libraries(pypi={"package": "synapseml>=1.1"}), "package is synapseml>=1.1", "=="),
    ("pinned-versions", JOB, job(), libraries(pypi={"package": "mlflow-skinny"}), "package is mlflow-skinny", "=="),
    ("pinned-versions", JOB, job(), job(spark_version="auto:latest-lts"), "new_cluster.spark_version", "16.4.x"),
    (
        "pinned-versions",
        OWN_CLUSTER,
        {"sparkVersion": "16.4.x-photon-scala2.12"},
        {"sparkVersion": "16"},
        "is 16",
        "one",
    ),
    (
        *("pinned-versions", POLICY, {"definition": policy("16.4.x-scala2.12")}),
        *({"definition": policy("auto:latest")}, "definition.spark_version.value is auto:latest", "one runtime"),
    ),
    ("pinned-versions", ACCOUNT, {"package": "any"}, None, "", ""),
    ("tls", ACCOUNT, {"minimumTlsVersion": "TLS1_2"}, {"minimumTlsVersion": "TLS1_1"}, "minimumTlsVersion", "TLS1_2"),
    ("tls", ACCOUNT, {"minimumTlsVersion": "TLS1_3"}, {}, "not set, and Azure's default is", "TLS1_2"),
    (
        *("tls", ACCOUNT, {"minimumTlsVersion": "TLS1_2"}),
        {"minimumTlsVersion": "TLS1_2", "enableHttpsTrafficOnly": False},
        *("enableHttpsTrafficOnly is false", "true"),
    ),
    ("training-cluster-size", JOB, job(), job(autoscale={"min_workers": 1}), "job_clusters.0.new_cluster", "fixed"),
    ("training-cluster-size", JOB, job(workers=1, spot=True), job(spot=True), "2 workers", "ON_DEMAND_AZURE"),
    ("training-cluster-size", OWN_CLUSTER, {"numWorkers": 2}, {"autoscale": {"maxWorkers": 2}}, "autoscale", "fixed"),
    ("training-cluster-size", ACCOUNT, {"autoscale": {"max": 2}}, None, "", ""),
    ("required-tags", ACCOUNT, TAGGED, {"tags": {"environment": "dev"}}, "tags.stack is not set", "value"),
    ("required-tags", REGISTRY, TAGGED, {}, "tags.environment is not set", "value"),
    ("required-tags", "storage:BlobContainer", {}, None, "", ""),
    ("allowed-regions", ACCOUNT, {"location": "West Europe"}, {"location": "eastus"}, "is eastus", "westeurope"),
    ("allowed-regions", "network:PrivateEndpoint", {}, {"location": "eastus"}, "is eastus", "westeurope"),
    ("allowed-regions", "privatedns:PrivateZone", {"location": "Global"}, None, "", ""),
    ("image-by-digest", ENVIRONMENT, {"image": DIGEST}, {"image": "acr.azurecr.io/scoring:1"}, "image is", "@sha256:"),
    (
        *("image-by-digest", "machinelearningservices:EnvironmentVersion", {"properties": {"image": DIGEST}}),
        {"properties": {"image": DIGEST.partition("@")[0]}},
        *("properties.image is", "@sha256:"),
    ),
    ("broad-roles", "authorization:RoleAssignment", role(OWNER, LAKE), role(OWNER, GROUP), "scope of", "single"),
    ("broad-roles", "authorization:RoleAssignment", role(PULL, GROUP), role(CONTRIBUTOR, "/"), "scope of", "single"),
    ("broad-roles", ACCOUNT, {}, None, "", ""),
]


@pytest.mark.parametrize(("rule", "resource_type", "kept", "broken", "property_", "remedy"), CASES)
def test_rule_passes_allowed_inputs_and_names_the_remedy_for_others(
    rule: str, resource_type: str, kept: dict[str, Any], broken: dict[str, Any] | None, property_: str, remedy: str
) -> None:
    assert violations(rule, declared(resource_type, kept)) == []
    if broken is not None:
        resource = declared(resource_type, broken)
        found = violations(rule, resource)
        assert found
        assert found[0].startswith(f"it ({resource.resource_type}): ")
        assert property_ in found[0]
        assert remedy in found[0]


@pytest.mark.parametrize(("private", "rule"), [(False, "endpoint-tls"), (True, "tls-inside-network")])
def test_production_endpoint_must_use_tls_and_a_private_one_gets_advice(private: bool, rule: str) -> None:
    other = "tls-inside-network" if rule == "endpoint-tls" else "endpoint-tls"

    def found(name: str, *, plain: bool) -> list[str]:
        return violations(name, declared(EXTENSION, router(private=private, plain=plain)))

    configure(production=True)
    (message,) = found(rule, plain=True)
    assert "allowInsecureConnections is True" in message
    assert "serving:hostname" in message
    assert found(rule, plain=False) == found(other, plain=True) == []
    assert violations(rule, declared(EXTENSION, {"extensionType": "microsoft.azuremonitor.containers"})) == []
    configure(production=False)
    assert found(rule, plain=True) == []
    assert (RESOURCE_RULES[rule].enforcement_level is EnforcementLevel.ADVISORY) is private


def test_private_key_is_accepted_only_where_azure_never_returns_it() -> None:
    protected = {"configurationProtectedSettings": {"scoringFe.sslKey": PEM}}
    assert violations("secret-in-inputs", declared(EXTENSION, protected)) == []
    assert len(violations("secret-in-inputs", declared(EXTENSION, {"configurationSettings": {"key": PEM}}))) == 1
    assert len(violations("secret-in-inputs", declared(JOB, protected))) == 1
    provider = "pulumi:providers:pulumi-python"
    assert violations("secret-in-inputs", declared(provider, {"serving:tls_key": PEM})) == []
    assert len(violations("secret-in-inputs", declared(provider, {"tags:key": PEM}))) == 1


def test_broad_role_on_a_new_resource_is_checked_by_up() -> None:
    assignment = role(OWNER, UNKNOWN_STRING_VALUE)
    assert violations("broad-roles", declared("authorization:RoleAssignment", assignment)) == []


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in SECRETS.items() for value in values])
def test_secrets_in_nested_inputs_are_found_and_not_printed(kind: str, value: str) -> None:
    for properties in ({"a": {"b": ["x", value]}}, {"settings": json.dumps({"env": {"KEY": value}})}):
        (message,) = violations("secret-in-inputs", declared(JOB, properties))
        assert f"holds {kind};" in message
        assert value not in message
        assert message.split(" holds ")[0].endswith(("a.b.1", "settings.env.KEY"))


def test_digests_ids_and_references_are_not_secrets() -> None:
    harmless = {
        "image": DIGEST,
        "hash": base64.b64encode(bytes(range(32))).decode(),
        "__provider": base64.b64encode(bytes(range(256)) * 4).decode(),
        "scope": LAKE,
        "reference": "https://kv.vault.azure.net/secrets/account-key/0123456789abcdef0123456789abcdef",
        "certificate": "-----BEGIN CERTIFICATE-----\nMII",
    }
    assert violations("secret-in-inputs", declared(JOB, harmless)) == []


@pytest.mark.parametrize("resource_type", sorted(rules.STATEFUL))
def test_production_resources_that_hold_state_are_protected(resource_type: str) -> None:
    def found(*, protect: bool) -> list[str]:
        # Neither the name of an environment nor a tag makes a stack production.
        tags = {"environment": "dev" if stack.is_production() else "prod"}
        return violations("protected-in-production", declared(resource_type, {"tags": tags}, protect=protect))

    configure(production=True)
    assert "protect is not set; set it to True" in found(protect=False)[0]
    assert found(protect=True) == []
    configure(production=False)
    assert found(protect=False) == []


@pytest.mark.parametrize("text", ["true", "false"])
def test_program_and_policy_pack_read_the_same_production_setting(text: str) -> None:
    config = {**STACK, "release:enabled": "false", stack.PRODUCTION: text}
    stack.configure(config)
    assert stack.is_production() is load(config, "personalization").production is (text == "true")


@pytest.mark.parametrize("text", ["yes", "False", "0", ""])
def test_production_has_no_other_spelling_that_the_policy_pack_could_misread(text: str) -> None:
    with pytest.raises(ConfigError, match=f"personalization:production: must be true or false, not {text!r}"):
        load({**STACK, "release:enabled": "false", stack.PRODUCTION: text}, "personalization")


def test_stack_without_the_production_setting_gets_the_stricter_rules() -> None:
    stack.configure({})
    assert stack.is_production()


def test_tags_and_regions_are_configurable() -> None:
    cost = declared(ACCOUNT, TAGGED, tags=["cost.center"])
    assert "tags.cost.center is not set" in violations("required-tags", cost)[0]
    assert violations("required-tags", declared(ACCOUNT, {"tags": {"cost.center": "7"}}, tags=["cost.center"])) == []
    elsewhere = {"location": "eastus"}
    assert violations("allowed-regions", declared(ACCOUNT, elsewhere, regions=["West Europe", "East US"])) == []
    assert "West Europe" in violations("allowed-regions", declared(ACCOUNT, elsewhere, regions=["West Europe"]))[0]


def test_types_with_tags_agree_with_the_sdk() -> None:
    assert keyvault.Vault  # which loads them all
    resources = {
        name: of
        for name, of in vars(keyvault).items()
        if isinstance(of, type) and issubclass(of, pulumi.CustomResource)
    }
    with_tags = {
        name: any("tags" in inspect.signature(way).parameters for way in typing.get_overloads(of.__init__))
        for name, of in resources.items()
    }
    assert set(with_tags.values()) == {True, False}
    assert {name: rules.takes_tags(f"azure-native:keyvault:{name}") for name in resources} == with_tags
    assert not rules.takes_tags("azure-native:keyvault:NoSuchType")


def test_unknown_values_of_a_preview_skip_the_rule() -> None:
    unknown = UNKNOWN_STRING_VALUE
    with pytest.raises(UnknownValueError):  # the engine says of these that they could not be judged yet
        violations("storage-shared-keys", declared(ACCOUNT, {"allowSharedKeyAccess": unknown}))
    assert violations("image-by-digest", declared(ENVIRONMENT, {"image": unknown})) == []
    mixed = declared(JOB, {"settings": unknown, "list": [unknown, KEY]})
    assert len(violations("secret-in-inputs", mixed)) == 1


def reported(rule: str, *resources: tuple[str, dict[str, Any]]) -> list[str | None]:
    found: list[str | None] = []
    members = [
        PolicyResource(
            resource_type=full(token),
            props=unknown_checking_proxy(properties),
            urn=f"urn:pulumi:it::p::{token}",
            name=token,
            opts=options(),
            provider=None,
            parent=None,
            dependencies=[],
            property_dependencies={},
        )
        for token, properties in resources
    ]
    STACK_RULES[rule].validate(StackValidationArgs(members), lambda _message, urn: found.append(urn))
    return found


OPEN = (VAULT, {"properties": {"publicNetworkAccess": "Enabled"}})
SHUT = (VAULT, {"properties": {"publicNetworkAccess": "disabled"}})
PRIVATE: tuple[str, dict[str, Any]] = ("network:PrivateEndpoint", {})


def test_public_access_is_advice_until_a_production_stack_has_a_private_network() -> None:
    assert STACK_RULES["public-network-access"].enforcement_level is EnforcementLevel.ADVISORY
    assert STACK_RULES["private-network"].enforcement_level is EnforcementLevel.MANDATORY
    for production, members in ((False, [OPEN]), (False, [OPEN, PRIVATE]), (True, [OPEN])):
        configure(production=production)
        assert reported("public-network-access", *members) == [f"urn:pulumi:it::p::{VAULT}"]
        assert reported("private-network", *members) == []
    configure(production=True)
    assert reported("public-network-access", OPEN, PRIVATE) == []
    assert reported("private-network", OPEN, PRIVATE) == [f"urn:pulumi:it::p::{VAULT}"]
    assert reported("private-network", SHUT, PRIVATE) == []


@pytest.mark.parametrize(
    ("token", "shut"),
    [
        (ACCOUNT, {"publicNetworkAccess": "Disabled"}),
        (REGISTRY, {"publicNetworkAccess": "Disabled"}),
        ("databricks:Workspace", {"publicNetworkAccess": "Disabled"}),
        ("machinelearningservices:Workspace", {"publicNetworkAccess": "Disabled"}),
        ("containerservice:ManagedCluster", {"apiServerAccessProfile": {"enablePrivateCluster": True}}),
        ("containerservice:ManagedCluster", {"apiServerAccessProfile": {"authorizedIPRanges": ["192.0.2.0/24"]}}),
    ],
)
def test_every_public_endpoint_of_a_private_stack_is_refused(token: str, shut: dict[str, Any]) -> None:
    configure(production=True)
    assert len(reported("private-network", (token, {}), PRIVATE)) == 1
    assert reported("private-network", (token, shut), PRIVATE) == []


def test_every_rule_is_mandatory_but_advice_and_has_its_cases() -> None:
    tried = {rule for rule, *_ in CASES} | {"secret-in-inputs", "protected-in-production", "endpoint-tls"}
    assert tried | {"tls-inside-network"} == set(RESOURCE_RULES)
    levels = {name: rule.enforcement_level for name, rule in RESOURCE_RULES.items() if rule.enforcement_level}
    assert levels == {"tls-inside-network": EnforcementLevel.ADVISORY}, "the pack's own level is mandatory"


@pytest.mark.parametrize("mode", ["public", "private"])
def test_program_in_production_meets_every_mandatory_rule(mode: str) -> None:
    """Two rules are exceptions. Mocks do not get the option `protect`; `test_engine.py` checks it in the engine.

    No stack file can ship a certificate: a public stack is refused without one, a private stack gets advice.
    """
    certificate = {"public": "endpoint-tls", "private": "tls-inside-network"}[mode]
    people = {"training__interactive_cluster": "true", "access__team": "data-science"}
    program = graph(network__mode=mode, personalization__production="true", **people)
    configure(production=True)
    assert program.of("databricks:TrainingJob")
    for found in program.resources:
        inputs = {"location": "westeurope", **found.inputs}
        if str(inputs.get("scope")).startswith("/id/of/"):  # ids of the mocks, not of Azure
            inputs["scope"] = LAKE
        for rule in RESOURCE_RULES:
            problems = violations(rule, declared(found.type, inputs, protect=True))
            expected = (found.type, rule) == (full(EXTENSION), certificate)
            assert bool(problems) is expected, f"{found.name} against {rule}: {problems}"
    everything = [(found.type, found.inputs) for found in program.resources]
    assert reported("private-network", *everything) == []
    assert bool(reported("public-network-access", *everything)) == (mode == "public")
