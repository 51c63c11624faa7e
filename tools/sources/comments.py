"""Statements of a Python file by line: in docstrings, and in comments above a line or at its end."""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping

from tools.sources.form import NONE, SOURCE, Malformed, Statement, read

_MARKS = (SOURCE.strip(), NONE.strip())


def combine(statements: list[Statement]) -> Statement | None:
    """Merge several statements into one; a place may have sources for one part and none for another."""
    if not statements:
        return None
    sources = tuple(source for one in statements for source in one.sources)
    return Statement(sources, " ".join(one.settled_by for one in statements if one.settled_by))


def in_text(lines: Iterable[str]) -> Iterator[str]:
    """Each statement of a docstring or comment: from its mark to the next mark or blank line."""
    current: list[str] = []
    for line in (*(line.strip() for line in lines), ""):
        starts = line.startswith(_MARKS)
        if current and (starts or not line):
            yield " ".join(current)
            current = []
        if starts or current:
            current.append(line)


class Comments:
    """Raises `tools.sources.form.Malformed` for a statement that cannot be read."""

    def __init__(self, text: str) -> None:
        self._above: dict[int, list[str]] = {}
        """Lines of a comment block by the number of the line of code below it."""
        self._beside: dict[int, list[str]] = {}
        block: list[str] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comment = token.string.lstrip("#").strip()
                alone = not token.line[: token.start[1]].strip()
                if alone:
                    block.append(comment)
                else:
                    self._beside[token.start[0]] = [comment]
            elif token.type == tokenize.NL and not token.line.strip():
                block = []  # a blank line parts a comment from the code below it
            elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) and block:
                self._above[token.start[0]] = block
                block = []

    def of(self, node: ast.stmt | ast.keyword, following: ast.stmt | None) -> Statement | None:
        """Sources at one statement or argument: above it, in its lines, in its docstring or the one below it."""
        first = min([node.lineno, *(found.lineno for found in getattr(node, "decorator_list", []))])
        blocks = [self._above.get(first, []), self._beside.get(node.lineno, [])]
        if not hasattr(node, "body"):
            lines = range(first, (node.end_lineno or first) + 1)
            blocks = [block for line in lines for block in (self._at(self._above, line), self._at(self._beside, line))]
            blocks.append(_text_below(following))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            blocks.append((ast.get_docstring(node) or "").splitlines())
        return combine([read(text) for block in blocks for text in in_text(block)])

    def all(self) -> Iterator[list[str]]:
        """Each comment's lines."""
        yield from (*self._above.values(), *self._beside.values())

    @staticmethod
    def _at(blocks: Mapping[int, list[str]], line: int) -> list[str]:
        return blocks.get(line, [])


def unreadable(tree: ast.Module, comments: Comments) -> Iterator[str]:
    """Errors of all statements of the file that cannot be read, also of those that cover no rule."""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    texts = [it.value.splitlines() for it in strings if isinstance(it, ast.Constant) and isinstance(it.value, str)]
    for text in (text for block in (*comments.all(), *texts) for text in in_text(block)):
        try:
            read(text)
        except Malformed as error:
            yield str(error)


def of_module(tree: ast.Module) -> Statement | None:
    return combine([read(text) for text in in_text((ast.get_docstring(tree) or "").splitlines())])


def _text_below(following: ast.stmt | None) -> list[str]:
    """The docstring of a constant or field."""
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return str(following.value.value).splitlines()
    return []
