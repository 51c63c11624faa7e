"""Unity Catalog: whether the region's metastore took the stack's Databricks workspace in.

Only the workspace itself tells: before it exists, the answer is that it is not known yet.
"""

from collections.abc import Iterator
from functools import partial

from operations.checks.answers import Workspace
from operations.checks.question import Finding, Level, Question, Target

_VERSION = "2026-01-01"


def questions(target: Target) -> Iterator[Question]:
    yield Question("Unity Catalog", target.names.databricks_workspace, partial(_enabled, target))


def _enabled(target: Target) -> Iterator[Finding]:
    name = target.names.databricks_workspace
    workspace = target.arm.get(Workspace, target.resource("Microsoft.Databricks/workspaces", name), _VERSION)
    if workspace is None:
        says = "known after the workspace exists; Databricks gives new ones to the region's metastore by itself"
        yield Finding("Unity Catalog", Level.LATER, says)
    elif workspace.properties.is_uc_enabled:
        yield Finding("Unity Catalog", Level.OK, f"enabled for {name}")
    else:
        says = f"{name} belongs to no metastore, so nothing can read the lake through Unity Catalog"
        yield Finding(
            "Unity Catalog",
            Level.BLOCKING,
            says,
            f"databricks metastores list  # as account admin, for one in {target.settings.location}\n"
            "databricks metastores assign <workspace id> <metastore id> main",
        )
