"""`personalization preflight`: what would stop `up` in this region and subscription, asked before it starts.

Reads only. A question that gets no answer is a finding of its own and no pass. Does not judge the program's settings
among themselves: `infra/config/settings.py` does, before anything is asked.
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
from cli.preflight.check import Finding, Level, Question, Target
from cli.stacks import files
from infra.cloud.clients import AzureClients
from infra.config.naming import Names

_CHECKS = (access, providers, vm_quota, versions, names, ownership, reach, runner, builds, unity_catalog, rows)
_AT_ONCE = 4  # Azure throttles a subscription's reads; a check has some thirty of them
_STOPPING = (Level.BLOCKING, Level.UNASKED)
_COLOURS = {
    Level.OK: "green",
    Level.LATER: "cyan",
    Level.WARNING: "yellow",
    Level.UNASKED: "red",
    Level.BLOCKING: "red",
}


def ask(folder: Path, stack: str, only: str = "") -> list[Finding]:
    """Findings on a stack, in order of subject; of one subject if `only` names it, such as `reach`.

    Raises `UserError` without a stack of that name, a cloud or a login.
    """
    of = target(folder, stack)
    asked = [question for check in _CHECKS for question in check.questions(of) if only in ("", question.subject)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda question: _findings(question, of), asked)
        return [finding for found in answers for finding in found]


def stops(findings: Iterable[Finding]) -> bool:
    return any(finding.level in _STOPPING for finding in findings)


def show(findings: Sequence[Finding], title: str, console: Console) -> None:
    """A table, what is good of one subject in one row; commands below it, where a line can be copied whole."""
    good: dict[str, list[str]] = {}
    bad: dict[Level, list[Finding]] = {level: [] for level in Level if level != Level.OK}
    for finding in findings:
        if finding.level == Level.OK:
            good.setdefault(finding.subject, []).append(finding.says)
        else:
            bad[finding.level].append(finding)
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for subject, said in good.items():
        table.add_row(Text(Level.OK, "green"), subject, Text(", ".join(said)))
    remedies: dict[str, list[Finding]] = {}
    for finding in chain.from_iterable(bad.values()):
        table.add_row(Text(finding.level, _COLOURS[finding.level]), finding.subject, Text(finding.says))
        if finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding)
    console.print(table)
    for remedy, cured in remedies.items():
        for finding in cured:
            console.print(Text(f"{finding.subject}: {finding.says}", _COLOURS[finding.level]))
        console.print(Text(textwrap.indent(remedy, "    ")), soft_wrap=True)


def target(folder: Path, stack: str) -> Target:
    """The stack with its names and its cloud. Raises `UserError` if the stack, the cloud or a login is missing."""
    config = files.read(folder, stack)
    settings = files.settings_of(config, files.file_of(folder, stack).name)
    try:
        cloud = AzureClients.discover()
        credential = cloud.credential()
        token = credential.get_token(cloud.scope).token
    except requests.RequestException as error:
        raise UserError(f"the cloud's metadata cannot be read: {error}. Is ARM_METADATA_HOSTNAME right?") from None
    except (AzureError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"no login: {first} Run `az login`, or set ARM_CLIENT_ID and its companions.") from None
    arm = Arm(cloud.resource_manager, credential, cloud.scope)
    subscription = config.get("azure-native:subscriptionId") or os.environ.get("ARM_SUBSCRIPTION_ID") or _only(arm)
    claims = jwt.decode(token, options={"verify_signature": False})
    computed = Names.of(settings, subscription, stack.rpartition("/")[2])
    return Target(stack, settings, computed, subscription, claims["oid"], _kind(claims), arm, folder)


def _kind(claims: Mapping[str, Any]) -> str:
    """Kind of principal that a token is for: `idtyp` is `app` in a token for an application alone.

    A token without the claim is a user's if it has scopes (`scp`).
    Source: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
    """
    return "ServicePrincipal" if claims.get("idtyp") == "app" or "scp" not in claims else "User"


def _only(arm: Arm) -> str:
    """The one subscription of the login."""
    try:
        found = arm.list(Subscription, "/subscriptions", "2022-12-01")
    except NotAnswered as error:
        raise UserError(f"the login's subscriptions cannot be listed: {error}. Set ARM_SUBSCRIPTION_ID.") from None
    if len(found) != 1:
        there = ", ".join(f"{one.subscription_id} ({one.display_name})" for one in found) or "none"
        raise UserError(f"which subscription? Set ARM_SUBSCRIPTION_ID. The login has: {there}.")
    return found[0].subscription_id


def _findings(question: Question, target: Target) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in question.ask():
            found.append(finding)  # what was found before a later request fails counts all the same
    except NotAnswered as error:
        again = f"personalization preflight --stack {target.stack}"
        if error.status == 403:
            again = (
                f"az role assignment create --assignee {target.principal} --role Reader --scope {target.scope}\n{again}"
            )
        found.append(Finding(question.subject, Level.UNASKED, f"{question.about}: {error}", again))
    return found
