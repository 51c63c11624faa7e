"""The provider without a cloud: names, defaults, refusals, differences and replacements."""

import re

import grpc
import pytest
from pulumi.runtime.proto import provider_pb2 as proto

from sandbox.azure_native.resource_type import by_token
from testing.arm.azure_native import UNKNOWN, Provider, provider, serving

__all__ = ["provider"]

ACCOUNT = "storage:StorageAccount"
POOL = "containerservice:AgentPool"
CLUSTER = "containerservice:ManagedCluster"
CONTAINER = "storage:BlobContainer"
GROUP = "resources:ResourceGroup"
ROLE = "authorization:RoleAssignment"

an_account = {
    "resourceGroupName": "g",
    "accountName": "lake",
    "kind": "StorageV2",
    "sku": {"name": "Standard_LRS"},
    "location": "westeurope",
    "azureApiVersion": "2024-01-01",
}

_Options = proto.CheckRequest.AutonamingOptions


def test_name_that_azure_refuses_is_refused_before_anything_is_sent(provider: Provider) -> None:
    for name, reason in {
        "l" * 29: "'accountName' is too long (29): at most 24 characters allowed",
        "ab": "'accountName' is too short (2): at least 3 characters required",
        "data-lake": "'accountName' does not match expression '^[a-z0-9]+$'",
    }.items():
        assert provider.check(ACCOUNT, {**an_account, "accountName": name})[1] == [reason]


def test_missing_required_properties_are_reported_by_their_sdk_names(provider: Provider) -> None:
    account = {"resourceGroupName": "g", "accountName": "lake", "sku": {}}
    assert provider.check(ACCOUNT, account)[1] == [
        "missing required property 'kind'",
        "missing required property 'sku.name'",
    ]
    component = {"resourceName": "insights", "resourceGroupName": "g", "kind": "web"}
    assert provider.check("applicationinsights:Component", component)[1] == [
        "missing required property 'applicationType'"
    ]
    assert provider.check("keyvault:Vault", {"vaultName": "vault", "resourceGroupName": "g"})[1] == [
        "missing required property 'properties'"
    ]
    assert provider.check(CONTAINER, {"containerName": "raw"})[1] == [
        "missing required property 'resourceGroupName'",
        "missing required property 'accountName'",
    ]


def test_unknown_value_is_neither_missing_nor_malformed(provider: Provider) -> None:
    unknown = {"resourceGroupName": UNKNOWN, "accountName": UNKNOWN, "kind": UNKNOWN, "sku": UNKNOWN}
    inputs = provider.checked(ACCOUNT, unknown)
    assert inputs["sku"] == UNKNOWN


def test_location_comes_from_the_old_inputs_then_from_the_configuration(provider: Provider) -> None:
    account = {key: value for key, value in an_account.items() if key != "location"}
    assert provider.checked(ACCOUNT, account, olds={"location": "northeurope"})["location"] == "northeurope"
    assert provider.checked(ACCOUNT, account)["location"] == "westeurope"
    container = {"resourceGroupName": "g", "accountName": "lake"}
    assert "location" not in provider.checked(CONTAINER, container, name="raw")


def test_missing_location_is_refused_with_the_configuration_command(provider: Provider) -> None:
    provider.configure(metadataHost="127.0.0.1:1", subscriptionId="s")
    unknown_group = {**an_account, "resourceGroupName": UNKNOWN}
    del unknown_group["location"]
    assert provider.checked(ACCOUNT, unknown_group)["location"] == UNKNOWN
    assert provider.check(GROUP, {"resourceGroupName": "g"})[1] == [
        "missing required property 'location'. Either set it explicitly or configure it with "
        "'pulumi config set azure-native:location <value>'."
    ]


def test_automatic_names_follow_azures_rule_for_the_type(provider: Provider) -> None:
    group = {"resourceGroupName": "g"}
    seed = {"randomSeed": b"seed"}
    assert re.fullmatch("lake[0-9a-f]{8}", provider.checked(GROUP, {}, name="lake", **seed)["resourceGroupName"])
    pool = provider.checked(POOL, {**group, "resourceName": "c"}, name="scoring", **seed)
    assert (pool["agentPoolName"], "__createBeforeDelete" in pool) == ("scoring", False)
    grant = {"scope": "/subscriptions/s", "principalId": "p", "roleDefinitionId": "r"}
    assert re.fullmatch("[0-9a-f-]{36}", provider.checked(ROLE, grant, **seed)["roleAssignmentName"])


def test_automatic_name_is_kept_and_depends_on_the_seed_only(provider: Provider) -> None:
    first, again = (provider.checked(GROUP, {}, randomSeed=b"seed") for _ in range(2))
    assert first == again
    assert provider.checked(GROUP, {}, olds=first, randomSeed=b"other") == first


def test_automatic_names_follow_the_engines_naming_mode(provider: Provider) -> None:
    def named(mode: int, token: str = GROUP) -> tuple[dict[str, object], list[str]]:
        grant = {"scope": "/subscriptions/s", "principalId": "p", "roleDefinitionId": "r"}
        asked = _Options(proposed_name="proposed", mode=mode)  # type: ignore[arg-type]
        return provider.check(token, grant if token == ROLE else {}, autonaming=asked)

    assert named(_Options.PROPOSE)[0]["resourceGroupName"] == "proposed"
    assert named(_Options.PROPOSE, ROLE)[0]["roleAssignmentName"] != "proposed"
    assert named(_Options.ENFORCE, ROLE)[0]["roleAssignmentName"] == "proposed"
    assert named(_Options.DISABLE)[1] == ["missing required property 'resourceGroupName'"]


