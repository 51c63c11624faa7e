"""Commands of Azure CLI that the product prints, read from its sources and pages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COMMAND = re.compile(r"(?:^|[`(\s])az ((?:[a-z][a-z-]*\s+)*[a-z][a-z-]*)((?:\s+--?[a-z][^\n`]*)?)", re.MULTILINE)
_EXTENSIONS = ("quota", "extension", "ml ", "monitor log-analytics query")
"""These come with extensions of Azure CLI, which are not on PyPI. The installation of `quota` is printed first."""


def options_by_command() -> dict[str, set[str]]:
    """Names of options by command, such as `keyvault purge`; commands without an option are prose."""
    options: dict[str, set[str]] = {}
    for text in _texts():
        for words, rest in _COMMAND.findall(text):
            if rest.strip() and not words.startswith(_EXTENSIONS):
                own = re.sub(r"\$\(.*?\)", "X", rest)  # without a command substitution's options
                options.setdefault(" ".join(words.split()), set()).update(
                    re.findall(r"(?<=\s)--[a-z][a-z-]*", f" {own}")
                )
    return options


def _texts() -> Iterator[str]:
    for folder in ("infra", "cli", "policy"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    for page in sorted((ROOT / "docs").glob("*.md")):
        yield page.read_text()
