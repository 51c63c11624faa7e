"""Environment variables: of clients of the sandbox, and of the processes that its services start.

A running sandbox uses the environment of the last `sandbox start`, which sends its own, as if that command had started
the server. Running processes keep theirs until they are restarted.
"""

import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import state_files
from sandbox.context import CloudError, Sandbox
from sandbox.identity import authority

# Prefixes of a caller's own variables, which a job or service in the cloud would not have.
_PRIVATE = (
    *("ARM_", "AZURE_", "DATABRICKS_", "MLFLOW_", "PULUMI_", "PYTHON", "VIRTUAL_ENV"),
    *("PYSPARK_", "SPARK_", "HADOOP_", "YARN_"),
)


def of_clients(folder: Path, port: int, caller: Mapping[str, str]) -> dict[str, str]:
    """Variables with which an unmodified client finds this cloud, logs in and trusts its certificate."""
    who, authority_host = authority.identity(folder), f"127.0.0.1:{port}"
    bundle = str(authority.ca_bundle(folder))
    unproxied = (caller.get("NO_PROXY") or caller.get("no_proxy") or "").split(",")
    direct = ",".join(dict.fromkeys(filter(None, [*unproxied, "127.0.0.1", "localhost"])))
    return {
        "ARM_METADATA_HOSTNAME": authority_host,
        "ARM_DISABLE_INSTANCE_DISCOVERY": "true",
        "ARM_TENANT_ID": who.tenant_id,
        "ARM_SUBSCRIPTION_ID": who.subscription_id,
        "ARM_CLIENT_ID": who.client_id,
        "ARM_CLIENT_SECRET": who.client_secret,
        "AZURE_TENANT_ID": who.tenant_id,
        "AZURE_CLIENT_ID": who.client_id,
        "AZURE_CLIENT_SECRET": who.client_secret,
        "AZURE_AUTHORITY_HOST": f"https://{authority_host}",
        "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def prepare(folder: Path, port: int, caller: Mapping[str, str]) -> dict[str, str]:
    """Write the clients' variables and certificates; return the environment of the services' processes."""
    authority.write_ca_bundle(folder, caller)
    client = of_clients(folder, port, caller)
    state_files.write(folder / "environment.json", json.dumps(client, indent=2))
    inherited = {name: value for name, value in caller.items() if not name.startswith(_PRIVATE)}
    trust = {name: client[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NO_PROXY", "no_proxy")}
    return {**inherited, **trust, "SPARK_LOCAL_IP": "127.0.0.1"}


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    async def follow(request: Request) -> Response:
        secret = f"Bearer {sandbox.identity.client_secret}"
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), secret.encode()):
            raise CloudError(
                401, "AuthenticationFailed", "Only the owner of the sandbox's folder may set its environment."
            )
        caller: dict[str, str] = await request.json()
        for variables, replacement in (
            (os.environ, caller),
            (sandbox.environment, prepare(sandbox.folder, sandbox.port, caller)),
        ):
            for name in set(variables) - set(replacement):
                del variables[name]
            variables.update(replacement)
        return JSONResponse({})

    return [Route("/sandbox/environment", follow, methods=["PUT"])]
