"""Azure's rules for tags, and `{scope}/providers/Microsoft.Resources/tags/default`, which changes only tags.

Limits of single types: `tags` in resource_types.yaml. Does not store tags of the subscription.
"""

import re
from typing import Any

from sandbox.arm.resource_types import TypeRule
from sandbox.arm.store import Body
from sandbox.context import CloudError

TYPE = "microsoft.resources/tags"
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md ("Limitations")
_RESERVED = re.compile(r"[<>%&\\?/\x00-\x1f\x7f]")
# "These characters are only allowed for tags that start with the prefix 'hidden, link'"
# Source: Azure/azure-powershell src/Migrate/Migrate.Autorest/custom/Set-AzMigrateServerReplication.ps1
_MAY_HOLD_ANY = ("hidden", "link")
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md ("Limitations")
_VALUE_LENGTH = 256


def checked(rule: TypeRule, tags: Any) -> dict[str, str]:
    """The tags as they are stored. Raises `CloudError`. Names that differ only in case are one tag.

    Source: Azure/azure-powershell src/Migrate/Migrate.Autorest/custom/New-AzMigrateServerReplication.ps1 (codes and
    messages, which it repeats from the service)
    """
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        # Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md
        # (`InvalidRequestContent`)
        raise CloudError(400, "InvalidRequestContent", "The tags must be a JSON object with strings as values.")
    if blank := [name for name in tags if not name.strip()]:
        message = f"The tag name must be non-null, non-empty and non-whitespace only, not {blank[0]!r}."
        raise CloudError(400, "InvalidTagName", message)
    reserved = [name for name in tags if _RESERVED.search(name) and not name.lower().startswith(_MAY_HOLD_ANY)]
    if reserved:
        message = (
            f"The tag names '{', '.join(reserved)}' have reserved characters '<,>,%,&,\\,?,/' or control characters."
        )
        raise CloudError(400, "InvalidTagNameCharacters", message)
    longest, most = rule.tags["name"], rule.tags["most"]
    if long := [name for name in tags if len(name) > longest]:
        message = (
            f"Tag key too large. Following tag name '{', '.join(long)}' exceeded the maximum length. "
            f"Maximum allowed length for tag name - '{longest}' characters."
        )
        raise CloudError(400, "InvalidTagName", message)
    if long := [value for value in tags.values() if len(value) > _VALUE_LENGTH]:
        message = (
            f"Tag value too large. Following tag value '{', '.join(long)}' exceeded the maximum length. "
            f"Maximum allowed length for tag value - '{_VALUE_LENGTH}' characters."
        )
        raise CloudError(400, "InvalidTagValueLength", message)
    stored = _merged({}, tags)
    if len(stored) > most:
        message = f"Too many tags specified. Requested tag count - '{len(stored)}'."
        message += f" Maximum number of tags allowed - '{most}'."
        raise CloudError(400, "InvalidTags", message)
    return stored


def changed(method: str, before: dict[str, str], sent: Body) -> dict[str, str]:
    """The tags after a PUT, PATCH or DELETE of `tags/default`, unchecked.

    Source: Azure/azure-rest-api-specs
    specification/resources/resource-manager/Microsoft.Resources/stable/2021-04-01/resources.json (`Tags_UpdateAtScope`:
    deletes by name, or by name and value)
    """
    if method == "DELETE":
        return {}
    tags = (sent.get("properties") or {}).get("tags") or {}
    operation = str(sent.get("operation")).lower() if method == "PATCH" else "replace"
    if operation == "replace":
        return tags
    if operation == "merge":
        return _merged(before, tags)
    if operation == "delete":
        deleted = {name.lower(): value for name, value in tags.items()}
        return {
            name: value
            for name, value in before.items()
            if name.lower() not in deleted or deleted[name.lower()] not in ("", None, value)
        }
    raise CloudError(
        400, "InvalidRequestContent", f"operation is Merge, Replace or Delete, not {sent.get('operation')!r}."
    )


def shown(scope: str, tags: dict[str, str]) -> Body:
    resource_id = f"{scope}/providers/Microsoft.Resources/tags/default"
    return {"id": resource_id, "name": "default", "type": "Microsoft.Resources/tags", "properties": {"tags": tags}}


def _merged(before: dict[str, str], over: dict[str, str]) -> dict[str, str]:
    """`before` with the tags of `over`. Names that differ only in case are one tag: MicrosoftDocs/azure-docs#57888."""
    merged = dict(before)
    spelled = {name.lower(): name for name in before}
    for name, value in over.items():
        merged[spelled.setdefault(name.lower(), name)] = value
    return merged
