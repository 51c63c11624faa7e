"""Functions on the body of a resource: check it, keep immutable properties, and add the computed ones."""

import copy
import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from sandbox.arm.resource_id import ResourceId
from sandbox.arm.resource_types import TypeRule, fill
from sandbox.arm.store import Body
from sandbox.context import CloudError, Sandbox


# Source: hashicorp/terraform-provider-azurerm#21093 (the code, of a network security group)
def check_name(rule: TypeRule, name: str) -> None:
    low, high, pattern = rule.name.get("min", 1), rule.name.get("max", 260), rule.name.get("pattern")
    if not low <= len(name) <= high:
        message = f"'{name}' is {len(name)} characters long; a name of {rule.type} has {low} to {high}."
        raise CloudError(400, "InvalidResourceName", message)
    if pattern and not re.search(pattern, name):
        raise CloudError(400, "InvalidResourceName", f"'{name}' does not match {pattern}, as {rule.type} must.")


# Source: Azure/azure-rest-api-specs#35342 (`LocationRequired` with its message)
def check_body(rule: TypeRule, resource_id: str, sent: Body) -> None:
    if rule.location == "required" and not sent.get("location"):
        raise CloudError(400, "LocationRequired", f"The location property is required for '{resource_id}'.")
    for path in rule.required:
        if dig(sent, path) is None:
            # No source: PUT a resource without such a property on Azure, and read the code; each service has its own.
            raise CloudError(400, "MissingRequiredProperty", f"'{resource_id}' needs the property '{path}'.")


def keep_immutable(rule: TypeRule, existing: Body, sent: Body) -> None:
    """Refuse a change of an immutable property, and keep its value if the request omits it."""
    if home := str(existing.get("location") or ""):
        sent["location"] = sent.get("location") or home
        if _location(sent["location"]) != _location(home):
            message = f"'{existing['id']}' is in location '{home}' and cannot move to '{sent['location']}'."
            # Source: MicrosoftDocs/azure-docs
            # articles/azure-resource-manager/troubleshooting/common-deployment-errors.md (`InvalidResourceLocation`)
            raise CloudError(409, "InvalidResourceLocation", message)
    for path in rule.immutable:
        before, after = dig(existing, path), dig(sent, path)
        if after is None and before is not None:
            *outer, last = path.split(".")
            place = sent
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = before
        elif _folded(before) != _folded(after):
            message = f"Changing property '{path}' of '{existing['id']}' from {before!r} to {after!r} is not allowed."
            # Source: Azure/azure-sdk-for-go#2899 (of a virtual machine, with status 409)
            raise CloudError(409, "PropertyChangeNotAllowed", message)


def complete(sandbox: Sandbox, found: ResourceId, rule: TypeRule, sent: Body, existing: Body | None) -> Body:
    """The resource as Azure would return it: the computed values, overridden by the request's."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    created = dig(existing, "systemData.createdAt") or now
    parent_sku = str(dig(sandbox.store.get(found.parent), "sku.name") or "")
    values = {
        "id": found.id,
        "url": sandbox.url,
        "authority": sandbox.authority,
        "subscription": sandbox.identity.subscription_id,
        "tenant": sandbox.identity.tenant_id,
        "group": found.group,
        "name": found.name,
        "parent": found.parent.rsplit("/", 1)[-1],
        "location": _location(sent.get("location") or ""),
        "created": created,
        "now": now,
        "object": sandbox.identity.object_id,
        "client": sandbox.identity.client_id,
        "tier": str(dig(sent, "sku.name") or "").partition("_")[0],
        "parent_sku": parent_sku,
        "parent_tier": parent_sku.partition("_")[0],
        "guid": _guid(found.id, created),
        "number": str(uuid.UUID(_guid(found.id, created)).int % 10**16),
    }
    spelled = existing or {"id": found.id, "name": found.name}
    body: Body = merge(fill(rule.computed, values), sent)
    body |= {"id": spelled["id"], "name": spelled["name"], "type": found.type}
    if rule.location == "none":
        body.pop("location", None)
    if body.get("location"):
        body["location"] = _location(body["location"])
    body["properties"] = {**(body.get("properties") or {}), "provisioningState": "Succeeded"}
    for path in rule.write_only:
        _drop(body, path)
    if body.get("identity"):
        body["identity"] = _identity(sandbox, values["guid"], body["identity"])
    if rule.etag:
        outer, _, key = rule.etag.rpartition(".")
        (body[outer] if outer else body)[key] = f'"{uuid.uuid4().hex[:16]}"'
    by = {"createdBy": sandbox.identity.client_id, "createdByType": "Application"}
    return {**body, "systemData": {**by, "createdAt": created, "lastModifiedAt": now}}


def visible(rule: TypeRule, body: Body) -> Body:
    """The part of a stored resource that answers contain."""
    if not rule.absent:
        return body
    shown = {**body, "properties": dict(body.get("properties") or {})}
    for path in rule.absent:
        _drop(shown, path)
    return shown


def etag(rule: TypeRule, body: Body) -> str:
    shown = dig(body, rule.etag) if rule.etag else None
    return shown or f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"'


def merge(under: Any, over: Any) -> Any:
    """`under` with the values of `over`; objects are merged key by key."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}


def dig(body: Any, path: str) -> Any:
    for key in path.split("."):
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _drop(body: Body, path: str) -> None:
    outer, _, last = path.rpartition(".")
    place = dig(body, outer) if outer else body
    if isinstance(place, dict):
        place.pop(last, None)


def _identity(sandbox: Sandbox, principal_id: str, sent: Body) -> Body:
    identity = dict(sent)
    if "systemassigned" in str(sent.get("type", "")).lower():
        identity |= {"principalId": principal_id, "tenantId": sandbox.identity.tenant_id}
    if sent.get("userAssignedIdentities"):
        identity["userAssignedIdentities"] = {
            assigned: _user_assigned(sandbox, assigned) for assigned in sent["userAssignedIdentities"]
        }
    return identity


def _user_assigned(sandbox: Sandbox, identity_id: str) -> Body:
    resource = sandbox.store.get(identity_id)
    if resource is None:
        # Source: Azure/azure-policy#1311 (the message); Azure/azure-cli#31837 (the code)
        raise CloudError(400, "FailedIdentityOperation", f"The user-assigned identity '{identity_id}' was not found.")
    return {key: resource["properties"].get(key) for key in ("principalId", "clientId")}


def _location(name: str) -> str:
    return name.replace(" ", "").lower()


def _folded(value: Any) -> str:
    return json.dumps(value, sort_keys=True).lower()


def _guid(resource_id: str, created: str) -> str:
    """Unchanged while the resource exists; another one after it is deleted and created again."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{resource_id.lower()} {created}"))
