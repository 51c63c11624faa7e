"""One statement of a rule's sources, and the form of a source."""

import re
from dataclasses import dataclass
from enum import StrEnum

SOURCE, NONE = "Source: ", "No source: "
FORMS = (
    "<owner>/<repository> <path>, <owner>/<repository>#<number>, https://<page> or <package>==<version> <path>, "
    "each with an optional (remark), separated by '; '"
)

_REMARK = r"(?: \((?P<remark>.+)\))?"
_OWNER = r"[A-Za-z0-9][\w-]*/[\w.-]+"


class Kind(StrEnum):
    """Kind of text that backs a rule."""

    SPECIFICATION = "REST specification"
    """The REST specification, or the types that Microsoft generates from it for Bicep."""
    DOCUMENTATION = "documentation"
    ISSUE = "issue or pull request"
    PACKAGE = "published package"
    CODE = "other source code"
    NOTHING = "none"


_KINDS = (
    (Kind.SPECIFICATION, re.compile(rf"Azure/(?:azure-rest-api-specs(?:-examples)?|bicep-types-az) \S+{_REMARK}")),
    (Kind.DOCUMENTATION, re.compile(rf"MicrosoftDocs/[\w.-]+ \S+{_REMARK}")),
    (Kind.ISSUE, re.compile(rf"{_OWNER}#\d+{_REMARK}")),
    (Kind.PACKAGE, re.compile(rf"[a-z][\w.-]*==[\w.]+ \S+{_REMARK}")),
    (Kind.CODE, re.compile(rf"{_OWNER} \S+{_REMARK}")),
    (Kind.DOCUMENTATION, re.compile(rf"https://[\w.-]+/\S*{_REMARK}")),
)


class Malformed(ValueError):
    """The statement does not name a source as it should."""


@dataclass(frozen=True)
class Source:
    kind: Kind
    text: str


@dataclass(frozen=True)
class Statement:
    """`Source: …`, or `No source: …` with the request or command that would settle the rule."""

    sources: tuple[Source, ...]
    settled_by: str = ""

    @property
    def kinds(self) -> set[Kind]:
        return {source.kind for source in self.sources} or {Kind.NOTHING}


def read(text: str) -> Statement:
    """Parse a statement. Raises `Malformed`, whose message names the expected form."""
    text = " ".join(text.split())
    if text.startswith(NONE.strip()):
        settled_by = text.removeprefix(NONE.strip()).strip()
        if len(settled_by) < 10:
            raise Malformed(f"'{text}': write after '{NONE}' the request or command that would settle the rule.")
        return Statement((), settled_by)
    named = _split(text.removeprefix(SOURCE.strip()).strip())
    return Statement(tuple(_source(name) for name in named))


def read_all(value: object) -> Statement:
    """The statement of a YAML value: a text or a list of texts; a list may not mix sources with `No source:`."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    if not texts or (isinstance(value, list) and len(texts) < len(value)):
        raise Malformed(f"{value!r}: write a text or a list of texts.")
    statements = [read(text) for text in texts]
    if len(statements) > 1 and any(not statement.sources for statement in statements):
        raise Malformed(f"{value!r}: '{NONE.strip()}' must be the only text.")
    return Statement(tuple(one for statement in statements for one in statement.sources), statements[0].settled_by)


def _source(text: str) -> Source:
    text = text.removesuffix(".")
    for kind, form in _KINDS:
        if form.fullmatch(text):
            return Source(kind, text)
    raise Malformed(f"'{text}' does not name a source: {FORMS}.")


def _split(text: str) -> list[str]:
    """Parts between the semicolons outside of remarks."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == ";" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
