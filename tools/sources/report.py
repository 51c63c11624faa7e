"""Rules by kind of source, and the list of those without one."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.sources import python_files, yaml_files
from tools.sources.form import Kind
from tools.sources.rules import Rule

CHECKED, UNSOURCED = Path("docs/checked.md"), Path("docs/rules-without-source.md")
_BEGIN, _END = "<!-- python -m tools.sources writes this table -->\n", "<!-- end of the table -->\n"
_AREAS = ("infra", "cli", "sandbox/databricks", "sandbox/machine_learning", "sandbox/azure_native", "sandbox")
_TITLE = """\
# Rules without a source

Rules about Azure and Databricks that no published text confirms, each with the request or command that settles it.
`python -m tools.sources` writes this page from the lines `No source: ` of these files. [checked.md](checked.md) counts
the rules with a source.

| file | rule | settled by |
| --- | --- | --- |
"""


def texts(root: Path) -> dict[Path, str]:
    """The pages as they should be, by path below the root."""
    rules = [found for found in (*yaml_files.find(root), *python_files.find(root)) if isinstance(found, Rule)]
    before, _, rest = (root / CHECKED).read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    table = "\n".join(_table(rules))
    return {
        CHECKED: f"{before}{_BEGIN}\n{table}\n\n{_END}{after}",
        UNSOURCED: _TITLE + "".join(f"{line}\n" for line in _unsourced(rules)),
    }


def _table(rules: Iterable[Rule]) -> Iterator[str]:
    """Rules by area and kind of source; a rule counts for each kind that it names."""
    counts: dict[str, dict[str, int]] = {area: defaultdict(int) for area in _AREAS}
    for rule in rules:
        row = counts[next(area for area in _AREAS if rule.file.startswith(f"{area}/"))]
        row["rules"] += 1
        for kind in rule.statement.kinds if rule.statement else ():
            row[kind] += 1
    columns = ["rules", *Kind]
    yield f"| area | {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for area, row in counts.items():
        yield f"| `{area}/` | {' | '.join(str(row[column]) for column in columns)} |"


def _unsourced(rules: Iterable[Rule]) -> Iterator[str]:
    """One line for all rules of a file with the same settling request."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for rule in rules:
        if rule.statement and rule.statement.settled_by:
            places[rule.file, rule.statement.settled_by].append(rule.place)
    for (file, settled_by), found in places.items():
        text = settled_by.replace("|", "\\|")
        yield f"| `{file}` | {', '.join(f'`{place}`' for place in dict.fromkeys(found))} | {text} |"
