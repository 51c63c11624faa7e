"""Rules of Python files, and the statement that covers each: the nearest one around it.

Where to write it: at the argument or statement of code, in the docstring of its function or class, or in the module's,
which covers a few rules at most. Names that state no rule of Azure's are in `own.yaml`.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tools.sources import comments, unique_keys
from tools.sources.form import Statement
from tools.sources.rules import Fault, Rule
from tools.sources.sites import Site, sites

MOST = 6
"""Most rules that one statement may cover: more rules seldom have one source."""
SEARCHED = (
    "sandbox/**/*.py",
    "infra/**/*.py",
    "cli/preflight/*.py",
    "cli/azure_resource_manager.py",
    "cli/stacks/destroy.py",
)
OWN = Path(__file__).with_name("own.yaml")
_ASSIGNMENT = (ast.Assign, ast.AnnAssign)
_REMEDY = (
    "write '# Source: <owner>/<repository> <path>' (or '# No source: <request or command that settles it>') "
    "above it or in the docstring of its function; if it is not a rule of Azure's, add its name to "
    "tools/sources/own.yaml"
)


def find(root: Path) -> Iterator[Rule | Fault]:
    own = unique_keys.load(OWN)
    for path in sorted({path for pattern in SEARCHED for path in root.glob(pattern)}):
        file = path.relative_to(root).as_posix()
        yield from of_file(file, path.read_text(), set(own.pop(file, ())))
    for file in own:
        yield Fault("tools/sources/own.yaml", file, "does not exist.")


def of_file(file: str, text: str, own: set[str]) -> Iterator[Rule | Fault]:
    tree, found = ast.parse(text), comments.Comments(text)
    if wrong := list(comments.unreadable(tree, found)):
        yield from (Fault(file, "", message) for message in wrong)
        return
    cover = _Cover(tree, found)
    unused = set(own)
    for site in sites(file, tree):
        if site.name in own:
            unused.discard(site.name)
        else:
            yield Rule(file, site.name, cover.of(site), _REMEDY, site.node.lineno)
    for place, rules in cover.used.items():
        if len(rules) > MOST:
            yield Fault(file, place, f"one statement covers {len(rules)} rules, and {MOST} at most: write one at each.")
    for name in sorted(unused):
        yield Fault("tools/sources/own.yaml", f"{file} {name}", "is not a rule that needs a source: remove it.")


class _Cover:
    def __init__(self, tree: ast.Module, found: comments.Comments) -> None:
        self._comments = found
        self._module = comments.of_module(tree)
        self._parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        self._following: dict[ast.stmt | ast.keyword, ast.stmt] = {}
        for node in ast.walk(tree):
            for name in ("body", "orelse", "finalbody"):
                body = getattr(node, name, None)
                if isinstance(body, list):
                    self._following |= dict(pairwise(body))
        self._preceding = {below: above for above, below in self._following.items()}
        self.used: dict[str, set[str]] = defaultdict(set)
        """Names of rules, or of their group (`Site.kin`), by the place of the statement."""

    def of(self, site: Site) -> Statement | None:
        node: ast.AST | None = site.node
        while node is not None:
            for stated in self._block(node):
                if statement := self._comments.of(stated, self._following.get(stated)):
                    self.used[f"line {stated.lineno}"].add(site.kin or f"{site.name} {site.node.lineno}")
                    return statement
            node = self._parents.get(node)
        if self._module:
            self.used["module docstring"].add(site.kin or f"{site.name} {site.node.lineno}")
        return self._module

    def _block(self, node: ast.AST | None) -> Iterator[ast.stmt | ast.keyword]:
        """The argument or statement of code; with an assignment, those above it without a blank line between."""
        if isinstance(node, ast.keyword):
            yield node
        while isinstance(node, ast.stmt):
            yield node
            above = self._preceding.get(node)
            adjoins = above is not None and above.end_lineno == node.lineno - 1
            node = above if adjoins and isinstance(node, _ASSIGNMENT) and isinstance(above, _ASSIGNMENT) else None