def test_changed_tag_is_one_update_in_place_shown_by_its_name(provider: Provider) -> None:
    olds, news = ({**an_account, "tags": {"owner": owner, "cost.center": "1"}} for owner in ("a", "b"))
    found = provider.diff(ACCOUNT, olds, news)
    assert {path: change.kind for path, change in found.detailedDiff.items()} == {
        "tags.owner": proto.PropertyDiff.UPDATE
    }
    assert (list(found.replaces), list(found.diffs), found.changes) == ([], ["tags"], proto.DiffResponse.DIFF_SOME)
    del news["tags"]["cost.center"]  # type: ignore[attr-defined]
    assert 'tags["cost.center"]' in provider.diff(ACCOUNT, olds, news).detailedDiff


@pytest.mark.parametrize(
    ("token", "change"),
    [
        (ACCOUNT, {"accountName": "pond"}),
        (ACCOUNT, {"resourceGroupName": "other"}),
        (ACCOUNT, {"location": "northeurope"}),
        (ACCOUNT, {"isHnsEnabled": True}),
        (CONTAINER, {"accountName": "pond"}),
        (POOL, {"vmSize": "Standard_D8s_v5"}),
        (CLUSTER, {"dnsPrefix": "other"}),
        (CLUSTER, {"networkProfile": {"podCidr": "10.1.0.0/16"}}),
        (ROLE, {"principalId": "other"}),
        (ROLE, {"scope": "/subscriptions/other"}),
    ],
)
def test_change_of_an_immutable_property_replaces_deleting_first(
    provider: Provider, token: str, change: dict[str, object]
) -> None:
    olds = {**an_account, "networkProfile": {"podCidr": "10.0.0.0/16"}, "vmSize": "Standard_D4s_v5"}
    found = provider.diff(token, olds, {**olds, **change})
    (path,) = found.detailedDiff
    assert list(found.replaces) == [path]
    assert found.deleteBeforeReplace


def test_replacement_of_a_randomly_named_resource_is_created_first(provider: Provider) -> None:
    olds = {**an_account, "__createBeforeDelete": True}
    found = provider.diff(ACCOUNT, olds, {**olds, "location": "northeurope"})
    assert (list(found.replaces), found.deleteBeforeReplace) == (["location"], False)


@pytest.mark.parametrize(
    "change",
    [
        {"sku": {"name": "Standard_ZRS"}},
        {"minimumTlsVersion": "TLS1_3"},
        {"networkProfile": {"podCidr": "10.0.0.0/16", "loadBalancerSku": "standard"}},
    ],
)
def test_mutable_properties_are_changed_in_place(provider: Provider, change: dict[str, object]) -> None:
    olds = {**an_account, "networkProfile": {"podCidr": "10.0.0.0/16"}}
    found = provider.diff(ACCOUNT, olds, {**olds, **change})
    assert (len(found.detailedDiff), list(found.replaces)) == (1, [])


def test_equivalent_spellings_are_not_a_change(provider: Provider) -> None:
    same = {**an_account, "location": "West Europe", "resourceGroupName": "G"}
    assert provider.diff(ACCOUNT, an_account, same).changes == proto.DiffResponse.DIFF_NONE


def test_elements_of_a_list_are_shown_by_their_place(provider: Provider) -> None:
    olds, news = ({"agentPoolProfiles": [{"name": "system", "count": count}]} for count in (1, 2))
    assert list(provider.diff(CLUSTER, olds, news).detailedDiff) == ["agentPoolProfiles[0].count"]


def test_preview_has_the_inputs_and_unknown_outputs(provider: Provider) -> None:
    identity = {"type": "SystemAssigned,UserAssigned", "userAssignedIdentities": ["/id"]}
    _, account = provider.create(ACCOUNT, {**an_account, "identity": identity}, preview=True)
    assert account["sku"]["name"] == "Standard_LRS"
    assert account["primaryEndpoints"]["dfs"] == UNKNOWN
    assert account["identity"] == {
        "type": "SystemAssigned,UserAssigned",
        "principalId": UNKNOWN,
        "tenantId": UNKNOWN,
        "userAssignedIdentities": UNKNOWN,
    }
    assert "accountName" not in account
    _, endpoint = provider.create(
        "machinelearningservices:OnlineEndpoint", {"properties": {"authMode": "Key"}}, preview=True
    )
    assert endpoint["properties"]["authMode"] == "Key"
    assert endpoint["properties"]["scoringUri"] == endpoint["properties"]["swaggerUri"] == UNKNOWN


def test_provider_without_a_metadata_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARM_METADATA_HOSTNAME", raising=False)
    with serving() as served, pytest.raises(grpc.RpcError, match="set ARM_METADATA_HOSTNAME to a running sandbox"):
        served.configure(subscriptionId="s")


def test_unknown_type_is_refused_with_the_place_to_add_it(provider: Provider) -> None:
    with pytest.raises(grpc.RpcError, match=r"FirewallPolicy is not in .* add it to sandbox/arm/resource_types\.yaml"):
        provider.check("network:FirewallPolicy", {})


def test_provider_configuration_never_replaces_anything(provider: Provider) -> None:
    changed = provider.stub.DiffConfig(proto.DiffRequest(urn="urn"))
    assert (changed.changes, list(changed.replaces)) == (proto.DiffResponse.DIFF_NONE, [])


@pytest.mark.parametrize("token", sorted(by_token()))
def test_inputs_are_parsed_from_the_address_of_every_type(token: str) -> None:
    kind = by_token()[token]
    inputs = {name: f"the-{name}" for name in kind.path_inputs}
    for whole_id in {"scope", "resourceUri"} & set(inputs):
        inputs[whole_id] = "subscriptions/s/resourceGroups/g"
    address = kind.address(inputs, "s")
    assert kind.inputs_in(address) == inputs
    assert address.startswith("/subscriptions/s/")
