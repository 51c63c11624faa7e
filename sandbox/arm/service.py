"""Azure Resource Manager: one generic store of resources, with the rules that apply to every type.

Parents, names, locations, conflicts, ETags, soft delete and asynchronous operations are the same for all types. Rules
of single types are data in `resource_types.yaml`; everything else that a type does is a service's `Behaviour`.
Does not run template deployments. Every caller with a token of the tenant may do everything.
"""

import asyncio
import copy
import json
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm import subscriptions, tags
from sandbox.arm.offerings import Offerings
from sandbox.arm.operations import Operations, Turn
from sandbox.arm.resource_body import check_body, check_name, complete, dig, etag, keep_immutable, merge, visible
from sandbox.arm.resource_filter import filtered
from sandbox.arm.resource_id import GROUP, ResourceId, parse, parse_collection, rule_of
from sandbox.arm.resource_types import TypeRule
from sandbox.arm.soft_delete import SoftDeleted
from sandbox.arm.store import Body, ResourceStore
from sandbox.context import Behaviour, CloudError, Machines, Sandbox
from sandbox.faults import hinder_operation, hinders_operation
from sandbox.identity import access_checks, role_assignments, role_definitions

# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
# (`GenericResourceExpanded`)
_SUMMARY = "id name type location tags sku kind identity managedBy plan extendedLocation".split()


