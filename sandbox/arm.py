"""Azure Resource Manager: one generic store of resources behind the rules that hold for every type.

Ids, parents, names, locations, conflicts, ETags, soft delete and asynchronous operations are the same for all; what
differs by type is data in `types.yaml`, and what a type does beyond being stored is a service's `Behaviour`.
Does not run template deployments and does not enforce role assignments.
"""

import copy
import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import role_assignments
from sandbox.cloud import Behaviour, CloudError, Sandbox
from sandbox.entra import require_token
from sandbox.faults import hinder_operation, hinders_operation
from sandbox.operations import Operations
from sandbox.store import Body, ResourceStore
from sandbox.types import TypeRule, fill

GROUP = "Microsoft.Resources/resourceGroups"
_RESOURCE = re.compile(r"(.*)/providers/([^/]+)((?:/[^/]+/[^/]+)+)", re.IGNORECASE)
_COLLECTION = re.compile(r"(.*)/providers/([^/]+)((?:/[^/]+/[^/]+)*)/([^/]+)", re.IGNORECASE)
_GROUP = re.compile(r"(/subscriptions/[^/]+)/resourceGroups/([^/]+)", re.IGNORECASE)
_SUBSCRIPTION = "/subscriptions/{subscription}"
_PROVIDER = _SUBSCRIPTION + "/providers/{namespace}"


@dataclass(frozen=True)
class ResourceId:
    id: str
    type: str
    name: str
    parent: str
    """Id of what must exist first: a resource, a resource group, a subscription; empty for the tenant."""


