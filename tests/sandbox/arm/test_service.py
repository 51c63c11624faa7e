"""The sandbox's Entra and ARM with Azure's own SDKs; with plain HTTP for requests that an SDK would not send."""

import re
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient

from sandbox.arm import resource_types
from sandbox.identity import authority
from testing.sandbox.process import ROOT, RunningSandbox, gone, in_environment, running_sandbox, sandbox_command
from testing.waiting import eventually

ACCOUNT = {"location": "westeurope", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    folder = tmp_path_factory.mktemp("cloud")
    with running_sandbox(folder) as started, in_environment(started.environment):
        yield started


@pytest.fixture
def group(cloud: RunningSandbox) -> str:
    """The path of a new resource group below the subscription."""
    path = f"resourceGroups/g{uuid.uuid4().hex[:8]}"
    assert cloud.arm("PUT", path, {"location": "westeurope"}).status_code == 201
    return path


def name(prefix: str = "a") -> str:
    return prefix + uuid.uuid4().hex[:10]


def client(kind: Any, cloud: RunningSandbox) -> Any:
    who = cloud.environment
    credential = DefaultAzureCredential(disable_instance_discovery=True)
    scopes = [f"{cloud.url}/.default"]
    return kind(credential, who["ARM_SUBSCRIPTION_ID"], base_url=cloud.url, credential_scopes=scopes)


def test_azure_sdks_create_read_list_change_and_delete(cloud: RunningSandbox) -> None:
    groups = client(ResourceManagementClient, cloud).resource_groups
    accounts = client(StorageManagementClient, cloud).storage_accounts
    containers = client(StorageManagementClient, cloud).blob_containers
    assignments = client(AuthorizationManagementClient, cloud).role_assignments
    group, account = name("g"), name()

    assert groups.create_or_update(group, {"location": "West Europe", "tags": {"a": "b"}}).location == "westeurope"
    assert groups.check_existence(group)
    made = accounts.begin_create(group, account, ACCOUNT).result()
    assert made.provisioning_state == "Succeeded"
    assert made.primary_endpoints.blob == f"{cloud.url}/blob/{account}/"
    changed = accounts.update(group, account, {"tags": {"c": "d"}, "properties": {"minimumTlsVersion": "TLS1_2"}})
    assert (changed.tags, changed.minimum_tls_version, changed.kind) == ({"c": "d"}, "TLS1_2", "StorageV2")
    containers.create(group, account, "raw", {})
    assert [found.name for found in containers.list(group, account)] == ["raw"]
    assert [found.name for found in accounts.list_by_resource_group(group)] == [account]
    assert account in [found.name for found in accounts.list()]

    role = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR}"
    grant = {"principalId": str(uuid.uuid4()), "principalType": "ServicePrincipal", "roleDefinitionId": role}
    assigned = assignments.create(made.id, str(uuid.uuid4()), {"properties": grant})
    assert assigned.scope == made.id
    inherited = [found.id for found in assignments.list_for_scope(f"{made.id}", filter="atScope()")]
    assert inherited == [assigned.id]
    assignments.delete(made.id, assigned.name)
    with pytest.raises(ResourceNotFoundError):
        assignments.get(made.id, assigned.name)

    accounts.delete(group, account)
    with pytest.raises(ResourceNotFoundError, match=account):
        accounts.get_properties(group, account)
    groups.begin_delete(group).result()
    assert not groups.check_existence(group)


def test_deleted_group_deletes_everything_below_it(cloud: RunningSandbox, group: str) -> None:
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/{name()}"
    cloud.settle(cloud.arm("PUT", account, ACCOUNT))
    cloud.arm("PUT", f"{account}/blobServices/default/containers/raw", {})
    assert cloud.settle(cloud.arm("DELETE", group))["status"] == "Succeeded"
    assert cloud.arm("PUT", group, {"location": "westeurope"}).status_code == 201
    assert cloud.arm("GET", f"{account}/blobServices/default/containers/raw").status_code == 404
    assert cloud.arm("GET", f"{group}/resources").json() == {"value": []}


def test_wrong_secret_is_refused_with_entras_code(cloud: RunningSandbox) -> None:
    who = cloud.environment
    credential = ClientSecretCredential(
        who["ARM_TENANT_ID"], who["ARM_CLIENT_ID"], "wrong", authority=cloud.url, disable_instance_discovery=True
    )
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215: Invalid client secret"):
        credential.get_token(f"{cloud.url}/.default")


