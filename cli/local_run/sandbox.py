"""The sandbox as the local run sees it: a command to start, a command to stop, and an environment to work in."""

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
    """Start it, or find it running; returns its environment, which this process takes on for the SDKs it calls."""
    packages.require_local()
    _command("start", "--folder", str(folder), *(["--port", str(port)] if port else []))
    added = environment(folder)
    os.environ.update(added)
    return {**os.environ, **added}


def stop(folder: Path) -> None:
    _command("stop", "--folder", str(folder))


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an error of a client of the sandbox into one message with the remedy."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        from cli.dashboard.stack_source import UNANSWERED

        if not isinstance(error, UNANSWERED):
            raise
        raise UserError(
            f"the sandbox did not answer as it should: {type(error).__name__}: {error}\nIts log is "
            f"{folder / 'sandbox.log'}. `make local` goes on from here; `make local-down` removes the run."
        ) from error


def deployer() -> str:
    """The Entra object id that releases run as, from a token's own claims."""
    cloud = AzureClients.discover()
    token = cloud.credential().get_token(cloud.scope).token
    return jwt.decode(token, options={"verify_signature": False})["oid"]


def resources() -> list[str]:
    """Ids of every resource that exists in the subscription."""
    cloud = AzureClients.discover()
    subscription, token = os.environ["ARM_SUBSCRIPTION_ID"], cloud.credential().get_token(cloud.scope).token
    found: list[dict[str, Any]] = []
    for kind, version in (("resourcegroups", "2024-03-01"), ("resources", "2024-03-01")):
        answer = httpx.get(
            f"{cloud.resource_manager}/subscriptions/{subscription}/{kind}",
            params={"api-version": version},
            headers={"Authorization": f"Bearer {token}"},
        )
        answer.raise_for_status()
        found += answer.json()["value"]
    return [resource["id"] for resource in found]


def leads_to(page: str) -> str:
    """Where a page of a service is really served, for a browser that does not trust the sandbox's certificate."""
    answer = httpx.get(page)
    return answer.headers.get("location", page)


def exists(resource_id: str) -> bool:
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
            remedy = "If that hinders a local run: `make local-down`, then `make local`."
            print(done.stderr, remedy, sep="", file=sys.stderr)
        return
    message = (done.stderr.strip() or done.stdout.strip()).removeprefix("error: ")
    if done.returncode == Damaged.exit_code:
        message += f"\nOf a local run: {FORCE}."
    raise UserError(message)
