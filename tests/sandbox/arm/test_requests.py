"""Requests to ARM other than creation and deletion: tags, filters, usage, roles, regions."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from azure.core.exceptions import HttpResponseError
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient
from azure.storage.blob import BlobServiceClient

from sandbox.identity import authority
from testing.sandbox.data import Served, served
from testing.sandbox.management import ACCOUNT, CLUSTER, HOME, client

ONE = "Microsoft.Storage/storageAccounts"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("sandbox")) as running:
        resources = client(ResourceManagementClient, running)
        accounts = client(StorageManagementClient, running).storage_accounts
        for group, tags in (("first", {"Team": "Shop"}), ("second", {})):
            resources.resource_groups.create_or_update(group, {**HOME, "tags": tags})
            accounts.begin_create(group, f"{group}lake", {**ACCOUNT, "tags": {"Team": group}}).result()
        yield running


def arm(cloud: Served, method: str, path: str, body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {cloud.token(cloud.sandbox.url)}"}
    address = f"{cloud.sandbox.url}/subscriptions/{cloud.sandbox.identity.subscription_id}/{path}"
    url = httpx.URL(address).copy_merge_params({"api-version": "2022-09-01"})
    return httpx.request(method, url, headers=headers, json=body, verify=cloud.tls)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"slash/and?percent%": "x"}, "InvalidTagNameCharacters"),
        ({"tab\tname": "x"}, "InvalidTagNameCharacters"),
        ({" ": "x"}, "InvalidTagName"),
        ({"n" * 513: "x"}, "InvalidTagName"),
        ({"n": "v" * 257}, "InvalidTagValueLength"),
        ({f"n{number}": "x" for number in range(51)}, "InvalidTags"),
        ({"n": 1}, "InvalidRequestContent"),
    ],
)
def test_tags_that_azure_refuses_are_refused(cloud: Served, tags: dict[str, Any], code: str) -> None:
    refused = arm(cloud, "PUT", "resourceGroups/refused", {**HOME, "tags": tags})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
    assert arm(cloud, "GET", "resourceGroups/refused").status_code == 404


def test_tag_names_of_storage_accounts_are_shorter(cloud: Served) -> None:
    tagged = {**HOME, "tags": {"n" * 129: "x"}}
    assert arm(cloud, "PUT", "resourceGroups/longer", tagged).status_code == 201
    refused = arm(cloud, "PUT", f"resourceGroups/longer/providers/{ONE}/short", {**ACCOUNT, **tagged})
    assert refused.json()["error"]["code"] == "InvalidTagName"


def test_tag_names_that_differ_only_in_case_are_one_tag(cloud: Served) -> None:
    groups = client(ResourceManagementClient, cloud).resource_groups
    made = groups.create_or_update("folded", {**HOME, "tags": {"environment": "dev", "Environment": "other"}})
    assert made.tags == {"environment": "other"}


def test_tags_can_be_merged_removed_and_replaced(cloud: Served) -> None:
    resources = client(ResourceManagementClient, cloud)
    group = resources.resource_groups.create_or_update("tagged", {**HOME, "tags": {"a": "1", "b": "2"}})
    for operation, tags, after in (
        ("Merge", {"A": "9", "c": "3"}, {"a": "9", "b": "2", "c": "3"}),
        ("Delete", {"c": "3", "b": "other"}, {"a": "9", "b": "2"}),
        ("Replace", {"d": "4"}, {"d": "4"}),
    ):
        patch = {"operation": operation, "properties": {"tags": tags}}
        resources.tags.begin_update_at_scope(group.id, patch).result()
        assert resources.tags.get_at_scope(group.id).properties.tags == after
        assert resources.resource_groups.get("tagged").tags == after


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("resourceType eq 'microsoft.storage/storageaccounts'", ["firstlake", "secondlake"]),
        ("resourceGroup eq 'FIRST'", ["firstlake"]),
        ("name ne 'firstlake' and location eq 'westeurope'", ["secondlake"]),
        ("substringof('second', name)", ["secondlake"]),
        ("tagName eq 'team' and tagValue eq 'first'", ["firstlake"]),
        ("tagname eq 'team' and tagvalue eq 'First'", []),
        ("startswith(tagName, 'te')", ["firstlake", "secondlake"]),
    ],
)
def test_resources_are_filtered(cloud: Served, asked: str, names: list[str]) -> None:
    found = client(ResourceManagementClient, cloud).resources.list(filter=asked)
    assert [resource.name for resource in found] == names


@pytest.mark.parametrize("asked", ["colour eq 'red'", "name eq 'a' or name eq 'b'", "tagValue eq 'x'", "name eq"])
def test_unknown_resource_filter_is_refused(cloud: Served, asked: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        list(client(ResourceManagementClient, cloud).resources.list(filter=asked))
    assert refused.value.error.code == "InvalidFilterInQueryString"


def test_resource_groups_are_filtered_by_tag_only(cloud: Served) -> None:
    groups = client(ResourceManagementClient, cloud).resource_groups
    assert [group.name for group in groups.list(filter="tagName eq 'team' and tagValue eq 'Shop'")] == ["first"]
    with pytest.raises(HttpResponseError, match="Invalid"):
        list(groups.list(filter="name eq 'first'"))


def test_list_of_resources_omits_extension_resources_and_properties(cloud: Served) -> None:
    lake = f"resourceGroups/first/providers/{ONE}/firstlake"
    settings = f"{lake}/providers/Microsoft.Insights/diagnosticSettings/logs"
    assert arm(cloud, "PUT", settings, {"properties": {"logs": []}}).status_code == 201
    listed = arm(cloud, "GET", "resourceGroups/first/resources?$expand=provisioningState").json()["value"]
    assert [resource["name"] for resource in listed] == ["firstlake"]
    assert "properties" not in listed[0]
    assert listed[0]["provisioningState"] == "Succeeded"


def test_usage_counts_the_vcpu_of_deployed_pools_in_their_region(cloud: Served) -> None:
    cluster = "resourceGroups/first/providers/Microsoft.ContainerService/managedClusters/used"
    before = usages(cloud, "westeurope")
    arm(cloud, "PUT", cluster, CLUSTER)
    while arm(cloud, "GET", cluster).json()["properties"]["provisioningState"] != "Succeeded":
        pass
    after = usages(cloud, "westeurope")
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "cores": 2 * 4,
        "standardDSv5Family": 2 * 4,
    }
    assert usages(cloud, "northeurope") == before


def usages(cloud: Served, region: str) -> dict[str, int]:
    listed = arm(cloud, "GET", f"providers/Microsoft.Compute/locations/{region}/usages").json()["value"]
    return {usage["name"]["value"]: usage["currentValue"] for usage in listed}


def test_deletion_of_a_role_assignment_returns_it(cloud: Served) -> None:
    assignments = client(AuthorizationManagementClient, cloud).role_assignments
    scope = f"/subscriptions/{cloud.sandbox.identity.subscription_id}/resourceGroups/first"
    definitions = client(AuthorizationManagementClient, cloud).role_definitions
    (reader,) = definitions.list(scope, filter="roleName eq 'Reader'")
    who = {"principalId": cloud.sandbox.identity.object_id, "principalType": "ServicePrincipal"}
    name = "11111111-2222-3333-4444-555555555555"
    assignments.create(scope, name, {"properties": {**who, "roleDefinitionId": reader.id}})
    assert assignments.delete(scope, name).role_definition_id == reader.id
    assert assignments.delete(scope, name) is None


def test_roles_are_filtered_by_name_and_type_only(cloud: Served) -> None:
    definitions = client(AuthorizationManagementClient, cloud).role_definitions
    with pytest.raises(HttpResponseError) as refused:
        list(definitions.list("", filter="name eq 'Reader'"))
    assert refused.value.error
    assert refused.value.error.code == "UnsupportedFilter"


def test_role_is_found_by_its_id(cloud: Served) -> None:
    definitions = client(AuthorizationManagementClient, cloud).role_definitions
    contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c"
    assert definitions.get("", contributor).role_name == "Contributor"
    with pytest.raises(HttpResponseError, match="does not exist"):
        definitions.get("", contributor.replace("b", "c"))


def test_regions_are_listed(cloud: Served) -> None:
    names = [region["name"] for region in arm(cloud, "GET", "locations").json()["value"]]
    assert {"westeurope", "northeurope"} <= set(names)


def test_storage_keys_are_listed_and_grant_no_access(cloud: Served) -> None:
    accounts = client(StorageManagementClient, cloud).storage_accounts
    closed = {**ACCOUNT, "properties": {"allowSharedKeyAccess": False}}
    accounts.begin_create("first", "closedlake", closed).result()
    key = accounts.list_keys("first", "closedlake")["keys"][0]["value"]
    trust = str(authority.ca_bundle(cloud.sandbox.folder))
    blobs = BlobServiceClient(f"{cloud.sandbox.url}/blob/closedlake", key, connection_verify=trust)
    with pytest.raises(HttpResponseError) as refused:
        blobs.create_container("raw")
    assert refused.value.error_code == "KeyBasedAuthenticationNotPermitted"


def test_cluster_without_local_accounts_returns_the_entra_kubeconfig_only(cloud: Served) -> None:
    clusters = client(ContainerServiceClient, cloud).managed_clusters
    properties = {**CLUSTER["properties"], "disableLocalAccounts": True, "aadProfile": {"managed": True}}
    clusters.begin_create_or_update("first", "closed", {**CLUSTER, "properties": properties}).result()
    config = yaml.safe_load(clusters.list_cluster_user_credentials("first", "closed").kubeconfigs[0].value)
    assert config["users"][0]["user"]["exec"]["command"] == "kubelogin"
    with pytest.raises(HttpResponseError, match="set to disable local accounts"):
        clusters.list_cluster_admin_credentials("first", "closed")


@pytest.mark.parametrize(
    ("version", "shape"), [("2015-01-01", "addresses"), ("2019-05-01", "list"), ("2022-09-01", "object")]
)
def test_cloud_metadata_has_each_format(cloud: Served, version: str, shape: str) -> None:
    for path in ("/metadata/endpoints", "//metadata/endpoints"):
        url = f"{cloud.sandbox.url}{path}?api-version={version}"
        found = httpx.get(url, verify=cloud.tls).raise_for_status().json()
        clouds = found if isinstance(found, list) else [found]
        assert isinstance(found, list) is (shape == "list")
        assert clouds[0]["authentication"]["loginEndpoint"] == cloud.sandbox.url
        assert ("suffixes" in clouds[0]) is (shape != "addresses")


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("PUT", "resourceGroups/first/providers/Microsoft.Resources/deployments/one", "template deployments"),
        ("POST", "resourceGroups/first/providers/Microsoft.Resources/deployments/one/whatIf", "template deployments"),
        ("GET", "providers/Microsoft.Insights/eventtypes/management/values", "the activity log"),
        ("GET", f"resourceGroups/first/providers/{ONE}/firstlake/providers/Microsoft.Insights/metrics", "metrics"),
        ("PUT", "resourceGroups/first/providers/Microsoft.Authorization/locks/one", "management locks"),
    ],
)
def test_types_without_an_emulation_are_refused_by_name(cloud: Served, method: str, path: str, named: str) -> None:
    refused = arm(cloud, method, path, {"properties": {}} if method != "GET" else None)
    assert (refused.status_code, refused.json()["error"]["code"]) == (501, "NotImplemented")
    assert named in refused.json()["error"]["message"]
