"""Stand-in for two commands of Azure CLI, `az storage blob upload-batch` and `az rest`, where the CLI is not installed.

It takes the options that docs/operations.md uses, and calls the cloud with the real storage SDK, or `requests`, and the
login of the environment. It does not do anything else that Azure CLI does.
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
    """A URL that begins with a slash is below Azure Resource Manager, and `@file` is a file's text."""
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
