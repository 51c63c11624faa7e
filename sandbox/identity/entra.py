"""The part of Entra that a service principal with a secret needs: discovery, token, keys; and the check of its tokens.

Issues a token for any requested audience, as Entra does for every registered application; each service refuses a wrong
one. Has no users, certificates as credentials, or consent.
"""

import datetime
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

import jwt
from jwt.algorithms import RSAAlgorithm
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.context import CloudError, Sandbox
from sandbox.identity import authority

# Source: MicrosoftDocs/azure-docs articles/storage/blobs/authorize-access-azure-active-directory.md;
# databricks-sdk==0.156.0 databricks/sdk/environments.py
STORAGE = "https://storage.azure.com"
DATABRICKS = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"
_MANAGEMENT = "/management.core"
"""Path of the audience that is `https://management.core.windows.net/` in public Azure, the first in its metadata.

Source: Azure/azure-cli src/azure-cli-core/azure/cli/core/cloud.py (`active_directory_resource_id` and
`resource_manager`); databricks/databricks-sdk-py databricks/sdk/environments.py (`service_management_endpoint`).
"""

_KEY_ID = "sandbox"


def management_audience(sandbox: Sandbox) -> str:
    return f"{sandbox.url}{_MANAGEMENT}/"


# Source: MicrosoftDocs/entra-docs docs/identity-platform/access-tokens.md ("Validate tokens")
def require_token(sandbox: Sandbox, request: Request, audience: str) -> dict[str, Any]:
    """The claims of the request's bearer token. Raises `CloudError` 401.

    `audience` is the service's: `sandbox.url` for ARM and Azure ML, which also take
    `management_audience`, else one of this module's constants.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")

    # Source: Azure/Azure-Sentinel#11922 (`InvalidAuthenticationTokenAudience`, `ExpiredAuthenticationToken`);
    # azure-storage-blob==12.31.1 azure/storage/blob/_shared/authentication.py (the challenge)
    def refused(code: str, message: str) -> CloudError:
        # Storage clients request a new token at this address and repeat the request.
        where = f'authorization_uri="{sandbox.url}/{sandbox.identity.tenant_id}/oauth2/authorize"'
        challenge = f'Bearer {where} resource_id="{_bare(audience)}", error="invalid_token"'
        return CloudError(401, code, message, {"WWW-Authenticate": challenge})

    if scheme.lower() != "bearer" or not token:
        raise refused("AuthenticationFailed", "The 'Authorization' header is missing or is not a bearer token.")
    try:
        return _claims(sandbox, token.strip(), audience)
    except jwt.ExpiredSignatureError as error:
        raise refused("ExpiredAuthenticationToken", "The access token has expired.") from error
    except jwt.InvalidAudienceError as error:
        message = f"The access token is for another audience: ask for scope '{_bare(audience)}/.default'."
        raise refused("InvalidAuthenticationTokenAudience", message) from error
    except jwt.InvalidTokenError as error:
        raise refused("InvalidAuthenticationToken", f"Not a token of this sandbox: {error}.") from error


def is_for(sandbox: Sandbox, token: str, audience: str) -> bool:
    """Whether this is a valid token of this sandbox for the audience."""
    try:
        _claims(sandbox, token, audience)
    except jwt.InvalidTokenError:
        return False
    return True


def _claims(sandbox: Sandbox, token: str, audience: str) -> dict[str, Any]:
    """Claims of a token for the audience. Raises `jwt.InvalidTokenError`."""
    accepted = [audience, management_audience(sandbox)] if audience == sandbox.url else [audience]
    claims: dict[str, Any] = jwt.decode(
        token,
        authority.signing_key(sandbox.folder).public_key(),
        algorithms=["RS256"],
        audience=[_bare(each) for each in accepted],
        issuer=f"{sandbox.url}/{sandbox.identity.tenant_id}/v2.0",
        options={"require": ["exp", "aud", "iss"]},
    )
    return claims


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    tenant = sandbox.identity.tenant_id

    # Source: MicrosoftDocs/entra-docs docs/identity-platform/v2-protocols-oidc.md
    async def discovery(request: Request) -> Response:
        base = f"{sandbox.url}/{tenant}"
        return JSONResponse(
            {
                "issuer": f"{base}/v2.0",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    # Source: MicrosoftDocs/entra-docs docs/identity-platform/v2-oauth2-client-creds-grant-flow.md;
    # MicrosoftDocs/entra-docs docs/identity-platform/reference-error-codes.md (90002, 70003, 70011)
    # Source: Azure/login#561 (700016); MicrosoftDocs/azure-docs#33356 (7000215)
    async def token(request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        if request.path_params["tenant"].lower() != tenant:
            return _refusal(400, "invalid_request", 90002, f"Tenant '{request.path_params['tenant']}' not found.")
        if form.get("grant_type") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", 70003, "Only client_credentials is supported.")
        if form.get("client_id") != sandbox.identity.client_id:
            return _refusal(400, "unauthorized_client", 700016, f"Application '{form.get('client_id')}' was not found.")
        if not secrets.compare_digest(form.get("client_secret", "").encode(), sandbox.identity.client_secret.encode()):
            return _refusal(401, "invalid_client", 7000215, "Invalid client secret provided.")
        asked = form.get("scope", "").removesuffix(".default") or form.get("resource", "")
        if not asked:
            return _refusal(400, "invalid_scope", 70011, "Send 'scope=<resource>/.default'.")
        return JSONResponse({"token_type": "Bearer", **_issue(sandbox, _bare(asked))})

    # Source: MicrosoftDocs/entra-docs docs/identity-platform/access-tokens.md ("Validate the signature")
    async def keys(request: Request) -> Response:
        key = RSAAlgorithm.to_jwk(authority.signing_key(sandbox.folder).public_key(), as_dict=True)
        return JSONResponse({"keys": [{**key, "kid": _KEY_ID, "use": "sig", "alg": "RS256"}]})

    return [
        Route(f"/{tenant}/v2.0/.well-known/openid-configuration", discovery),
        Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
        Route("/{tenant}/oauth2/token", token, methods=["POST"]),
        Route(f"/{tenant}/discovery/v2.0/keys", keys),
    ]


def _issue(sandbox: Sandbox, audience: str) -> Mapping[str, Any]:
    who, now = sandbox.identity, int(datetime.datetime.now(datetime.UTC).timestamp())
    lifetime = sandbox.settings.token_lifetime
    claims = {
        "aud": audience,
        "iss": f"{sandbox.url}/{who.tenant_id}/v2.0",
        "iat": now,
        "nbf": now,
        "exp": now + lifetime,
        "appid": who.client_id,
        "azp": who.client_id,
        "idtyp": "app",
        "oid": who.object_id,
        "sub": who.object_id,
        "tid": who.tenant_id,
        "uti": uuid.uuid4().hex,
    }
    signed = jwt.encode(claims, authority.signing_key(sandbox.folder), algorithm="RS256", headers={"kid": _KEY_ID})
    # The v1 endpoint's clients read `expires_on`, as a string; v2 clients ignore it.
    return {"access_token": signed, "expires_in": lifetime, "expires_on": str(now + lifetime), "resource": audience}


def _refusal(status: int, error: str, code: int, message: str) -> Response:
    trace = str(uuid.uuid4())
    body = {
        "error": error,
        "error_description": f"AADSTS{code}: {message} Trace ID: {trace}",
        "error_codes": [code],
        "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
        "trace_id": trace,
        "correlation_id": trace,
    }
    return JSONResponse(body, status)


def _bare(audience: str) -> str:
    return audience.rstrip("/")