def test_arm_accepts_only_its_own_tokens(cloud: RunningSandbox) -> None:
    storage = {"Authorization": f"Bearer {cloud.token('https://storage.azure.com')}"}
    assert "another audience" in cloud.arm("GET", "resourcegroups", **storage).json()["error"]["message"]
    claims = jwt.decode(cloud.token(), options={"verify_signature": False})
    old = jwt.encode({**claims, "exp": claims["iat"] - 1}, authority.signing_key(cloud.folder), algorithm="RS256")
    forged = jwt.encode(claims, "a secret of somebody else, long enough", algorithm="HS256")
    for token, code in ((old, "ExpiredAuthenticationToken"), (forged, "InvalidAuthenticationToken")):
        refused = cloud.arm("GET", "resourcegroups", Authorization=f"Bearer {token}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, code)
    assert cloud.arm("GET", "resourcegroups", Authorization="").status_code == 401


def test_tokens_name_the_principal_and_verify_by_the_published_keys(cloud: RunningSandbox) -> None:
    trust = ssl.create_default_context(cafile=cloud.ca_bundle)
    keys = jwt.PyJWKClient(f"{cloud.url}/{cloud.environment['ARM_TENANT_ID']}/discovery/v2.0/keys", ssl_context=trust)
    token = cloud.token()
    claims = jwt.decode(token, keys.get_signing_key_from_jwt(token).key, algorithms=["RS256"], audience=cloud.url)
    assert claims["appid"] == cloud.environment["ARM_CLIENT_ID"]
    assert claims["oid"] == authority.identity(cloud.folder).object_id


def test_certificate_satisfies_strict_verification(cloud: RunningSandbox) -> None:
    strict = ssl.create_default_context(cafile=cloud.folder / "identity" / "ca.pem")
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("127.0.0.1", "localhost"):
        url = f"{cloud.url.replace('127.0.0.1', host)}/metadata/endpoints?api-version=2022-09-01"
        document = httpx.get(url, verify=strict, trust_env=False).json()
    assert document["resourceManager"] == f"{cloud.url}/"
    assert document["authentication"]["loginEndpoint"] == cloud.url


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("resourceGroups/none/providers/Microsoft.Storage/storageAccounts/abc", ACCOUNT, 404, "ResourceGroupNotFound"),
        (
            "{group}/providers/Microsoft.ContainerService/managedClusters/c/agentPools/p",
            {},
            404,
            "ParentResourceNotFound",
        ),
        ("{group}/providers/Microsoft.Storage/storageAccounts/Capitals", ACCOUNT, 400, "InvalidResourceName"),
        ("{group}/providers/Microsoft.Storage/storageAccounts/ab", ACCOUNT, 400, "InvalidResourceName"),
        (
            "{group}/providers/Microsoft.Storage/storageAccounts/abc",
            {**ACCOUNT, "location": ""},
            400,
            "LocationRequired",
        ),
        (
            "{group}/providers/Microsoft.Storage/storageAccounts/abc",
            {**ACCOUNT, "sku": {}},
            400,
            "MissingRequiredProperty",
        ),
        ("/subscriptions/another/resourceGroups/g", {"location": "westeurope"}, 404, "SubscriptionNotFound"),
        ("{group}/providers/Microsoft.Storage/storageAccounts", ACCOUNT, 405, "MethodNotAllowed"),
    ],
)
def test_invalid_requests_are_refused_with_azures_code(
    cloud: RunningSandbox, group: str, path: str, body: Any, status: int, code: str
) -> None:
    refused = cloud.arm("PUT", path.format(group=group), body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert cloud.arm("GET", f"{group}/resources").json() == {"value": []}


def test_immutable_property_is_kept_if_omitted_and_refused_if_changed(cloud: RunningSandbox, group: str) -> None:
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/{name()}"
    cloud.settle(cloud.arm("PUT", account, {**ACCOUNT, "properties": {"isHnsEnabled": True}}))
    cloud.settle(cloud.arm("PUT", account, {**ACCOUNT, "location": "West Europe"}))
    assert cloud.arm("GET", account).json()["properties"]["isHnsEnabled"] is True
    changed = cloud.arm("PUT", account, {**ACCOUNT, "properties": {"isHnsEnabled": False}})
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "PropertyChangeNotAllowed")
    moved = cloud.arm("PUT", account, {**ACCOUNT, "location": "northeurope"})
    assert (moved.status_code, moved.json()["error"]["code"]) == (409, "InvalidResourceLocation")


