"""A wait between role assignments and what needs them: a role exists at once, and takes effect minutes later.

`RolesInEffect` asks Azure's `checkAccess` whether the principal may do the next step, and is created when it may. The
next resource has it in its `depends_on`. Does not assign roles (`roles.py`), and does not wait for the roles of a
release, whose own calls repeat while they are refused (`release/patience.py`).

A fixed wait would be too long most times and too short some times: "it can take up to 10 minutes for changes to take
effect". The check needs `Microsoft.Authorization/*/read`, which every role has that may assign roles.

Source: kubeguard/guard authz/providers/azure/rbac/rbac.go; kubeguard/guard
authz/providers/azure/rbac/checkaccessreqhelper.go (path, API version, request and answer of `checkAccess`)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource

from infra.release.cloud import Cloud
from infra.release.dynamic import ReleaseProvider, gone, is_unknown

_API_VERSION = "2018-09-01-preview"
_CHECK = "/providers/Microsoft.Authorization/checkaccess"
_CONFIRMATIONS = 3
"""Answers in a row, each over a separate connection: another instance of ARM may answer each of them, and may not
know the role yet."""

# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md (10 minutes);
# MicrosoftDocs/azure-aks-docs articles/aks/user-assigned-managed-identity.md (60 minutes for a cluster's identity)
_SECONDS = 3600
_WITHOUT_CHECK_SECONDS = 600
"""The wait where `checkAccess` cannot be asked."""
_QUICK_SECONDS, _QUICK_PAUSE, _PAUSE = 30, 0.5, 10.0


class RolesNotInEffect(Exception):
    """The roles exist and grant nothing yet; the message names the actions still refused."""


class CheckUnavailable(Exception):
    """`checkAccess` answered with no decision; the message holds its answer."""


@dataclass(frozen=True)
class Access:
    """What a principal must be able to do before the next resource is written: `action` on `scope`."""

    principal_id: pulumi.Input[str]
    action: str
    """Name in the permissions reference, such as `Microsoft.Network/virtualNetworks/subnets/join/action`."""
    scope: pulumi.Input[str]


class _RolesInEffectProvider(ReleaseProvider):
    identity = ("access",)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """azure-native knows no principal id in the preview of an identity's update: that is not another principal.

        The whole list is unknown where the engine asks what follows from a replacement of something in it.
        """
        before, now = olds["access"], news["access"]
        same = (
            not is_unknown(now)
            and len(before) == len(now)
            and all(new == old or is_unknown(new) for old, new in zip(_flat(before), _flat(now), strict=True))
        )
        return DiffResult(changes=not same, replaces=[] if same else ["access"], delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        cloud = Cloud.discover()
        try:
            _wait(cloud, props["access"])
        except CheckUnavailable as error:
            pulumi.log.warn(f"waiting {_WITHOUT_CHECK_SECONDS // 60} minutes for roles to take effect: {error}")
            time.sleep(_WITHOUT_CHECK_SECONDS)
        return CreateResult(f"{props['access'][0]['scope']}/rolesInEffect", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """A role that somebody took away is not in effect, and is waited for again once it is assigned."""
        try:
            cloud = Cloud.discover()
            return gone() if _refused(cloud, props["access"]) else ReadResult(id_, props)
        except CheckUnavailable:
            return ReadResult(id_, props)


def _flat(access: Sequence[dict[str, Any]]) -> list[Any]:
    return [each[name] for each in access for name in ("principal_id", "action", "scope")]


def _wait(cloud: Cloud, access: Sequence[dict[str, str]]) -> None:
    began, confirmed = time.monotonic(), 0
    while True:
        refused = _refused(cloud, access)
        confirmed = 0 if refused else confirmed + 1
        if confirmed == _CONFIRMATIONS:
            return
        waited = time.monotonic() - began
        if waited > _SECONDS:
            raise RolesNotInEffect(
                f"not in effect within {_SECONDS // 60} minutes: {'; '.join(refused)}. Look at the role assignments of "
                "these scopes; if they are there, run `up` again."
            )
        time.sleep(_QUICK_PAUSE if waited < _QUICK_SECONDS else _PAUSE)


def _refused(cloud: Cloud, access: Sequence[dict[str, str]]) -> list[str]:
    return [
        f"{each['principal_id']} may not {each['action']} on {each['scope']}"
        for each in access
        if not _is_allowed(cloud, **each)
    ]


def _is_allowed(cloud: Cloud, principal_id: str, action: str, scope: str) -> bool:
    body = {
        "Subject": {"Attributes": {"ObjectId": principal_id}},
        "Actions": [{"Id": action, "IsDataAction": False, "Attributes": {}}],
        "Resource": {"Id": scope},
    }
    answer = cloud.request("POST", scope + _CHECK, _API_VERSION, body)
    if answer.status_code == 404 or answer.status_code == 429 or answer.status_code >= 500:
        return False  # the scope is not known everywhere yet, or ARM is too busy: asked again
    if not answer.ok:
        raise CheckUnavailable(f"checkAccess on {scope} answered HTTP {answer.status_code} {answer.text[:300]}")
    return all(str(decision["accessDecision"]).lower() == "allowed" for decision in answer.json())


class RolesInEffect(Resource, module="authorization", name="RolesInEffect"):
    """Created once every `access` is allowed. Give it the role assignments in `opts.depends_on`."""

    def __init__(self, name: str, access: Sequence[Access], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(_RolesInEffectProvider(), name, {"access": [vars(each) for each in access]}, opts)
