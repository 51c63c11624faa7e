"""YAML files whose keys are all different. PyYAML itself keeps the last of several equal keys and loses the others.

Does not know what the keys mean.
"""

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"
"""The key `<<`, which takes over another mapping."""


class RepeatedKey(ValueError):
    """A mapping has the same key twice."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key, mark = self.construct_object(key_node, deep=True), key_node.start_mark
            if key in lines:
                raise RepeatedKey(
                    f"{mark.name}, line {mark.line + 1}: the key '{key}' is already in line {lines[key]}, whose value "
                    "would be lost. Merge the two."
                )
            lines[key] = mark.line + 1
        return super().construct_mapping(node, deep=deep)


def load(path: Path) -> Any:
    """The file's document. Raises `RepeatedKey`, which names the file, the line and the key."""
    with path.open("rb") as file:
        return yaml.load(file, _Loader)
