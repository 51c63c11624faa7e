"""The files of a local run, grouped by the effect of damage to one of them. Patterns are below the state folder."""

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
"""Files that cannot be created again. A command that finds a damaged one names it and the remedy."""
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
"""Files that a command creates again or does not need. A record that was cut short is reported by name."""
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
"""Files that no command needs to continue, or that SQLite rolls back."""
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
"""Bytes that clients wrote: rows, models, packages. Their readers check them; `local-down` does not read them."""


def is_known(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in (*NEEDED, *MADE_AGAIN, *UNREAD, *CONTENT))
