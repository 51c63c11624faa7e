"""Cluster policies: rules of Databricks' policy language for the attributes of a cluster's definition.

A rule is for one attribute, named by its path. Has the types fixed, forbidden, allowlist, range and unlimited and the
virtual attribute `cluster_type`; a policy with another type, or with `*` in a path, is refused. As on Databricks, a
fixed value is added to a definition without it, a default only with `apply_policy_default_values`, and an attribute
with a rule is required unless the rule has `isOptional`. Has no policy families and no libraries.
"""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request

from sandbox.context import CloudError
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of, new_id, now

# Source: https://docs.databricks.com/aws/en/admin/clusters/policy-definition (virtual attributes: cluster_type)
_VIRTUAL = "cluster_type"


def handlers() -> Iterator[tuple[str, str, Handler]]:
    for name, handler in (("create", _create), ("edit", _edit), ("delete", _delete)):
        yield "POST", f"/api/2.0/policies/clusters/{name}", handler
    yield "GET", "/api/2.0/policies/clusters/get", _get
    yield "GET", "/api/2.0/policies/clusters/list", _list


def find(workspace: Workspace, policy_id: Any) -> Json:
    found = workspace.records.get(workspace.record("policies", str(policy_id)))
    if found is None:
        # Source: databrickslabs/ucx#502 (404, code and message)
        raise CloudError(404, "RESOURCE_DOES_NOT_EXIST", f"Can't find a cluster policy with id: {policy_id}.")
    return found


def applied(workspace: Workspace, cluster: Json, kind: str) -> Json:
    """The definition with the values that its policy fixes. Raises `ValueError` with every broken rule."""
    body = copy.deepcopy(cluster)
    defaults = body.pop("apply_policy_default_values", False)
    if not body.get("policy_id"):
        return body
    rules = json.loads(find(workspace, body["policy_id"])["definition"])
    if isinstance(rules, list):
        # Source: databricks/cli#6492 (INVALID_PARAMETER_VALUE once a cluster uses it, not when the policy is made)
        raise ValueError(
            f"Requests for the policy {body['policy_id']} cannot be satisfied due to the malformed policy definition."
        )
    broken = []
    for path, rule in rules.items():
        value = kind if path == _VIRTUAL else _at(body, path)
        if value is None and (filled := rule.get("value", rule.get("defaultValue") if defaults else None)) is not None:
            top, _, rest = path.partition(".")
            value = filled
            if rest:
                body.setdefault(top, {})[rest] = value
            else:
                body[top] = value
        if problem := _problem(rule, value):
            broken.append(f"Validation failed for {path}, the value {problem}")
    if broken:
        # Source: databrickslabs/dbx#854 (INVALID_PARAMETER_VALUE, "Cluster validation error: Validation failed for");
        # databricks/terraform-provider-databricks#403 (a value, and one that must be present)
        raise ValueError(f"Cluster validation error: {'; '.join(broken)}")
    return body


def _at(body: Json, path: str) -> Any:
    """Value at a dotted path. Keys of a map such as `spark_conf` contain dots themselves."""
    top, _, rest = path.partition(".")
    found = body.get(top)
    if not rest or found is None:
        return found
    return found[rest] if rest in found else _at(found, rest)


def _problem(rule: Json, value: Any) -> str:
    if value is None:
        return "" if rule["type"] in ("forbidden", "unlimited") or rule.get("isOptional") else "must be present"
    wanted = _TYPES[rule["type"]](rule, value)
    return f"{wanted} (is {json.dumps(value)})" if wanted else ""


def _range(rule: Json, value: Any) -> str:
    if value < rule.get("minValue", value):
        return f"must be at least {rule['minValue']}"
    return f"must be at most {rule['maxValue']}" if value > rule.get("maxValue", value) else ""


# Source: https://docs.databricks.com/aws/en/admin/clusters/policy-definition (policy types)
_TYPES: dict[str, Callable[[Json, Any], str]] = {
    "allowlist": lambda rule, value: "" if value in rule["values"] else f"must be one of {', '.join(rule['values'])}",
    "fixed": lambda rule, value: "" if value == rule["value"] else f"must be {rule['value']}",
    "forbidden": lambda _rule, _value: "cannot be present",
    "range": _range,
    "unlimited": lambda _rule, _value: "",
}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.create)
async def _create(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    policy_id = f"{new_id():016X}"
    _store(
        workspace, {"policy_id": policy_id, "creator_user_name": workspace.caller, "created_at_timestamp": now()}, body
    )
    return {"policy_id": policy_id}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.edit)
async def _edit(workspace: Workspace, request: Request) -> Json:
    body = await body_of(request)
    _store(workspace, find(workspace, body.get("policy_id")), body)
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.delete)
async def _delete(workspace: Workspace, request: Request) -> Json:
    found = find(workspace, (await body_of(request)).get("policy_id"))
    workspace.records.delete(workspace.record("policies", found["policy_id"]))
    return {}


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.get)
async def _get(workspace: Workspace, request: Request) -> Json:
    return find(workspace, request.query_params.get("policy_id"))


# Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.list)
async def _list(workspace: Workspace, request: Request) -> Json:
    return {"policies": [found for _, found in workspace.records.below(workspace.record("policies"))]}


def _store(workspace: Workspace, known: Json, body: Json) -> None:
    try:
        rules = json.loads(body["definition"])
        # Source: databricks/cli#6492 (a list is accepted and stored)
        named = {} if isinstance(rules, list) else rules
        wrong = sorted(path for path, rule in named.items() if rule["type"] not in _TYPES or "*" in path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # No source: create a policy whose definition is not JSON and read the error.
        raise ValueError(f"definition is not a JSON document of rules, each with a type: {error!r}") from error
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: the sandbox has rules of type {', '.join(_TYPES)}, and no * in paths.")
    others = (found for _, found in workspace.records.below(workspace.record("policies")))
    if any(found["name"] == body["name"] and found["policy_id"] != known["policy_id"] for found in others):
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (ClusterPoliciesAPI.create: "This has to be
        # unique")
        raise ValueError(f"Policy with name '{body['name']}' already exists.")
    kept = {name: body[name] for name in ("name", "definition", "description") if name in body}
    workspace.records.put(workspace.record("policies", known["policy_id"]), known | kept)
