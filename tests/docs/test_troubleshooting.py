"""Each section of docs/troubleshooting.md begins with messages as the program prints them.

The one message of Pulumi's own is looked up in the CLI, where it is installed.
"""

import ast
import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("infra", "cli", "sandbox", "tools", "policy", "scoring", "workloads")
OF_PULUMI = {"the stack is currently locked"}


def sections() -> dict[str, list[str]]:
    """Return the messages of each section by its title."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    found = re.findall(r"^### ([^\n]+)\n\n([^\n]+)\n", page, re.MULTILINE)
    assert len(found) == page.count("\n### ")
    return {title: re.findall(r"`([^`]+)`", first) for title, first in found}


def texts() -> Iterator[str]:
    """Yield the string literals of the program, with an ellipsis for each formatted value."""
    for file in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_section_begins_with_messages() -> None:
    by_title = sections()
    assert len(by_title) > 30
    assert [title for title, messages in by_title.items() if not messages] == []


def test_program_contains_every_message() -> None:
    printed = "\n".join(texts())
    messages = [message for listed in sections().values() for message in listed]
    assert [message for message in messages if message not in printed and message not in OF_PULUMI] == []


@pytest.mark.parametrize("message", sorted(OF_PULUMI))
def test_message_of_pulumi_is_in_its_cli(message: str) -> None:
    if not (program := shutil.which("pulumi")):
        pytest.skip("the Pulumi CLI is not on PATH")
    with Path(program).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert content.find(message.encode()) >= 0
