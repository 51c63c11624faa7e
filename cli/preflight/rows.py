"""Rows: whether the lake contains the snapshot that the release trains on, before any machine starts.

The lake does not exist before the first `up`. Rows of `training:local_data` are not checked, because `up` uploads them.
Does not read rows.
"""

from collections.abc import Iterator
from functools import partial

from azure.core.exceptions import AzureError, HttpResponseError

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import StorageAccount
from cli.preflight.check import Check, Finding, Level, Target
from infra.release.training_stage.snapshot import landed

# Source: Azure/bicep-types-az generated/storage/microsoft.storage/2024-01-01/types.json
_VERSION = "2024-01-01"

_RAW = "raw"


def checks(target: Target) -> Iterator[Check]:
    training = target.settings.training
    if target.settings.release.enabled and target.settings.release.model == "trained" and not training.local_data:
        yield Check("rows", f"{training.dataset}/{training.snapshot}", partial(_landed, target))


def _landed(target: Target) -> Iterator[Finding]:
    training, name = target.settings.training, target.names.lake
    folder = f"{training.dataset}/{training.snapshot}"
    account = target.arm.get(StorageAccount, target.resource("Microsoft.Storage/storageAccounts", name), _VERSION)
    if account is None:
        yield Finding("rows", Level.DEFERRED, f"upload {folder} when the lake exists, then set release:enabled")
        return
    try:
        has_rows = landed(account.properties.primary_endpoints.blob, _RAW, training.dataset, str(training.snapshot))
    except HttpResponseError as error:
        raise NotAnswered(error.message.partition("\n")[0], error.status_code or 0) from None
    except AzureError as error:
        raise NotAnswered(str(error).partition("\n")[0]) from None
    if has_rows:
        yield Finding("rows", Level.OK, f"{_RAW}/{folder}")
    else:
        message = f"the lake has no rows below {_RAW}/{folder}/, so a training run would fail"
        yield Finding("rows", Level.BLOCKING, message, upload(account.properties.primary_endpoints.blob, folder))


def upload(blob_endpoint: str, folder: str) -> str:
    """Return the command that uploads a local folder with the login, because the lake accepts no account key."""
    return (
        f"az storage blob upload-batch --auth-mode login --blob-endpoint {blob_endpoint} --destination {_RAW} "
        f"--destination-path {folder} --source <folder>"
    )
