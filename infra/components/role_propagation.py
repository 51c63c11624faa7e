"""Wait between role assignments and the resources that need them: a role takes effect minutes after it is assigned.

`RolesInEffect` calls Azure's `checkAccess` until the principal may do the next step, and then counts as created. The
next resource names it in its `depends_on`. Does not assign roles: `roles.py` does. Does not wait for the roles of a
release, whose own calls are repeated while they are refused (`cloud/retry.py`).

A fixed wait would often be too long and sometimes too short: "it can take up to 10 minutes for changes to take effect".
The check needs `Microsoft.Authorization/*/read`, which is in every role that may assign roles.

Source: kubeguard/guard authz/providers/azure/rbac/rbac.go; kubeguard/guard
authz/providers/azure/rbac/checkaccessreqhelper.go (path, API version, request and answer of `checkAccess`)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import DiffResult

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, replaces
from infra.dynamic.polling import PollInterval
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState, is_unknown
from infra.dynamic.resource import DynamicResource

_API_VERSION = "2018-09-01-preview"
_CHECK = "/providers/Microsoft.Authorization/checkaccess"
_CONFIRMATIONS = 3
"""Positive answers in a row, each over a separate connection: the instances of ARM do not learn of the role at the same
time."""

# Source: MicrosoftDocs/azure-docs articles/role-based-access-control/troubleshooting.md (10 minutes);
# MicrosoftDocs/azure-aks-docs articles/aks/user-assigned-managed-identity.md (60 minutes for a cluster's identity)
_SECONDS = 3600
_WITHOUT_CHECK_SECONDS = 600
"""Fixed wait if `checkAccess` is unavailable."""
_POLL = PollInterval(quick=0.5, quick_for=30, slow=10)


class RolesNotInEffect(Exception):
    """The roles exist but are not in effect; the message names the actions that are still refused."""


class CheckUnavailable(Exception):
    """`checkAccess` returned no decision; the message holds its answer."""


@dataclass(frozen=True)
class Access:
    """Permission that a principal needs before the next resource is written: `action` on `scope`."""

    principal_id: pulumi.Input[str]
    action: str
    """Name in the permissions reference, such as `Microsoft.Network/virtualNetworks/subnets/join/action`."""
    scope: pulumi.Input[str]


class RolesInEffectInputs(Inputs):
    access: InputField[Sequence[dict[str, str]]] = replaces()
    """The fields of each `Access`."""


class _RolesInEffectProvider(ReleaseProvider[RolesInEffectInputs, Outputs]):
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare, where an unknown value counts as unchanged.

        In the preview of an identity's update azure-native does not know the principal id. If a resource in the list is
        replaced, the whole list may be unknown, which counts as a change.
        """
        before, now = olds["access"], news["access"]
        same = (
            not is_unknown(now)
            and len(before) == len(now)
            and all(new == old or is_unknown(new) for old, new in zip(_flat(before), _flat(now), strict=True))
        )
        return DiffResult(changes=not same, replaces=[] if same else ["access"], delete_before_replace=False)

    def create_object(self, inputs: RolesInEffectInputs) -> Creation[Outputs]:
        cloud = AzureClients.discover()
        try:
            _wait(cloud, inputs.access)
        except CheckUnavailable as error:
            pulumi.log.warn(f"waiting {_WITHOUT_CHECK_SECONDS // 60} minutes for roles to take effect: {error}")
            time.sleep(_WITHOUT_CHECK_SECONDS)
        return Creation(f"{inputs.access[0]['scope']}/rolesInEffect", Outputs())

    def read_object(self, state: ResourceState[RolesInEffectInputs, Outputs]) -> RolesInEffectInputs | None:
        """Gone if a role was removed by hand, so that the next `up` waits again after assigning it."""
        try:
            return None if _refused(AzureClients.discover(), state.inputs.access) else state.inputs
        except CheckUnavailable:
            return state.inputs


def _flat(access: Sequence[dict[str, Any]]) -> list[Any]:
    return [each[name] for each in access for name in ("principal_id", "action", "scope")]


def _wait(cloud: AzureClients, access: Sequence[dict[str, str]]) -> None:
    began, confirmed = time.monotonic(), 0
    while True:
        refused = _refused(cloud, access)
        confirmed = 0 if refused else confirmed + 1
        if confirmed == _CONFIRMATIONS:
            return
        if time.monotonic() - began > _SECONDS:
            raise RolesNotInEffect(
                f"not in effect within {_SECONDS // 60} minutes: {'; '.join(refused)}. Check the role assignments of "
                "these scopes; if they exist, run `up` again."
            )
        _POLL.pause(began)


def _refused(cloud: AzureClients, access: Sequence[dict[str, str]]) -> list[str]:
    return [
        f"{each['principal_id']} may not {each['action']} on {each['scope']}"
        for each in access
        if not _is_allowed(cloud, **each)
    ]


def _is_allowed(cloud: AzureClients, principal_id: str, action: str, scope: str) -> bool:
    body = {
        "Subject": {"Attributes": {"ObjectId": principal_id}},
        "Actions": [{"Id": action, "IsDataAction": False, "Attributes": {}}],
        "Resource": {"Id": scope},
    }
    answer = cloud.request("POST", scope + _CHECK, _API_VERSION, body)
    if answer.status_code == 404 or answer.status_code == 429 or answer.status_code >= 500:
        return False  # not every instance of ARM knows the scope yet, or ARM is too busy: check again
    if not answer.ok:
        raise CheckUnavailable(f"checkAccess on {scope} returned HTTP {answer.status_code} {answer.text[:300]}")
    return all(str(decision["accessDecision"]).lower() == "allowed" for decision in answer.json())


class RolesInEffect(
    DynamicResource[RolesInEffectInputs],
    module="authorization",
    name="RolesInEffect",
    provider=_RolesInEffectProvider,
):
    """Resource that is created once every `access` is allowed. Pass the role assignments in `opts.depends_on`."""

    def __init__(self, name: str, access: Sequence[Access], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, RolesInEffectInputs(access=[vars(each) for each in access]), opts)
