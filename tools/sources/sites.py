"""Places of Python code that state a rule about Azure or Databricks.

In the sandbox: handlers of requests, functions of resource types, each refusal, constants and defaults of models.
In infra and in the modules of the CLI that call Azure: constants, error codes, refusals, limits of settings, options
that order or protect resources, texts and numbers given to a resource of azure-native, and the limits of names. A
refusal whose text contains "sandbox", or with status 501, is not a rule of Azure's.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_REFUSALS = {"CloudError", "TaskFailed"}
_CALLS = {"Request", "_Call"}
_ORDER = {
    "depends_on",
    "ignore_changes",
    "replace_on_changes",
    "replace_with",
    "delete_before_replace",
    "deleted_with",
    "custom_timeouts",
    "retain_on_delete",
}
_LIMITS = {"ge", "gt", "le", "lt", "pattern", "min_length", "max_length"}
_LITERAL_CALLS = {"compile", "frozenset", "range", "split", "timedelta"}
_READ = {"description", "display_name"}
"""Arguments that only people read: never rules of Azure's."""
_NAMES = {"hyphenated", "compact"}
_TYPE = re.compile(r"Microsoft\.\w+(/\w+)+", re.IGNORECASE)
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
_CODE = re.compile(r"([A-Z][a-z]+){2,}|[A-Z]{3,}(_[A-Z]+)+")


@dataclass(frozen=True)
class Site:
    name: str
    """Qualified, such as `Operations.require_idle AnotherOperationInProgress`."""
    node: ast.expr | ast.stmt
    kin: str = ""
    """Group of the rule, such as one table: all rules of a group count as one."""


def sites(file: str, tree: ast.Module) -> Iterator[Site]:
    if file.startswith("sandbox/"):
        yield from _Sandbox(file, tree).sites()
    else:
        yield from _Program(file, tree).sites()


class _Searched:
    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file, self.tree = file, tree

    def constants(self) -> Iterator[Site]:
        """Upper-case names that hold literals, of the module or of a class in it, several in one statement or one."""
        classes = [node for node in self.tree.body if isinstance(node, ast.ClassDef) and not _is_enum(node)]
        for body in (self.tree.body, *(node.body for node in classes)):
            for node in body:
                for target, value in _assigned(node):
                    if isinstance(target, ast.Name) and _CONSTANT.fullmatch(target.id) and _is_literal(value):
                        yield Site(target.id, node)

    def walk(self, node: ast.AST | None = None, within: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.AST]]:
        """Every node with the qualified name of the function or class around it."""
        for child in ast.iter_child_nodes(node or self.tree):
            inner = within
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*within, child.name)
            yield ".".join(inner), child
            yield from self.walk(child, inner)


class _Sandbox(_Searched):
    def sites(self) -> Iterator[Site]:
        yield from self.constants()
        hooks = {name for _, node in self.walk() for name in _hooks(node)}
        for name, node in self.walk():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if node.name in hooks or any(_annotation(argument) in _CALLS for argument in node.args.args):
                    yield Site(name, node)
            elif isinstance(node, ast.ClassDef):
                if _is_model(node) and any(isinstance(it, ast.AnnAssign) and it.value for it in node.body):
                    yield Site(name, node)
            elif isinstance(node, ast.Call) and _is_refusal(self.file, node):
                yield Site(f"{name} {_code(node)}".strip(), node)


class _Program(_Searched):
    def sites(self) -> Iterator[Site]:
        yield from self.constants()
        modules = {name for _, node in self.walk() for name in _azure_native(node)}
        for name, node in self.walk():
            if isinstance(node, ast.ClassDef) and _is_enum(node):
                yield Site(name, node)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _limited(node):
                yield Site(f"{name}.{node.target.id}", node)
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc) == "ValueError":
                yield Site(f"{name} ValueError", node)
            elif isinstance(node, ast.keyword) and node.arg in _ORDER:
                yield Site(f"{name} {node.arg}", node.value)
            elif isinstance(node, ast.Call) and _module(node) in modules:
                yield from (Site(f"{name} {_name(node)}.{it.arg}", it.value) for it in _literals(node))
            elif isinstance(node, ast.Call) and _name(node) in _NAMES and self.file == "infra/config/naming.py":
                yield Site(name, node, kin="limits of names")
            elif isinstance(node, ast.Compare):
                yield from (Site(f"{name} {code.value!s}", code) for code in _codes(node))


def _assigned(node: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            yield from zip(target.elts, value.elts, strict=False)
        else:
            yield target, value
    elif isinstance(node, ast.AnnAssign) and node.value:
        yield node.target, node.value


def _hooks(node: ast.AST) -> Iterator[str]:
    """Functions that a `Behaviour` is made of."""
    if isinstance(node, ast.Call) and _name(node) == "Behaviour":
        for keyword in node.keywords:
            yield from (
                _name(found) for found in ast.walk(keyword.value) if isinstance(found, ast.Name | ast.Attribute)
            )


def _codes(node: ast.Compare) -> Iterator[ast.Constant]:
    for found in ast.walk(node):
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and _CODE.fullmatch(found.value):
            yield found


def _azure_native(node: ast.AST) -> Iterator[str]:
    """Names by which the file knows modules of the SDK."""
    if isinstance(node, ast.ImportFrom) and node.module == "pulumi_azure_native":
        yield from (alias.asname or alias.name for alias in node.names)


def _literals(node: ast.Call) -> Iterator[ast.keyword]:
    """Texts and numbers among the arguments. Booleans and members of enumerations are declared by the SDK."""
    for keyword in node.keywords:
        value = keyword.value
        if isinstance(value, ast.Constant) and type(value.value) in (str, int, float) and keyword.arg not in _READ:
            yield keyword


def _is_refusal(file: str, node: ast.Call) -> bool:
    name = _name(node)
    if name == "ValueError":
        return file.startswith("sandbox/databricks/") and "sandbox" not in _text(node).lower()
    own = "sandbox" in _text(node).lower() or (node.args and getattr(node.args[0], "value", None) == 501)
    return name in _REFUSALS and not own


def _limited(node: ast.AnnAssign) -> bool:
    fields = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _name(call) == "Field"]
    literal = any(isinstance(found, ast.Name) and found.id == "Literal" for found in ast.walk(node.annotation))
    return bool(fields) and (literal or any(keyword.arg in _LIMITS for call in fields for keyword in call.keywords))


def _is_enum(node: ast.ClassDef) -> bool:
    return any(_name(base).endswith("Enum") for base in node.bases)


def _is_model(node: ast.ClassDef) -> bool:
    return any(_name(base).endswith("Model") for base in node.bases)


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        # The name of a resource type: each is looked up at its version by tests/conformance/test_resource_types.py.
        return not (isinstance(node.value, str) and _TYPE.fullmatch(node.value))
    if isinstance(node, ast.Call):
        return _name(node) in _LITERAL_CALLS or _name(node)[:1].isupper()
    return isinstance(node, ast.Dict | ast.Set | ast.List | ast.Tuple | ast.JoinedStr | ast.BinOp)


def _code(node: ast.Call) -> str:
    texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    codes = [text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Za-z_]+", text)]
    return codes[0] if codes else _name(node)


def _text(node: ast.AST) -> str:
    return " ".join(str(found.value) for found in ast.walk(node) if isinstance(found, ast.Constant))


def _module(node: ast.Call) -> str:
    return _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""


def _annotation(argument: ast.arg) -> str:
    return _name(argument.annotation) if argument.annotation else ""


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
