"""Controls the sandbox of a local run: starts and stops it, and queries its resources.

Uses the sandbox's command line, its HTTP services, and the environment in its folder.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt

from cli import packages
from cli.errors import UserError
from cli.local_run.run_directory import FORCE
from infra.cloud.clients import AzureClients
from sandbox.instance_lock import Damaged, environment


def start(folder: Path, port: int | None) -> dict[str, str]:
    """Start the sandbox unless it is running. Return its environment, which is also set for this process's SDKs."""
    packages.require_local()
    _command("start", "--folder", str(folder), *(["--port", str(port)] if port else []))
    added = environment(folder)
    os.environ.update(added)
    return {**os.environ, **added}


def stop(folder: Path) -> None:
    _command("stop", "--folder", str(folder))


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the sandbox's clients into a `UserError` with the remedy."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        from cli.dashboard.stack_source import EXPECTED_ERRORS

        if not isinstance(error, EXPECTED_ERRORS):
            raise
        raise UserError(
            f"unexpected answer from the sandbox: {type(error).__name__}: {error}\nIts log is "
            f"{folder / 'sandbox.log'}. `make local` continues the run; `make local-down` removes it."
        ) from error


def deployer() -> str:
    """Return the Entra object id of the login, which runs releases, from the claims of a token."""
    cloud = AzureClients.discover()
    token = cloud.credential().get_token(cloud.scope).token
    return jwt.decode(token, options={"verify_signature": False})["oid"]


def resources() -> list[str]:
    """Return the ids of all resources in the subscription."""
    cloud = AzureClients.discover()
    subscription, token = os.environ["ARM_SUBSCRIPTION_ID"], cloud.credential().get_token(cloud.scope).token
    listed: list[dict[str, Any]] = []
    for kind, version in (("resourcegroups", "2024-03-01"), ("resources", "2024-03-01")):
        answer = httpx.get(
            f"{cloud.resource_manager}/subscriptions/{subscription}/{kind}",
            params={"api-version": version},
            headers={"Authorization": f"Bearer {token}"},
        )
        answer.raise_for_status()
        listed += answer.json()["value"]
    return [resource["id"] for resource in listed]


def redirect_target(page: str) -> str:
    """Return the address to which a page redirects, for browsers that do not trust the sandbox's certificate."""
    answer = httpx.get(page)
    return answer.headers.get("location", page)


def exists(resource_id: str) -> bool:
    """Return whether Azure Resource Manager knows the resource."""
    cloud = AzureClients.discover()
    answer = httpx.get(
        f"{cloud.resource_manager}{resource_id}",
        params={"api-version": "2024-03-01"},
        headers={"Authorization": f"Bearer {cloud.credential().get_token(cloud.scope).token}"},
    )
    return answer.status_code == 200


def _command(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "sandbox", *arguments], capture_output=True, text=True)
    if done.returncode == 0:
        if done.stderr:
            remedy = "If a local run fails because of this: `make local-down`, then `make local`."
            print(done.stderr, remedy, sep="", file=sys.stderr)
        return
    message = (done.stderr.strip() or done.stdout.strip()).removeprefix("error: ")
    if done.returncode == Damaged.exit_code:
        message += f"\nFor a local run: {FORCE}."
    raise UserError(message)