def test_ids_are_compared_without_case_and_spelled_as_azure_does(cloud: RunningSandbox, group: str) -> None:
    account = name()
    cloud.settle(cloud.arm("PUT", f"{group.lower()}/providers/microsoft.storage/STORAGEACCOUNTS/{account}", ACCOUNT))
    found = cloud.arm("GET", f"{group}/providers/Microsoft.Storage/storageAccounts/{account.upper()}").json()
    assert found["id"] == f"{cloud.subscription}/{group}/providers/Microsoft.Storage/storageAccounts/{account}"


def test_globally_unique_name_cannot_be_used_twice(cloud: RunningSandbox, group: str) -> None:
    other, account = f"resourceGroups/{name('g')}", name()
    cloud.arm("PUT", other, {"location": "westeurope"})
    ask = {"name": account, "type": "Microsoft.Storage/storageAccounts"}
    assert cloud.arm("POST", "providers/Microsoft.Storage/checkNameAvailability", ask).json()["nameAvailable"]
    cloud.settle(cloud.arm("PUT", f"{group}/providers/Microsoft.Storage/storageAccounts/{account}", ACCOUNT))
    answer = cloud.arm("POST", "providers/Microsoft.Storage/checkNameAvailability", ask).json()
    assert (answer["nameAvailable"], answer["reason"]) == (False, "AlreadyExists")
    again = cloud.arm("PUT", f"{other}/providers/Microsoft.Storage/storageAccounts/{account}", ACCOUNT)
    assert again.status_code == 409
    assert account in again.json()["error"]["message"]


def test_failed_operation_fails_its_resource(cloud: RunningSandbox, group: str) -> None:
    account = name()
    failure = {"code": "QuotaExceeded", "message": "No cores left."}
    cloud.faults({"method": "PUT", "path": f"storageAccounts/{account}$", "operation_failure": failure})
    poller = client(StorageManagementClient, cloud).storage_accounts.begin_create(group.split("/")[1], account, ACCOUNT)
    with pytest.raises(HttpResponseError, match="No cores left"):
        poller.result()
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/{account}"
    assert cloud.arm("GET", path).json()["properties"]["provisioningState"] == "Failed"
    assert cloud.settle(cloud.arm("PUT", path, ACCOUNT))["status"] == "Succeeded"
    assert cloud.arm("GET", path).json()["properties"]["provisioningState"] == "Succeeded"


def test_write_during_an_operation_is_refused(cloud: RunningSandbox, group: str) -> None:
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/{name()}"
    cloud.faults({"method": "PUT", "path": f"{account}$", "operation_delay": 60})
    cloud.arm("PUT", account, ACCOUNT)
    for method, path in (
        ("PUT", account),
        ("PUT", f"{account}/blobServices/default/containers/raw"),
        ("DELETE", group),
    ):
        refused = cloud.arm(method, path, ACCOUNT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "AnotherOperationInProgress")


def test_throttled_client_tries_again(cloud: RunningSandbox) -> None:
    cloud.faults({"path": "/resourcegroups$", "status": 429, "times": 2, "headers": {"Retry-After": "0"}})
    list(client(ResourceManagementClient, cloud).resource_groups.list())
    assert cloud.arm("GET", "/sandbox/faults").json() == []


