"""The unmodified azure-identity with a throttling or failing token endpoint, and with tokens that expire soon."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, EnvironmentCredential
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.storage.blob import BlobServiceClient

from sandbox.identity import authority, entra
from testing.sandbox.data import Served, served_lake

TOKEN = "/oauth2/v2.0/token$"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_lake(tmp_path_factory.mktemp("sandbox"), "raw") as running:
        yield running


@pytest.fixture
def credential(cloud: Served) -> ClientSecretCredential:
    """A credential with an empty token cache."""
    who = cloud.sandbox.identity
    return ClientSecretCredential(who.tenant_id, who.client_id, who.client_secret, **options(cloud))


def options(cloud: Served) -> dict[str, Any]:
    bundle = str(authority.ca_bundle(cloud.sandbox.folder))
    return {"authority": cloud.sandbox.url, "disable_instance_discovery": True, "connection_verify": bundle}


def scope(cloud: Served) -> str:
    return f"{cloud.sandbox.url}/.default"


class Held:
    """Credential that assumes an hour of validity, as with a wrong clock or a revoked token. Its second token works."""

    def __init__(self, token: str, others: Any = None) -> None:
        self._token, self._others = token, others

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        token, self._token = self._token, self._others.get_token(*scopes).token if self._others else self._token
        return AccessToken(token, int(time.time()) + 3600)


def groups(cloud: Served, credential: Any) -> Any:
    return ResourceManagementClient(
        credential,
        cloud.sandbox.identity.subscription_id,
        base_url=cloud.sandbox.url,
        credential_scopes=[scope(cloud)],
        connection_verify=str(authority.ca_bundle(cloud.sandbox.folder)),
    ).resource_groups


def blob(cloud: Served, credential: Any) -> Any:
    bundle = str(authority.ca_bundle(cloud.sandbox.folder))
    service = BlobServiceClient(f"{cloud.sandbox.url}/blob/lake", credential=credential, connection_verify=bundle)
    return service.get_blob_client("raw", "x")


def test_variables_of_sandbox_env_log_in(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    who = cloud.sandbox.identity
    for name in ("tenant_id", "client_id", "client_secret"):
        monkeypatch.setenv(f"AZURE_{name.upper()}", getattr(who, name))
    assert [group.name for group in groups(cloud, EnvironmentCredential(**options(cloud))).list()] == []


def test_throttled_login_waits_for_retry_after_and_succeeds(cloud: Served, credential: ClientSecretCredential) -> None:
    cloud.faults({"path": TOKEN, "status": 429, "headers": {"Retry-After": "1"}})
    began = time.monotonic()
    assert credential.get_token(scope(cloud)).token
    assert time.monotonic() - began >= 1


def test_unknown_tenant_is_named(cloud: Served) -> None:
    who = cloud.sandbox.identity
    stranger = ClientSecretCredential("contoso", who.client_id, who.client_secret, **options(cloud))
    with pytest.raises(ClientAuthenticationError, match="contoso"):
        stranger.get_token(scope(cloud))


def test_token_is_fetched_once_in_its_lifetime(cloud: Served, credential: ClientSecretCredential) -> None:
    assert len({credential.get_token(scope(cloud)).token for _ in range(3)}) == 1


def test_token_that_expires_soon_is_not_used_twice(cloud: Served, credential: ClientSecretCredential) -> None:
    with cloud.settings(token_lifetime=2):
        first = credential.get_token(scope(cloud))
        assert 0 < first.expires_on - time.time() <= 2
        assert credential.get_token(scope(cloud)).token != first.token


@dataclass(frozen=True)
class Aged:
    """Clients and tokens that have just expired."""

    groups: Any
    blob: Any
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def aged(cloud: Served) -> Aged:
    who = cloud.sandbox.identity
    credential = ClientSecretCredential(who.tenant_id, who.client_id, who.client_secret, **options(cloud))
    with cloud.settings(token_lifetime=2):
        tokens = {
            asked: credential.get_token(f"{asked}/.default").token for asked in (cloud.sandbox.url, entra.STORAGE)
        }
        made = Aged(groups(cloud, credential), blob(cloud, credential), tokens)
        for _ in range(2):
            list(made.groups.list())
            made.blob.upload_blob(b"1", overwrite=True)
        list(groups(cloud, Held(tokens[cloud.sandbox.url])).list())
        blob(cloud, Held(tokens[entra.STORAGE])).upload_blob(b"2", overwrite=True)
        time.sleep(2)
    return made


def test_clients_continue_after_their_tokens_expire(aged: Aged) -> None:
    list(aged.groups.list())
    assert aged.blob.download_blob().readall() == b"2"


def test_expired_token_is_refused_by_every_service(cloud: Served, aged: Aged) -> None:
    with pytest.raises(ClientAuthenticationError) as expired:
        list(groups(cloud, Held(aged.tokens[cloud.sandbox.url])).list())
    assert (expired.value.status_code, expired.value.error.code) == (401, "ExpiredAuthenticationToken")
    with pytest.raises(ClientAuthenticationError) as refused:
        blob(cloud, Held(aged.tokens[entra.STORAGE])).upload_blob(b"3", overwrite=True)
    assert refused.value.error_code == "InvalidAuthenticationInfo"


def test_storage_client_renews_a_refused_token(cloud: Served, credential: ClientSecretCredential, aged: Aged) -> None:
    blob(cloud, Held(aged.tokens[entra.STORAGE], credential)).upload_blob(b"2", overwrite=True)


def test_each_service_takes_tokens_of_its_own_only(cloud: Served, credential: ClientSecretCredential) -> None:
    class ForDatabricks:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return credential.get_token(f"{entra.DATABRICKS}/.default")

    with pytest.raises(ClientAuthenticationError) as refused:
        list(groups(cloud, ForDatabricks()).list())
    assert refused.value.error.code == "InvalidAuthenticationTokenAudience"
