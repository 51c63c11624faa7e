"""Replacement for `az storage blob upload-batch` and `az rest` on machines without Azure CLI.

Accepts the options that docs/operations.md uses, and calls the cloud through the real storage SDK or `requests` with
the login of the environment. Does not support any other command or option of Azure CLI.
"""

import argparse
import json
import sys
from pathlib import Path

from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient

from infra.cloud.clients import AzureClients


def upload_batch(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ("auth-mode", "blob-endpoint", "destination", "destination-path", "source"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    assert given.auth_mode == "login"
    credential = DefaultAzureCredential(disable_instance_discovery=True)
    container = BlobServiceClient(given.blob_endpoint, credential).get_container_client(given.destination)
    for file in Path(given.source).iterdir():
        container.upload_blob(f"{given.destination_path}/{file.name}", file.read_bytes(), overwrite=True)


def rest(arguments: list[str]) -> None:
    """Send a request to Azure Resource Manager. `--url` starts with a slash, `--body` is `@` and the name of a file."""
    parser = argparse.ArgumentParser()
    for name in ("method", "url", "body"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    assert given.url.startswith("/")
    assert given.body.startswith("@")
    address, _, version = given.url.partition("?api-version=")
    body = json.loads(Path(given.body[1:]).read_text())
    answer = AzureClients.discover().request(given.method.upper(), address, version, body)
    answer.raise_for_status()
    print(answer.text)


if sys.argv[1:4] == ["storage", "blob", "upload-batch"]:
    upload_batch(sys.argv[4:])
else:
    assert sys.argv[1] == "rest"
    rest(sys.argv[2:])