class Arm:
    def __init__(
        self,
        sandbox: Sandbox,
        records: ResourceStore,
        rules: Mapping[str, TypeRule],
        behaviours: Mapping[str, Behaviour],
    ) -> None:
        self._sandbox, self._store = sandbox, sandbox.store
        self._records = records
        """What is no live resource: operations, and what was soft-deleted."""
        self._rules, self._behaviours = rules, behaviours
        self.operations = Operations(sandbox, records)

    def routes(self) -> list[BaseRoute]:
        methods = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"]
        return [
            *self.operations.routes(),
            Route("/subscriptions", self._subscriptions),
            Route(_SUBSCRIPTION, self._subscriptions),
            Route(_SUBSCRIPTION + "/providers", self._providers),
            Route(_PROVIDER, self._providers),
            Route(_PROVIDER + "/register", self._providers, methods=["POST"]),
            Route(_PROVIDER + "/checkNameAvailability", self._check_name, methods=["POST"]),
            Route(_PROVIDER + "/locations/{location}/{deleted}/{name}/purge", self._purge, methods=["POST"]),
            Route("/subscriptions/{path:path}", self._serve, methods=methods),
            Route("/providers/{path:path}", self._serve, methods=methods),
        ]

    # --- what is asked

    async def _serve(self, request: Request) -> Response:
        self._admit(request)
        path = request.url.path.rstrip("/")
        if request.method == "POST":
            return await self._act(request, *path.rsplit("/", 1))
        found = self._parse(path)
        if found is None:
            if request.method != "GET":
                raise CloudError(
                    405, "MethodNotAllowed", f"{request.method} needs the id of one resource, not '{path}'."
                )
            return self._list(request, path)
        if request.method == "PUT" or request.method == "PATCH":
            return await self._write(request, found)
        if request.method == "DELETE":
            return await self._delete(request, found)
        body = self._existing(found)
        if request.method == "HEAD":
            return Response(status_code=204)
        return JSONResponse(body, headers=_etag(body))

    def _admit(self, request: Request) -> None:
        require_token(self._sandbox, request, self._sandbox.url)
        if "api-version" not in request.query_params:
            message = "The api-version query parameter (?api-version=) is required for all requests."
            raise CloudError(400, "MissingApiVersionParameter", message)
        path = request.url.path.split("/")
        if path[1] == "subscriptions" and len(path) > 2 and path[2].lower() != self._sandbox.identity.subscription_id:
            raise CloudError(404, "SubscriptionNotFound", f"The subscription '{path[2]}' could not be found.")

    def _parse(self, path: str) -> ResourceId | None:
        """The resource that `path` names, in Azure's own spelling; None if it names a collection or nothing."""
        if group := _GROUP.fullmatch(path):
            return ResourceId(f"{group[1]}/resourceGroups/{group[2]}", GROUP, group[2], group[1])
        match = _RESOURCE.fullmatch(path)
        if match is None:
            return None
        scope, pairs = match[1], match[3].strip("/").split("/")
        above = self._parse(scope)
        resource_type = self._rule("/".join([match[2], *pairs[::2]])).type
        namespace, *types = resource_type.split("/")
        segments = [f"/{kind}/{name}" for kind, name in zip(types, pairs[1::2], strict=True)]
        scope = above.id if above else scope
        base = f"{scope}/providers/{namespace}"
        parent = base + "".join(segments[:-1]) if len(segments) > 1 else scope
        return ResourceId(base + "".join(segments), resource_type, pairs[-1], parent)

    def _rule(self, resource_type: str) -> TypeRule:
        return self._rules.get(resource_type.lower()) or TypeRule(type=resource_type)

    def _existing(self, found: ResourceId) -> Body:
        body = self._store.get(found.id)
        if body is None:
            self._require_parent(found)
            if found.type == GROUP:
                raise CloudError(404, "ResourceGroupNotFound", f"Resource group '{found.name}' could not be found.")
            raise CloudError(404, "ResourceNotFound", f"The resource '{found.id}' was not found.")
        return body

    def _require_parent(self, found: ResourceId) -> None:
        parent = self._parse(found.parent)
        if parent is None or self._store.get(parent.id) is not None:
            return
        if parent.type == GROUP:
            raise CloudError(404, "ResourceGroupNotFound", f"Resource group '{parent.name}' could not be found.")
        if not self._rule(parent.type).implied:
            message = f"'{found.name}' of type '{found.type}' needs its parent '{parent.id}', which could not be found."
            raise CloudError(404, "ParentResourceNotFound", message)
        self._require_parent(parent)

    # --- writing

    async def _write(self, request: Request, found: ResourceId) -> Response:
        rule, existing = self._rule(found.type), self._store.get(found.id)
        self._require_parent(found)
        if request.method == "PATCH" and existing is None:
            self._existing(found)
        _check_conditions(request, existing)
        sent = await _json(request)
        if request.method == "PATCH":
            sent = {**_merge(existing or {}, sent), **({"tags": sent["tags"]} if "tags" in sent else {})}
        if existing is None:
            self._check_new(found, rule, sent)
        else:
            _keep_immutable(rule, existing, sent)
        _check_body(rule, found, sent)
        self.operations.require_idle(found.id)
        self._imply_parents(found)
        body = self._complete(found, rule, sent, existing)
        hook = self._behaviours.get(found.type.lower(), Behaviour()).on_put

        async def work() -> None:
            await hinder_operation(request)
            if hook is not None:
                await hook(self._sandbox, body["id"], body)
            body["properties"]["provisioningState"] = "Succeeded"
            self._store.put(body["id"], body)

        if not (rule.asynchronous or hinders_operation(request)):
            await self.operations.run(body["id"], work)
            return JSONResponse(body, 201 if existing is None else 200, _etag(body))
        body["properties"]["provisioningState"] = "Creating" if existing is None else "Updating"
        self._store.put(body["id"], body)
        status = 200 if existing is not None else 202 if rule.accepted else 201
        answer = copy.deepcopy(body)
        return JSONResponse(answer, status, self.operations.start(body["id"], work))

    def _check_new(self, found: ResourceId, rule: TypeRule, sent: Body) -> None:
        low, high, pattern = rule.name.get("min", 1), rule.name.get("max", 260), rule.name.get("pattern")
        if not low <= len(found.name) <= high:
            message = f"'{found.name}' is {len(found.name)} characters long; {rule.type} takes {low} to {high}."
            raise CloudError(400, "InvalidResourceName", message)
        if pattern and not re.search(pattern, found.name):
            raise CloudError(
                400, "InvalidResourceName", f"'{found.name}' does not match {pattern}, as {rule.type} must."
            )
        taken = self._taken(rule, found.name, found.id)
        if taken and "/deleted/" not in taken:
            raise CloudError(
                409, "NameAlreadyTaken", f"The {rule.type} name '{found.name}' is already taken by '{taken}'."
            )
        properties = sent.get("properties") or {}
        if properties.get("createMode") == "recover" or properties.get("allowRecoverSoftDeletedWorkspace"):
            self._records.delete(f"/deleted{found.id}")
        elif taken:
            message = f"A soft-deleted {rule.type} '{found.name}' exists: purge or recover it, or choose another name."
            raise CloudError(409, "SoftDeletedResourceExists", message)

    def _taken(self, rule: TypeRule, name: str, resource_id: str = "") -> str | None:
        """Whose the name is already: a live resource's id, or `/deleted/…` of a soft-deleted one."""
        if rule.soft_delete and self._records.get(f"/deleted{resource_id}") is not None:
            return f"/deleted{resource_id}"
        everywhere = [*self._store.below("/subscriptions"), *self._records.below("/deleted")] if rule.unique else []
        for taken, body in everywhere:
            if body["type"].lower() == rule.type.lower() and body["name"].lower() == name.lower():
                return taken
        return None

    def _imply_parents(self, found: ResourceId) -> None:
        parent = self._parse(found.parent)
        if parent is not None and self._store.get(parent.id) is None:
            self._imply_parents(parent)
            self._store.put(parent.id, self._complete(parent, self._rule(parent.type), {}, None))

    def _complete(self, found: ResourceId, rule: TypeRule, sent: Body, existing: Body | None) -> Body:
        """The resource as Azure would show it: what was sent, over what the service computes."""
        group = _GROUP.match(found.id)
        values = {
            "url": self._sandbox.url,
            "authority": self._sandbox.authority,
            "subscription": self._sandbox.identity.subscription_id,
            "tenant": self._sandbox.identity.tenant_id,
            "group": group[2] if group else "",
            "name": found.name,
            "parent": found.parent.rsplit("/", 1)[-1],
            "location": _location(sent.get("location") or ""),
            "guid": _Guid(found.id),
        }
        body: Body = _merge(fill(rule.computed, values), sent)
        spelled = existing or {"id": found.id, "name": found.name}
        body |= {"id": spelled["id"], "name": spelled["name"], "type": found.type}
        if body.get("location"):
            body["location"] = _location(body["location"])
        body["properties"] = body.get("properties") or {}
        body["properties"]["provisioningState"] = "Succeeded"
        if body.get("identity"):
            self._identify(body)
        now = datetime.datetime.now(datetime.UTC).isoformat()
        created = ((existing or {}).get("systemData") or {}).get("createdAt", now)
        by = {"createdBy": self._sandbox.identity.client_id, "createdByType": "Application"}
        body["systemData"] = {**by, "createdAt": created, "lastModifiedAt": now}
        return body

    def _identify(self, body: Body) -> None:
        identity = body["identity"]
        if "systemassigned" in str(identity.get("type", "")).lower():
            identity |= {"principalId": f"{_Guid(body['id']):principal}", "tenantId": self._sandbox.identity.tenant_id}
        for assigned in identity.get("userAssignedIdentities") or {}:
            resource = self._store.get(assigned)
            if resource is None:
                raise CloudError(400, "FailedIdentityOperation", f"User-assigned identity '{assigned}' was not found.")
            ids = {key: resource["properties"].get(key) for key in ("principalId", "clientId")}
            identity["userAssignedIdentities"][assigned] = ids

    # --- deleting

    async def _delete(self, request: Request, found: ResourceId) -> Response:
        purge = request.query_params.get("forceToPurge", "").lower() == "true"
        if self._store.get(found.id) is None:
            if purge:
                self._records.delete(f"/deleted{found.id}")
            if found.type == GROUP:
                self._existing(found)
            return Response(status_code=204)
        _check_conditions(request, self._store.get(found.id))
        self.operations.require_idle(found.id, below=True)

        async def work() -> None:
            await hinder_operation(request)
            doomed = sorted(self._store.below(found.id), key=lambda item: -item[0].count("/"))
            for resource_id, body in [*doomed, (found.id, self._existing(found))]:
                hook = self._behaviours.get(body["type"].lower(), Behaviour()).on_delete
                if hook is not None:
                    await hook(self._sandbox, resource_id, body)
                self._store.delete(resource_id)
                if self._rule(body["type"]).soft_delete and not purge:
                    self._records.put(f"/deleted{body['id']}", body)

        rule = self._rule(found.type)
        lasts = (rule.asynchronous and not rule.accepted) or found.type == GROUP or hinders_operation(request)
        if not lasts:
            await self.operations.run(found.id, work)
            return Response(status_code=200)
        body = self._existing(found)
        body["properties"]["provisioningState"] = "Deleting"
        self._store.put(found.id, body)
        return Response(status_code=202, headers=self.operations.start(found.id, work))

    async def _purge(self, request: Request) -> Response:
        self._admit(request)
        for deleted, body in self._deleted(request.path_params["namespace"], request.path_params["deleted"]):
            if body["name"].lower() == request.path_params["name"].lower():
                if body["properties"].get("enablePurgeProtection"):
                    raise CloudError(409, "PurgeProtected", f"'{body['id']}' is protected from purging.")
                self._records.delete(deleted)
                return Response(status_code=200)
        raise CloudError(404, "ResourceNotFound", f"There is no soft-deleted '{request.path_params['name']}'.")

    def _deleted(self, namespace: str, kind: str) -> Iterator[tuple[str, Body]]:
        wanted = f"{namespace}/{kind}".lower().replace("/deleted", "/", 1)
        return ((key, body) for key, body in self._records.below("/deleted") if body["type"].lower() == wanted)

    # --- reading and acting

    def _list(self, request: Request, path: str) -> Response:
        scope, kind = path.rsplit("/", 1)
        collection, grants = _COLLECTION.fullmatch(path), role_assignments.TYPE.lower()
        if collection:
            wanted = "/".join([collection[2], *collection[3].strip("/").split("/")[::2], collection[4]]).lower()
            wanted = wanted.replace("//", "/")
            scope = scope if collection[3] else collection[1]
            if kind.lower().startswith("deleted"):
                return JSONResponse({"value": [body for _, body in self._deleted(collection[2], kind)]})
        elif kind.lower() in ("resourcegroups", "resources"):
            wanted = GROUP.lower() if kind.lower() == "resourcegroups" else ""
        else:
            raise CloudError(404, "InvalidResourceType", f"'{path}' is neither a resource nor a collection.")
        at = self._parse(scope)
        if at is not None:
            self._existing(at)
        if wanted == grants:
            found = self._assignments(scope, request.query_params.get("$filter", ""))
        else:
            below = [body for _, body in self._store.below(scope)]
            # Without a type it is the group's or subscription's list of resources, which shows top-level ones only.
            found = [b for b in below if b["type"].lower() == wanted or (not wanted and b["type"].count("/") == 1)]
            found = [b for b in found if wanted or b["type"] not in (GROUP, role_assignments.TYPE)]
        if "createdtime desc" in request.query_params.get("$orderBy", "").lower():
            found.sort(key=lambda body: str(_dig(body, "systemData.createdAt")), reverse=True)
        return JSONResponse({"value": found[: int(request.query_params.get("$top", len(found)))]})

    def _assignments(self, scope: str, asked: str) -> list[Body]:
        """Role assignments at, above and (unless only `atScope()` is asked) below a scope."""
        principal = re.search(r"(?:principalId eq |assignedTo\()'([^']+)'", asked)
        found = []
        for resource_id, body in self._store.below(""):
            if body["type"] == role_assignments.TYPE:
                at, key = role_assignments.scope_of(resource_id).lower() + "/", scope.lower() + "/"
                fits = key.startswith(at) or (at.startswith(key) and "atScope()" not in asked)
                if fits and (not principal or body["properties"]["principalId"] == principal[1]):
                    found.append(body)
        return found

    async def _act(self, request: Request, path: str, action: str) -> Response:
        found = self._parse(path)
        if found is not None:
            self._existing(found)
            act = self._behaviours.get(found.type.lower(), Behaviour()).actions.get(action.lower())
            if act is not None:
                return await act(self._sandbox, found.id, request)
        raise CloudError(404, "ActionNotFound", f"The sandbox offers no action '{action}' on '{path}'.")

    async def _check_name(self, request: Request) -> Response:
        self._admit(request)
        asked = await _json(request)
        rule, name = self._rule(str(asked.get("type"))), str(asked.get("name"))
        try:
            self._check_new(ResourceId("", rule.type, name, ""), rule, {})
        except CloudError as error:
            reason = "AlreadyExists" if error.status == 409 else "Invalid"
            return JSONResponse({"nameAvailable": False, "reason": reason, "message": error.message})
        return JSONResponse({"nameAvailable": True})

    async def _subscriptions(self, request: Request) -> Response:
        self._admit(request)
        who = self._sandbox.identity
        ids = {"subscriptionId": who.subscription_id, "tenantId": who.tenant_id}
        body = {"id": f"/subscriptions/{who.subscription_id}", **ids, "displayName": "Sandbox", "state": "Enabled"}
        return JSONResponse(body if "subscription" in request.path_params else {"value": [body]})

    async def _providers(self, request: Request) -> Response:
        """Every resource provider is registered: those of the table, and any other that is asked for by name."""
        self._admit(request)
        namespace = request.path_params.get("namespace")
        names = [namespace] if namespace else sorted({rule.type.split("/")[0] for rule in self._rules.values()})
        found = [self._provider(name) for name in names]
        return JSONResponse(found[0] if namespace else {"value": found})

    def _provider(self, namespace: str) -> Body:
        rules = [rule for rule in self._rules.values() if rule.type.lower().startswith(namespace.lower() + "/")]
        types = [
            {"resourceType": rule.type.split("/", 1)[1], "apiVersions": [rule.api_version], "locations": []}
            for rule in rules
        ]
        provider_id = f"/subscriptions/{self._sandbox.identity.subscription_id}/providers/{namespace}"
        shown = {"namespace": namespace, "registrationState": "Registered", "resourceTypes": types}
        return {"id": provider_id, **shown}


