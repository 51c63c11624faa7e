"""`$filter` of ARM's lists of resources and resource groups.

Has neither `or` nor the properties of `identity` and `plan`. An unknown filter is refused: if it were ignored, the
answer would contain too much.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

from sandbox.arm.store import Body
from sandbox.context import CloudError

Test = Callable[[Body], bool]
# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Resources_List`:
# operators and functions)
_VALUE = r"'((?:[^']|'')*)'"
_COMPARISON = re.compile(rf"(\w+)\s+(eq|ne)\s+{_VALUE}", re.IGNORECASE)
_SUBSTRING = re.compile(rf"substringof\(\s*{_VALUE}\s*,\s*(\w+)\s*\)", re.IGNORECASE)
_PREFIX = re.compile(rf"startswith\(\s*tagName\s*,\s*{_VALUE}\s*\)", re.IGNORECASE)
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)


def _group(body: Body) -> str:
    return str(body["id"]).split("/")[4]


# Source: Azure/azure-rest-api-specs
# specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Resources_List`,
# `ResourceGroups_List`)
_PROPERTIES: Mapping[str, Callable[[Body], str]] = {
    "name": lambda body: body["name"],
    "resourcetype": lambda body: body["type"],
    "resourcegroup": _group,
    "location": lambda body: str(body.get("location", "")),
}
_SUBSTRINGS = ("name", "resourcegroup")


def filtered(bodies: list[Body], asked: str, *, groups: bool) -> list[Body]:
    """Return the bodies that match the filter. Resource groups can be filtered by tags only."""
    if not asked:
        return bodies
    tags: dict[str, str] = {}
    tests: list[Test] = []
    rest = asked.strip()
    while rest:
        clause = _COMPARISON.match(rest) or _SUBSTRING.match(rest) or _PREFIX.match(rest)
        if clause is None:
            raise _refused(asked)
        tests += _tests(clause, tags, asked, groups=groups)
        rest = rest[clause.end() :]
        if rest:
            joint = _AND.match(rest)
            if joint is None or joint.end() == len(rest):
                raise _refused(asked)
            rest = rest[joint.end() :]
    if "tagvalue" in tags and "tagname" not in tags:
        raise _refused(asked)
    if tags:
        tests.append(partial(_has_tag, tags["tagname"], tags.get("tagvalue")))
    matching = [body for body in bodies if all(test(body) for test in tests)]
    # "The original tags for each resource will not be returned in the results": Resources_List
    by_tag = "tagname" in tags and not groups
    return [{key: value for key, value in body.items() if key != "tags"} for body in matching] if by_tag else matching


def _tests(clause: re.Match[str], tags: dict[str, str], asked: str, *, groups: bool) -> list[Test]:
    if clause.re is _PREFIX:
        prefix = _plain(clause[1])
        return [lambda body: any(name.lower().startswith(prefix) for name in body.get("tags") or {})]
    if clause.re is _SUBSTRING:
        name, part = clause[2].lower(), _plain(clause[1])
        if groups or name not in _SUBSTRINGS:
            raise _refused(asked)
        return [lambda body: part in _PROPERTIES[name](body).lower()]
    name, equal, value = clause[1].lower(), clause[2].lower() == "eq", clause[3].replace("''", "'")
    if name in ("tagname", "tagvalue") and equal and name not in tags:
        tags[name] = value
        return []
    if groups or name not in _PROPERTIES:
        raise _refused(asked)
    return [lambda body: (_PROPERTIES[name](body).lower() == value.lower()) is equal]


def _has_tag(name: str, value: str | None, body: Body) -> bool:
    """Whether the tag exists: names are compared without case, values with case."""
    return any(
        key.lower() == name.lower() and value in (None, "", given) for key, given in (body.get("tags") or {}).items()
    )


def _plain(quoted: str) -> str:
    return quoted.replace("''", "'").lower()


# Source: Azure/azure-sdk-for-go#2480 (with its message; also that groups are not filtered by name)
def _refused(asked: str) -> CloudError:
    return CloudError(400, "InvalidFilterInQueryString", f"Invalid $filter '{asked}' specified in the query string.")
