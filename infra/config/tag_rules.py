"""Azure's rules for tags, as pure functions. Does not apply tags: `tags.py` does.

Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md (Limitations)
"""

import re
from collections.abc import Mapping

OWN = ("environment", "stack")
"""Names of the tags that the program gives every resource itself."""
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/management/tag-resources.md (Limitations)
_TAGS_MAX = 50
_DNS_TAGS_MAX = 15
_NAME, _VALUE = 128, 256  # 512 for a name elsewhere, but the storage accounts get every tag, too
_FORBIDDEN = re.compile(r"[<>%&\\?/\x00-\x1f\x7f-\x9f]")
_RESERVED = ("microsoft", "azure", "windows")


def require(tags: Mapping[str, str]) -> None:
    """Raise `ValueError` naming each tag that Azure would refuse, the rule, and a remedy."""
    problems = [problem for name, value in tags.items() for problem in _problems(name, value)]
    seen: dict[str, str] = {}
    for name in tags:
        if name.lower() in OWN:
            problems.append(f"tags:{name} is the program's own tag {name.lower()} (case is ignored). Use another name.")
        elif seen.setdefault(name.lower(), name) != name:
            problems.append(
                f"tags:{name} and tags:{seen[name.lower()]} differ in case only, which Azure ignores. Remove one."
            )
    if len(tags) > _TAGS_MAX - len(OWN):
        problems.append(
            f"tags: {len(tags)} tags and the program's own {len(OWN)} are more than the {_TAGS_MAX} of a resource. "
            f"Leave {len(tags) - _TAGS_MAX + len(OWN)} out."
        )
    if problems:
        raise ValueError("\n  - ".join(problems))


def for_dns(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that a private DNS zone keeps: at most 15, with plain names.

    Azure drops a tag whose name has a colon or a space in it without an error
    (hashicorp/terraform-provider-azurerm#6129), so that it would be added again by every refresh.
    """
    plain = {name: value for name, value in tags.items() if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name)}
    return dict(sorted(plain.items(), key=lambda item: item[0] not in OWN)[:_DNS_TAGS_MAX])


def _problems(name: str, value: str) -> list[str]:
    problems = []
    if _FORBIDDEN.search(name):
        plain = _FORBIDDEN.sub("-", name)
        problems.append(f"tags:{name}: <>%&\\?/ and control characters may not be in a tag's name. Use tags:{plain}.")
    if len(name) > _NAME:
        problems.append(
            f"tags:{name}: a tag's name has at most {_NAME} characters on a storage account, not {len(name)}."
        )
    if len(value) > _VALUE:
        problems.append(f"tags:{name}: a tag's value has at most {_VALUE} characters, not {len(value)}. Shorten it.")
    if name.lower().startswith(_RESERVED):
        problems.append(f"tags:{name}: names that start with {', '.join(_RESERVED)} are reserved. Use another.")
    return problems