def _check_body(rule: TypeRule, found: ResourceId, sent: Body) -> None:
    if rule.location == "required" and not sent.get("location"):
        raise CloudError(400, "LocationRequired", f"The location property is required for '{found.id}'.")
    for path in rule.required:
        if _dig(sent, path) is None:
            raise CloudError(400, "MissingRequiredProperty", f"'{found.id}' needs the property '{path}'.")


def _keep_immutable(rule: TypeRule, existing: Body, sent: Body) -> None:
    """Refuse a change of what cannot change; what is not sent again stays as it is."""
    before = existing.get("location")
    after: str = sent.get("location") or before or ""
    if before:
        sent["location"] = after
    if before and _location(before) != _location(after):
        message = f"The resource '{existing['id']}' already exists in location '{before}': it cannot move to '{after}'."
        raise CloudError(409, "InvalidResourceLocation", message)
    for path in rule.immutable:
        before, after = _dig(existing, path), _dig(sent, path)
        if after is None and before is not None:
            *outer, last = path.split(".")
            place = sent
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = before
        elif _folded(before) != _folded(after):
            message = f"Changing property '{path}' of '{existing['id']}' from {before!r} to {after!r} is not allowed."
            raise CloudError(409, "PropertyChangeNotAllowed", message)


def _check_conditions(request: Request, existing: Body | None) -> None:
    wanted, etag = request.headers.get("if-match"), _etag(existing)["ETag"] if existing else None
    created_only = request.headers.get("if-none-match") == "*" and existing is not None
    if created_only or (wanted is not None and etag != wanted and not (wanted == "*" and existing)):
        raise CloudError(412, "PreconditionFailed", "The resource is not in the state that the request's ETag names.")


async def _json(request: Request) -> Body:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise CloudError(400, "InvalidRequestContent", f"The request content is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise CloudError(400, "InvalidRequestContent", "The request content is not a JSON object.")
    return body


def _etag(body: Body) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"'}


def _merge(under: Any, over: Any) -> Any:
    """`over` laid on `under`, objects key by key."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    return {**under, **{key: _merge(under.get(key), value) for key, value in over.items()}}


def _dig(body: Any, path: str) -> Any:
    for key in path.split("."):
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _folded(value: Any) -> str:
    return json.dumps(value, sort_keys=True).lower()


def _location(name: str) -> str:
    return name.replace(" ", "").lower()


class _Guid(str):
    """Of a resource's id; written into a template as `{guid:word}` it is one GUID per resource and word."""

    def __format__(self, word: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.lower()}#{word}"))