class Arm:
    def __init__(
        self,
        sandbox: Sandbox,
        records: ResourceStore,
        rules: Mapping[str, TypeRule],
        behaviours: Mapping[str, Behaviour],
        machines: Iterable[Callable[[], Iterable[Machines]]],
    ) -> None:
        """`records` is the store of operations and soft-deleted resources; `machines` as in `Offerings`."""
        self._sandbox, self._store, self._rules, self._behaviours = sandbox, sandbox.store, rules, behaviours
        self._deleted = SoftDeleted(sandbox, records)
        self._offerings = Offerings(sandbox, rules, machines)
        self.operations = Operations(sandbox, records, self._visible)

    def routes(self) -> list[BaseRoute]:
        methods = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"]
        check_name = subscriptions.PATH + "/providers/{namespace}/checkNameAvailability"
        return [
            *self.operations.routes(),
            *subscriptions.routes(self._sandbox),
            *self._offerings.routes(),
            *self._deleted.routes(),
            Route(check_name, self._check_name, methods=["POST"]),
            Route("/subscriptions/{path:path}", self._serve, methods=methods),
            Route("/providers/{path:path}", self._serve, methods=methods),
        ]

    # Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md; Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
    # (`Resources_CheckExistenceById` answers HEAD with 204)
    async def _serve(self, request: Request) -> Response:
        subscriptions.admit(self._sandbox, request)
        path = request.scope["path"].rstrip("/")
        if request.method == "POST":
            return await self._act(request, *path.rsplit("/", 1))
        found = parse(path, self._rules)
        if found is not None:
            self._require_offered(found.type)
        if found is None:
            if request.method != "GET":
                # No source: PUT to the id of a collection on Azure, and read the status and code.
                raise CloudError(405, "MethodNotAllowed", f"{request.method} needs one resource's id, not '{path}'.")
            return self._list(request, path)
        if found.type.lower() == tags.TYPE:
            return await self._tag(request, found)
        if found.type.lower() == role_definitions.TYPE:
            if request.method != "GET":
                raise CloudError(501, "NotImplemented", "The sandbox has built-in roles only, and no custom ones.")
            return JSONResponse(role_definitions.get(self._sandbox, found.name))
        if request.method in ("PUT", "PATCH"):
            return await self._write(request, found)
        if request.method == "DELETE":
            return await self._delete(request, found)
        body = self._existing(found)
        if request.method == "HEAD":
            return Response(status_code=204)
        if self.operations.is_busy(found.id) and dig(body, "properties.provisioningState") == "Succeeded":
            body["properties"]["provisioningState"] = "Updating"
        return JSONResponse(self._visible(body), headers={"ETag": etag(rule_of(found.type, self._rules), body)})

    def _existing(self, found: ResourceId) -> Body:
        body = self._store.get(found.id)
        if body is None:
            self._require_parent(found)
            raise _not_found(found)
        return body

    def _require_parent(self, found: ResourceId) -> None:
        parent = parse(found.parent, self._rules)
        if parent is None or self._store.get(parent.id) is not None:
            return
        if parent.type == GROUP:
            raise _not_found(parent)
        if not rule_of(parent.type, self._rules).implied:
            message = f"'{found.name}' of type '{found.type}' needs its parent '{parent.id}', which could not be found."
            # Source: MicrosoftDocs/azure-docs
            # articles/azure-resource-manager/troubleshooting/common-deployment-errors.md (`ParentResourceNotFound`)
            raise CloudError(404, "ParentResourceNotFound", message)
        self._require_parent(parent)

    def _imply_parents(self, found: ResourceId) -> None:
        parent = parse(found.parent, self._rules)
        if parent is not None and self._store.get(parent.id) is None:
            self._imply_parents(parent)
            rule = rule_of(parent.type, self._rules)
            self._store.put(parent.id, complete(self._sandbox, parent, rule, {}, None))

    def _visible(self, body: Body) -> Body:
        return visible(rule_of(body["type"], self._rules), body)

    def _behaviour(self, resource_type: str) -> Behaviour:
        return self._behaviours.get(resource_type.lower(), Behaviour())

    # Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md ("Put Resource", "Patch Resource");
    # Azure/azure-resource-manager-rpc v1.0/async-api-reference.md
    async def _write(self, request: Request, found: ResourceId) -> Response:
        sent = await _json(request)
        rule, existing = rule_of(found.type, self._rules), self._store.get(found.id)
        self._require_parent(found)
        if request.method == "PATCH":
            self._existing(found)
        _check_conditions(request, rule, existing)
        if request.method == "PATCH":
            changed = {key: sent[key] for key in sent if key == "tags"}
            sent = {**merge(self._existing(found), sent), **changed}
        if existing is None:
            self._check_new(found, rule, sent)
        else:
            keep_immutable(rule, existing, sent)
        check_body(rule, found.id, sent)
        if sent.get("tags") is not None:
            sent["tags"] = tags.checked(rule, sent["tags"])
        if check := self._behaviour(found.type).before_put:
            check(self._sandbox, found.id, sent, existing)
        state = rule.creating if existing is None else "Updating"
        turn = self._turn(found, rule, state)
        self.operations.require_idle(found.id, turn)
        self._imply_parents(found)
        body = complete(self._sandbox, found, rule, sent, existing)
        hook = self._behaviour(found.type).on_put

        async def work() -> None:
            await asyncio.sleep(rule.seconds)
            await hinder_operation(request)
            if hook is not None:
                await hook(self._sandbox, body["id"], body)
            body["properties"]["provisioningState"] = "Succeeded"
            self._store.put(body["id"], body)
            if turn and existing is None and rule.background and dig(body, rule.background["when"]):
                self.operations.stay_busy(Turn(turn.resource_id, "operation (Updating)"), rule.background["seconds"])

        if not (rule.asynchronous or hinders_operation(request)):
            await self.operations.run(body["id"], work, turn)
            return JSONResponse(self._visible(body), 201 if existing is None else 200, {"ETag": etag(rule, body)})
        body["properties"]["provisioningState"] = state
        self._store.put(body["id"], body)
        status = 200 if existing is not None else 202 if rule.accepted else 201
        shown = copy.deepcopy(self._visible(body))
        return JSONResponse(shown, status, self.operations.start(body["id"], work, turn))

    def _turn(self, found: ResourceId, rule: TypeRule, state: str) -> Turn | None:
        """The write's turn of the resource that accepts one at a time, if the type names one."""
        at: ResourceId | None = found
        while at is not None and at.type != rule.serialized_by:
            at = parse(at.parent, self._rules) if rule.serialized_by else None
        return Turn(at.id, rule.doing.format(name=found.name, state=state)) if at else None

    # Source: Azure/azure-rest-api-specs
    # specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Tags_GetAtScope`
    # and others)
    async def _tag(self, request: Request, found: ResourceId) -> Response:
        """Read or change the tags alone of a resource or a resource group."""
        tagged = parse(found.parent, self._rules)
        if tagged is None:
            raise CloudError(501, "NotImplemented", "The sandbox keeps no tags of the subscription.")
        body, rule = self._existing(tagged), rule_of(tagged.type, self._rules)
        if request.method != "GET":
            self.operations.require_idle(tagged.id, self._turn(tagged, rule, "Updating"))
            after = tags.changed(request.method, body.get("tags") or {}, await _json(request))
            body["tags"] = tags.checked(rule, after)
            self._store.put(tagged.id, body)
        return JSONResponse(tags.shown(body["id"], body.get("tags") or {}))

    def _check_new(self, found: ResourceId, rule: TypeRule, sent: Body) -> None:
        check_name(rule, found.name)
        for taken, body in self._store.below("/subscriptions") if rule.unique else ():
            if body["type"].lower() == rule.type.lower() and body["name"].lower() == found.name.lower():
                # Source: Azure/ARO-Landing-Zone-Accelerator#28 (the status; the code is in resource_types.yaml)
                raise CloudError(
                    409, rule.unique, f"The {rule.type} name '{found.name}' is already taken by '{taken}'."
                )
        self._deleted.require_free(found, rule, sent)

    # Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md ("Delete Resource");
    # Azure/azure-resource-manager-rpc v1.0/async-api-reference.md
    async def _delete(self, request: Request, found: ResourceId) -> Response:
        purge = request.query_params.get("forceToPurge", "").lower() == "true"
        body, rule = self._store.get(found.id), rule_of(found.type, self._rules)
        if body is None:
            if purge:
                self._deleted.purge(found.id)
            if found.type == GROUP:
                raise _not_found(found)
            return Response(status_code=204)
        _check_conditions(request, rule, body)
        _check_deletion(request, rule)
        turn = self._turn(found, rule, "Deleting")
        self.operations.require_idle(found.id, turn, below=True)
        if check := self._behaviour(found.type).before_delete:
            check(self._sandbox, found.id, body)

        async def work() -> None:
            await asyncio.sleep(rule.seconds)
            await hinder_operation(request)
            doomed = sorted(self._store.below(found.id), key=lambda item: -item[0].count("/"))
            for resource_id, body in [*doomed, (found.id, self._existing(found))]:
                hook = self._behaviour(body["type"]).on_delete
                if hook is not None:
                    await hook(self._sandbox, resource_id, body)
                self._store.delete(resource_id)
                self._deleted.keep(body, rule_of(body["type"], self._rules), purged=purge)

        lasts = rule.asynchronous and not rule.accepted
        if not (lasts or found.type == GROUP or hinders_operation(request)):
            await self.operations.run(found.id, work, turn)
            return JSONResponse(self._visible(body)) if rule.answers_deleted else Response(status_code=200)
        body["properties"]["provisioningState"] = "Deleting"
        self._store.put(found.id, body)
        return Response(status_code=202, headers=self.operations.start(found.id, work, turn))

    # Source: Azure/azure-resource-manager-rpc v1.0/resource-api-reference.md ("Get Resource"); azure-ai-ml==1.35.2
    # azure/ai/ml/_utils/_asset_utils.py (`$orderBy` and `$top` of Azure ML's lists)
    def _list(self, request: Request, path: str) -> Response:
        asked = parse_collection(path)
        if asked is None:
            # Source: MicrosoftDocs/azure-docs
            # articles/azure-resource-manager/troubleshooting/common-deployment-errors.md (`InvalidResourceType`);
            # cloudquery/cloudquery#6629 (404)
            raise CloudError(404, "InvalidResourceType", f"'{path}' is neither a resource nor a collection.")
        scope, wanted = asked
        self._require_offered(wanted)
        at = parse(scope, self._rules)
        if at is not None and not rule_of(at.type, self._rules).implied:
            self._existing(at)
        wish = request.query_params.get("$filter", "")
        if wanted == role_assignments.TYPE.lower():
            found = role_assignments.find(self._store, scope, wish)
        elif wanted == role_definitions.TYPE:
            found = role_definitions.find(self._sandbox, wish)
        elif wanted:
            found = [body for _, body in self._store.below(scope) if body["type"].lower() == wanted]
            found = filtered(found, wish, groups=True) if wanted == GROUP.lower() else found
        else:
            found = [body for body in (body for _, body in self._store.below(scope)) if self._is_indexed(body)]
            found = [_summary(body, request) for body in filtered(found, wish, groups=False)]
        if "createdtime desc" in request.query_params.get("$orderBy", "").lower():
            found.sort(key=lambda body: str(dig(body, "systemData.createdAt")), reverse=True)
        found = found[: int(request.query_params.get("$top", len(found)))]
        return JSONResponse({"value": [self._visible(body) for body in found] if wanted else found})

    def _is_indexed(self, body: Body) -> bool:
        """True for resources directly in a group; children, extension resources and groups are not in the list."""
        top_level = body["type"].count("/") == 1 and body["type"] != GROUP
        return (
            top_level
            and body["id"].lower().count("/providers/") == 1
            and (rule_of(body["type"], self._rules).location != "none")
        )

    def _require_offered(self, resource_type: str) -> None:
        if left_out := rule_of(resource_type, self._rules).left_out:
            raise CloudError(501, "NotImplemented", f"The sandbox leaves out {left_out} ('{resource_type}').")

    # Source: Azure/azure-resource-manager-rpc v1.0/proxy-api-reference.md ("Resource Action Requests")
    async def _act(self, request: Request, path: str, action: str) -> Response:
        if (path + "/" + action).lower().endswith(f"{access_checks.PATH}/{access_checks.ACTION}"):
            scope = path[: -len(access_checks.PATH)]
            if (at := parse(scope, self._rules)) is not None:
                self._existing(at)
            return await access_checks.check(self._sandbox, scope, request)
        found = parse(path, self._rules)
        if found is not None:
            self._require_offered(found.type)
            self._existing(found)
            act = self._behaviour(found.type).actions.get(action.lower())
            if act is not None:
                return await act(self._sandbox, found.id, request)
        raise CloudError(404, "ActionNotFound", f"The sandbox offers no action '{action}' on '{path}'.")

    # Source: Azure/azure-resource-manager-rpc v1.0/proxy-api-reference.md ("Check Name Availability Requests")
    async def _check_name(self, request: Request) -> Response:
        subscriptions.admit(self._sandbox, request)
        asked = await _json(request)
        rule, name = rule_of(str(asked.get("type")), self._rules), str(asked.get("name"))
        try:
            self._check_new(ResourceId("", rule.type, name, ""), rule, {})
        except CloudError as error:
            reason = "AlreadyExists" if error.status == 409 else rule.name.get("refusal", "Invalid")
            return JSONResponse({"nameAvailable": False, "reason": reason, "message": error.message})
        return JSONResponse({"nameAvailable": True})


