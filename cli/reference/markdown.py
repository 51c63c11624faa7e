"""Markdown of the reference pages: tables, code spans and blocks. Does not know their content."""

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table. A cell is Markdown; its vertical bars are escaped here."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def code(text: str) -> str:
    """A code span, or nothing for an empty text."""
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Text in which angle brackets and asterisks are not Markdown, outside of its code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = re.compile(r"([<>*\\])")
    return "".join(part if part.startswith("`") else plain.sub(r"\\\1", part) for part in parts)


def block(language: str, lines: Sequence[str]) -> list[str]:
    """A fenced block with an empty line before it."""
    return ["", f"```{language}", *lines, "```"]


def document(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
