"""Writes Markdown for the reference pages: tables, code spans and blocks, independent of their content."""

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Cells are Markdown; vertical bars in them are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def code(text: str) -> str:
    """Return a code span; an empty text for an empty text."""
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Escape angle brackets and asterisks outside of code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    special = re.compile(r"([<>*\\])")
    return "".join(part if part.startswith("`") else special.sub(r"\\\1", part) for part in parts)


def block(language: str, lines: Sequence[str]) -> list[str]:
    """Return a fenced block with an empty line before it."""
    return ["", f"```{language}", *lines, "```"]


def document(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
