"""`personalization preflight`: runs all checks of region and subscription that could stop `up`, and shows the findings.

Read-only. A check that cannot run yields a finding of level `not checked`, never a pass. Does not validate the settings
against each other: `infra/config/settings/` does, before any check runs.
"""

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import jwt
import requests
from azure.core.exceptions import AzureError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.azure_resource_manager import Arm, NotAnswered
from cli.errors import UserError
from cli.preflight import (
    access,
    builds,
    names,
    ownership,
    providers,
    reach,
    rows,
    runner,
    unity_catalog,
    versions,
    vm_quota,
)
from cli.preflight.arm_models import Subscription
from cli.preflight.check import Check, Finding, Level, Target
from cli.stacks import files
from infra.cloud.clients import AzureClients
from infra.config import former_names
from infra.config.naming import Names

_MODULES = (access, providers, vm_quota, versions, names, ownership, reach, runner, builds, unity_catalog, rows)
_PARALLEL_CHECKS = 4  # Azure throttles a subscription's reads, and a preflight sends some thirty
_STOPPING = (Level.BLOCKING, Level.NOT_CHECKED)
_COLOURS = {
    Level.OK: "green",
    Level.DEFERRED: "cyan",
    Level.WARNING: "yellow",
    Level.NOT_CHECKED: "red",
    Level.BLOCKING: "red",
}


def run_checks(folder: Path, stack: str, only: str = "") -> list[Finding]:
    """Run the checks of a stack and return the findings by subject; only one subject if `only` names it (`reach`).

    Raises `UserError` if the stack, the cloud or a login is missing.
    """
    on = target(folder, stack)
    selected = [check for module in _MODULES for check in module.checks(on) if only in ("", check.subject)]
    with ThreadPoolExecutor(_PARALLEL_CHECKS) as pool:
        findings = list(chain.from_iterable(pool.map(lambda check: _findings(check, on), selected)))
    return findings if only else [*_former_names(folder, stack), *findings]


def stops(findings: Iterable[Finding]) -> bool:
    """Return whether a finding would stop `up`, or a check could not run."""
    return any(finding.level in _STOPPING for finding in findings)


def show(findings: Sequence[Finding], title: str, console: Console) -> None:
    """Print a table with one row per passed subject and per other finding, then the remedies as lines to copy."""
    passed: dict[str, list[str]] = {}
    others: dict[Level, list[Finding]] = {level: [] for level in Level if level != Level.OK}
    for finding in findings:
        if finding.level == Level.OK:
            passed.setdefault(finding.subject, []).append(finding.message)
        else:
            others[finding.level].append(finding)
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for subject, messages in passed.items():
        table.add_row(Text(Level.OK, "green"), subject, Text(", ".join(messages)))
    remedies: dict[str, list[Finding]] = {}
    for finding in chain.from_iterable(others.values()):
        table.add_row(Text(finding.level, _COLOURS[finding.level]), finding.subject, Text(finding.message))
        if finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding)
    console.print(table)
    for remedy, corrected in remedies.items():
        for finding in corrected:
            console.print(Text(f"{finding.subject}: {finding.message}", _COLOURS[finding.level]))
        console.print(Text(textwrap.indent(remedy, "    ")), soft_wrap=True)


def target(folder: Path, stack: str) -> Target:
    """Return the stack with its names and its cloud. Raises `UserError` if stack, cloud or login is missing."""
    config = files.read(folder, stack)
    settings = files.settings_of(config, files.file_of(folder, stack).name)
    try:
        cloud = AzureClients.discover()
        credential = cloud.credential()
        token = credential.get_token(cloud.scope).token
    except requests.RequestException as error:
        raise UserError(f"the cloud's metadata cannot be read: {error}. Check ARM_METADATA_HOSTNAME.") from None
    except (AzureError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"no login: {first} Run `az login`, or set ARM_CLIENT_ID and related variables.") from None
    arm = Arm(cloud.resource_manager, credential, cloud.scope)
    subscription = config.get("azure-native:subscriptionId") or os.environ.get("ARM_SUBSCRIPTION_ID") or _only(arm)
    claims = jwt.decode(token, options={"verify_signature": False})
    computed = Names.of(settings, subscription, stack.rpartition("/")[2])
    return Target(stack, settings, computed, subscription, claims["oid"], _kind(claims), arm, folder)


def _former_names(folder: Path, stack: str) -> list[Finding]:
    messages = former_names.deprecations(files.read(folder, stack))
    return [Finding("settings", Level.WARNING, message) for message in messages]


def _kind(claims: Mapping[str, Any]) -> str:
    """Return the kind of the token's principal. The claim `idtyp` is `app` only in a token for an application.

    A token without the claim belongs to a user if it has scopes (`scp`).
    Source: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
    """
    return "ServicePrincipal" if claims.get("idtyp") == "app" or "scp" not in claims else "User"


def _only(arm: Arm) -> str:
    """Return the login's subscription. Raises `UserError` unless there is exactly one."""
    try:
        subscriptions = arm.list(Subscription, "/subscriptions", "2022-12-01")
    except NotAnswered as error:
        raise UserError(f"the login's subscriptions cannot be listed: {error}. Set ARM_SUBSCRIPTION_ID.") from None
    if len(subscriptions) != 1:
        names = ", ".join(f"{each.subscription_id} ({each.display_name})" for each in subscriptions) or "none"
        raise UserError(
            f"the login must have one subscription, or ARM_SUBSCRIPTION_ID must be set. The login has: {names}."
        )
    return subscriptions[0].subscription_id


def _findings(check: Check, target: Target) -> list[Finding]:
    findings: list[Finding] = []
    try:
        for finding in check.run():
            findings.append(finding)  # one by one: findings before a failed request still count
    except NotAnswered as error:
        again = f"personalization preflight --stack {target.stack}"
        if error.status == 403:
            again = (
                f"az role assignment create --assignee {target.principal} --role Reader --scope {target.scope}\n{again}"
            )
        findings.append(Finding(check.subject, Level.NOT_CHECKED, f"{check.detail}: {error}", again))
    return findings
