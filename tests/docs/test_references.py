"""Links between pages, and files and tests that CONTRIBUTING.md and SECURITY.md name, exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    targets = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in targets if not (ROOT / page.parent / link).exists()] == []


def test_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = {path.name for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]} - {"README.md"}
    assert [name for name in sorted(pages) if f"{name})" not in readme] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_named_files_exist(name: str) -> None:
    paths = re.findall(r"`([a-z_.]+(?:/[\w.-]+)+/?)`", (ROOT / name).read_text())
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_named_tests_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    existing = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert [test for test in sorted(named) if f"def {test}(" not in existing] == []


def test_every_decision_record_is_in_the_index_and_in_the_decisions() -> None:
    records = {path.name for path in (ROOT / "docs" / "adr").glob("0*.md")}
    for page in ("docs/adr/README.md", "docs/decisions.md"):
        assert {name for name in records if name in (ROOT / page).read_text()} == records, page