def test_soft_deleted_name_is_taken_until_purged_or_recovered(cloud: RunningSandbox, group: str) -> None:
    vault_name = name("v")
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/{vault_name}"
    properties = {"tenantId": cloud.environment["ARM_TENANT_ID"], "sku": {"family": "A", "name": "standard"}}
    body = {"location": "westeurope", "properties": properties}
    for _ in range(2):
        assert cloud.arm("PUT", vault, body).status_code == 201
        cloud.arm("DELETE", vault)
        refused = cloud.arm("PUT", vault, body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ConflictError")
        deleted = cloud.arm("GET", "providers/Microsoft.KeyVault/deletedVaults").json()["value"]
        assert vault_name in [found["name"] for found in deleted]
        purge = f"providers/Microsoft.KeyVault/locations/westeurope/deletedVaults/{vault_name}/purge"
        assert cloud.arm("POST", purge).status_code == 200
    cloud.arm("PUT", vault, body)
    cloud.arm("DELETE", vault)
    assert cloud.arm("PUT", vault, {**body, "properties": {**properties, "createMode": "recover"}}).status_code == 201


@pytest.mark.parametrize(("period", "days"), [({}, 90), ({"softDeleteRetentionInDays": 7}, 7)])
def test_deleted_vault_shows_its_purge_date(
    cloud: RunningSandbox, group: str, period: dict[str, int], days: int
) -> None:
    vault_name = name("v")
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/{vault_name}"
    properties = {"tenantId": cloud.environment["ARM_TENANT_ID"], "sku": {"family": "A", "name": "standard"}, **period}
    cloud.arm("PUT", vault, {"location": "westeurope", "properties": properties})
    cloud.arm("DELETE", vault)
    listed = cloud.arm("GET", "providers/Microsoft.KeyVault/deletedVaults").json()["value"]
    (deleted,) = [each["properties"] for each in listed if each["name"] == vault_name]
    date_of = {key: datetime.fromisoformat(deleted[key]) for key in ("deletionDate", "scheduledPurgeDate")}
    assert date_of["scheduledPurgeDate"] - date_of["deletionDate"] == timedelta(days=days)


def test_vault_secret_value_is_never_returned(cloud: RunningSandbox, group: str) -> None:
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/holds-a-secret"
    properties = {"tenantId": "t", "sku": {"family": "A", "name": "standard"}, "publicNetworkAccess": "Disabled"}
    assert cloud.arm("PUT", vault, {"location": "westeurope", "properties": properties}).status_code == 201
    for answer in (
        cloud.arm("PUT", f"{vault}/secrets/key", {"properties": {"value": "hush", "contentType": "text/plain"}}),
        cloud.arm("GET", f"{vault}/secrets/key"),
    ):
        assert answer.is_success
        assert answer.json()["properties"]["contentType"] == "text/plain"
        assert "hush" not in answer.text
    assert b"hush" not in b"".join(path.read_bytes() for path in cloud.folder.rglob("*") if path.is_file())


def test_same_role_assignment_cannot_exist_twice(cloud: RunningSandbox, group: str) -> None:
    role = f"{cloud.subscription}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR}"
    grant = {"principalId": str(uuid.uuid4()), "principalType": "ServicePrincipal", "roleDefinitionId": role}

    def assign(**changes: str) -> httpx.Response:
        path = f"{group}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        sent = {key: value for key, value in {**grant, **changes}.items() if value}
        return cloud.arm("PUT", path, {"properties": sent})

    assert assign(principalType="").json()["error"]["code"] == "PrincipalNotFound"
    assert assign(principalType="", principalId=authority.identity(cloud.folder).object_id).status_code == 201
    first = assign()
    assert first.status_code == 201
    assert assign().json()["error"]["code"] == "RoleAssignmentExists"
    assert cloud.arm("PUT", first.json()["id"], {"properties": grant}).status_code == 200
    only = f"{group}/providers/Microsoft.Authorization/roleAssignments?$filter=principalId eq '{grant['principalId']}'"
    assert [found["id"] for found in cloud.arm("GET", only).json()["value"]] == [first.json()["id"]]


def test_identity_has_the_same_principal_in_all_resources(cloud: RunningSandbox, group: str) -> None:
    identity = f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name()}"
    principal = cloud.arm("PUT", identity, {"location": "westeurope"}).json()
    connector = f"{group}/providers/Microsoft.Databricks/accessConnectors/{name()}"
    worn = {"type": "SystemAssigned,UserAssigned", "userAssignedIdentities": {principal["id"]: {}}}
    shown = cloud.arm("PUT", connector, {"location": "westeurope", "identity": worn}).json()["identity"]
    assert shown["userAssignedIdentities"][principal["id"]]["principalId"] == principal["properties"]["principalId"]
    assert shown["principalId"] not in (None, principal["properties"]["principalId"])
    worn["userAssignedIdentities"] = {f"{principal['id']}-missing": {}}
    refused = cloud.arm("PUT", connector, {"location": "westeurope", "identity": worn})
    assert refused.json()["error"]["code"] == "FailedIdentityOperation"