def _summary(body: Body, request: Request) -> Body:
    """A resource as an entry of a list of resources.

    Source: Azure/azure-rest-api-specs
    specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json
    (`GenericResourceExpanded`)
    """
    shown = {key: body[key] for key in _SUMMARY if key in body}
    wish = request.query_params.get("$expand", "").lower()
    more = {
        "createdTime": dig(body, "systemData.createdAt"),
        "changedTime": dig(body, "systemData.lastModifiedAt"),
        "provisioningState": dig(body, "properties.provisioningState"),
    }
    return {**shown, **{key: value for key, value in more.items() if key.lower() in wish}}


# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
# (`ResourceGroupNotFound`, `ResourceNotFound`)
def _not_found(found: ResourceId) -> CloudError:
    if found.type == GROUP:
        return CloudError(404, "ResourceGroupNotFound", f"Resource group '{found.name}' could not be found.")
    return CloudError(404, "ResourceNotFound", f"The resource '{found.id}' was not found.")


# Source: Azure/azure-resource-manager-rpc v1.0/Addendum.md ("ETags for Resources")
def _check_conditions(request: Request, rule: TypeRule, existing: Body | None) -> None:
    wanted, never = request.headers.get("if-match"), request.headers.get("if-none-match")
    refused = wanted is not None and (existing is None or wanted not in ("*", etag(rule, existing)))
    if refused or (never == "*" and existing is not None):
        raise CloudError(412, "PreconditionFailed", "The resource is not in the state that the request's ETag names.")


def _check_deletion(request: Request, rule: TypeRule) -> None:
    """No source: the code with which a request without a required parameter is refused."""
    for name, values in rule.deletion.items():
        if (given := request.query_params.get(name, "")) not in values:
            message = f"The query parameter {name} is '{given}'. A DELETE of {rule.type} needs {' or '.join(values)}."
            raise CloudError(400, "InvalidParameter", message)


# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
# (`InvalidRequestContent`)
async def _json(request: Request) -> Body:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise CloudError(400, "InvalidRequestContent", f"The request content is not valid JSON: {error}.") from error
    if not isinstance(body, dict) or not isinstance(body.get("properties") or {}, dict):
        raise CloudError(400, "InvalidRequestContent", "The request content and its properties must be JSON objects.")
    return body
