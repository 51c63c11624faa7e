"""Unity Catalog: whether the workspace belongs to a metastore, and which objects the login can create there.

Only the workspace can answer both, so the checks are deferred until it exists.
"""

from collections.abc import Iterator
from functools import partial

import requests

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import Workspace
from cli.preflight.check import Check, Finding, Level, Target
from infra.cloud.clients import AzureClients
from infra.release.training_stage.catalog import PRIVILEGES

# Source: Azure/bicep-types-az generated/databricks/microsoft.databricks/2026-01-01/types.json
_VERSION = "2026-01-01"


def checks(target: Target) -> Iterator[Check]:
    yield Check("Unity Catalog", target.names.databricks_workspace, partial(_enabled, target))


def _enabled(target: Target) -> Iterator[Finding]:
    name = target.names.databricks_workspace
    workspace = target.arm.get(Workspace, target.resource("Microsoft.Databricks/workspaces", name), _VERSION)
    if workspace is None:
        message = "known after the workspace exists; Databricks attaches new workspaces to the region's metastore"
        yield Finding("Unity Catalog", Level.DEFERRED, message)
    elif workspace.properties.is_uc_enabled:
        yield Finding("Unity Catalog", Level.OK, f"enabled for {name}")
        if target.settings.release.enabled:
            yield from _rights(target, workspace.properties.workspace_url)
    else:
        message = f"{name} belongs to no metastore, so nothing can read the lake through Unity Catalog"
        yield Finding(
            "Unity Catalog",
            Level.BLOCKING,
            message,
            f"databricks metastores list  # as account admin, for one in {target.settings.location}\n"
            "databricks metastores assign <workspace id> <metastore id> main",
        )


def _rights(target: Target, workspace_url: str) -> Iterator[Finding]:
    """Check the login's privileges. Raises `NotAnswered` if the workspace refuses or cannot be reached."""
    from databricks.sdk.errors import DatabricksError

    workspace_id = target.resource("Microsoft.Databricks/workspaces", target.names.databricks_workspace)
    try:
        client = AzureClients.discover().databricks(workspace_url, workspace_id)
        metastore = client.metastores.current().metastore_id
        principal = client.current_user.me().user_name
        answer = client.grants.get_effective("METASTORE", metastore, principal=principal)
        owner = client.metastores.summary().owner
    except (DatabricksError, requests.RequestException) as error:
        if target.settings.network.is_private:
            message = "rights on the metastore can be checked from inside the network only"
            yield Finding("Unity Catalog", Level.DEFERRED, message)
            return
        raise NotAnswered(str(error).partition("\n")[0]) from None
    held = {
        each.privilege.value
        for assignment in answer.privilege_assignments or []
        for each in assignment.privileges or []
        if each.privilege
    }
    missing = [name for name in PRIVILEGES if name not in held]
    if not missing or owner == principal:
        yield Finding("Unity Catalog", Level.OK, "the login can create the objects of a release")
        return
    changes = ", ".join(f'"{name}"' for name in missing)
    yield Finding(
        "Unity Catalog",
        Level.BLOCKING,
        f"{principal} has no {', '.join(missing)} on the metastore",
        "# as an admin of the metastore\n"
        f"databricks grants update metastore {metastore} --json "
        f'\'{{"changes": [{{"principal": "{principal}", "add": [{changes}]}}]}}\'',
    )
