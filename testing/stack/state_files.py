"""The files of a local run, by the effect of damage to one of them; patterns below the state folder."""

import fnmatch

from sandbox.registry.images import FILES

NEEDED = (
    "pulumi/backend/.pulumi/stacks/*/local.json",
    "sandbox/environment.json",
    "sandbox/identity/*",
    "sandbox/resources.sqlite",
    "sandbox/deployments/*/endpoint.json",
    "sandbox/deployments/*/*/service.json",
    "sandbox/databricks/*/tracking/mlflow.db",
)
"""Nothing can make them again: they are named, with the remedy."""
MADE_AGAIN = (
    ".personalization-local",
    "Pulumi.local.yaml",
    "run.json",
    "engine.json",
    "pulumi/backend/.pulumi/meta.yaml",
    "pulumi/workspaces/*",
    "sandbox/ca-bundle.pem",
    "sandbox/lock",
    "sandbox/network-proxy.json",
    "sandbox/operations.sqlite",
    "sandbox/databricks/records.db",
    "sandbox/databricks/*/tracking/port",
    "sandbox/accounts/*/.aside/*",
    "sandbox/registries/*/images/*/image.json",
    "sandbox/registries/*/repositories/*",
)
"""A command writes them again or does without; those that are records are named where they are cut short."""
UNREAD = (
    "*.log",
    "engine-events.json",
    "pulumi/backend/.pulumi/backups/*",
    "pulumi/backend/.pulumi/history/*",
    "pulumi/backend/.pulumi/stacks/*/local.json.bak",
    "pulumi/logs/*",
    "*.sqlite-wal",
    "*.sqlite-shm",
    "*.db-wal",
    "*.db-shm",
    "sandbox/runs/*",
)
"""Nobody reads them to go on, or SQLite rolls them back."""
CONTENT = (
    "data/*",
    "sandbox/accounts/*",
    "sandbox/databricks/*/workspace/*",
    "sandbox/databricks/*/volumes/*",
    "sandbox/databricks/*/secrets/*",
    "sandbox/databricks/*/tracking/artifacts/*",
    "sandbox/deployments/*/models/*",
    "sandbox/deployments/*/run-*",
    f"sandbox/registries/*/images/*/{FILES}/*",
    "sandbox/registries/*/sources/*",
    "sandbox/registries/*/work/*",
    "sandbox/databricks/*/uploads/*",
)
"""Bytes that clients wrote: rows, models, packages. Their readers judge them; `local-down` does not read them."""


def is_known(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in (*NEEDED, *MADE_AGAIN, *UNREAD, *CONTENT))