def test_stale_etag_is_refused(cloud: RunningSandbox, group: str) -> None:
    body = {"location": "westeurope"}
    before = cloud.arm("GET", group).headers["ETag"]
    assert cloud.arm("PUT", group, {**body, "tags": {"a": "b"}}, **{"If-Match": before}).status_code == 200
    assert cloud.arm("PUT", group, body, **{"If-Match": before}).status_code == 412
    absent = f"{group}-absent"
    assert cloud.arm("PUT", absent, body, **{"If-Match": "*"}).status_code == 412
    assert cloud.arm("PATCH", absent, {"tags": {}}, **{"If-Match": "*"}).status_code == 404
    assert cloud.arm("PUT", group, body, **{"If-None-Match": "*"}).status_code == 412


def test_type_without_rules_is_stored(cloud: RunningSandbox, group: str) -> None:
    path = f"{group}/providers/Contoso.Newcomer/things/one"
    assert cloud.arm("PUT", path, {"properties": {"colour": "red"}}).status_code == 201
    assert cloud.arm("GET", path).json()["properties"] == {"colour": "red", "provisioningState": "Succeeded"}
    assert [found["name"] for found in cloud.arm("GET", f"{group}/resources").json()["value"]] == ["one"]


def test_workspace_number_changes_with_a_new_workspace_and_never_with_an_update(
    cloud: RunningSandbox, group: str
) -> None:
    path = f"{group}/providers/Microsoft.Databricks/workspaces/numbered"

    def number(**tags: str) -> str:
        body = {"location": "westeurope", "tags": tags, "properties": {"computeMode": "Hybrid"}}
        assert cloud.arm("PUT", path, body).status_code in (200, 201)
        return str(eventually(lambda: cloud.arm("GET", path).json()["properties"], succeeded)["workspaceId"])

    def succeeded(properties: dict[str, Any]) -> bool:
        return properties["provisioningState"] == "Succeeded"

    first = number()
    assert first.isdigit()
    assert number(a="b") == first
    cloud.arm("DELETE", path)
    eventually(lambda: cloud.arm("GET", path).status_code == 404)
    assert number() != first


def test_templates_produce_complete_guids() -> None:
    guid = str(uuid.uuid4())
    known = "id url authority subscription tenant group name parent location created now number".split()
    known += "object client tier parent_sku parent_tier".split()
    for rule in resource_types.load().values():
        filled = str(resource_types.fill(rule.computed, {**dict.fromkeys(known, ""), "guid": guid}))
        assert filled.count(guid[:24]) == len(re.findall(guid[:24] + r"[0-9a-f]{12}\b", filled))


def test_started_process_ends_with_a_killed_sandbox(tmp_path: Path) -> None:
    script = """
import os, signal
from pathlib import Path
from sandbox import processes
child = processes.start(["sleep", "60"], log=Path("log"), environment=os.environ, folder=Path("."))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert gone(int(done.stdout))


def test_env_prints_shell_exports(cloud: RunningSandbox, tmp_path: Path) -> None:
    assert "no sandbox was ever started" in sandbox_command("env", tmp_path).stderr
    shell = f'eval "$({sys.executable} -m sandbox env --folder {cloud.folder})" && echo "$ARM_METADATA_HOSTNAME"'
    shown = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.strip() == cloud.authority


def test_secrets_can_be_read_by_their_owner_only(cloud: RunningSandbox) -> None:
    private = ["environment.json", "identity/identity.json", "identity/server-key.pem", "identity/token-key.pem"]
    assert {(cloud.folder / file).stat().st_mode & 0o777 for file in private} == {0o600}


def test_budget_starts_this_month_or_later_and_never_moves(cloud: RunningSandbox) -> None:
    this_month = datetime.now(UTC).date().replace(day=1)
    path = f"providers/Microsoft.Consumption/budgets/{name()}"

    def put(start: date, amount: int = 1) -> str:
        period = {"startDate": f"{start}T00:00:00Z"}
        properties = {"amount": amount, "category": "Cost", "timeGrain": "Monthly", "timePeriod": period}
        answer = cloud.arm("PUT", path, {"properties": properties})
        return answer.json()["error"]["message"] if answer.is_error else ""

    next_month = (this_month + timedelta(days=32)).replace(day=1)
    assert "current timegrain period" in put((this_month - timedelta(days=1)).replace(day=1))
    assert "first of a month" in put(this_month + timedelta(days=1))
    assert "twelve months" in put(next_month.replace(year=next_month.year + 1))
    assert put(this_month) == ""
    assert put(this_month, amount=2) == ""
    assert "cannot be updated" in put(next_month)
