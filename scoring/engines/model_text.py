"""A check of `model.txt` before LightGBM's C library loads it.

The library trusts the file: a child that is its own ancestor makes it loop forever, an index out of range ends the
process without a message. Only the indices are checked here, so write access to the file is still the right to run code
in this process.
"""

from collections.abc import Sequence
from pathlib import Path

from scoring.artefact import ArtefactError

_READ = ("num_leaves", "split_feature", "left_child", "right_child", "leaf_value")


def check_trees(file: Path, columns: int) -> None:
    """Raise `ArtefactError` with the number of the first tree that is not a valid tree over `columns` features."""
    number, fields = -1, dict[str, str]()
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.strip().partition("=")
            if name in ("Tree", "end of trees"):
                if number >= 0 and (fault := _fault(fields, columns)):
                    raise ArtefactError(f"{file.name}: tree {number}: {fault}")
                number, fields = number + 1, {}
            elif name in _READ:
                fields[name] = value


def _fault(fields: dict[str, str], columns: int) -> str | None:
    try:
        leaves = int(fields["num_leaves"])
        values = len(fields["leaf_value"].split())
        splits, left, right = (
            list(map(int, fields.get(name, "").split())) for name in ("split_feature", "left_child", "right_child")
        )
    except (KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if values != leaves or not len(splits) == len(left) == len(right) == leaves - 1:
        return f"{leaves} leaves, {values} leaf values and {len(splits)}, {len(left)}, {len(right)} splits do not fit"
    if not all(0 <= split < columns for split in splits):
        return f"a split is not on one of the {columns} columns"
    return _fault_of_children(left, leaves) or _fault_of_children(right, leaves)


def _fault_of_children(children: Sequence[int], leaves: int) -> str | None:
    for node, child in enumerate(children):
        # microsoft/LightGBM src/io/tree.cpp, Tree::Split: a node is always newer than its parent; leaves are ~index.
        if not (node < child < leaves - 1 or 0 <= ~child < leaves):
            return f"child {child} of node {node} is neither a later node nor a leaf"
    return None
