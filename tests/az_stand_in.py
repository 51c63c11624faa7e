"""Stand-in for one command of Azure CLI, `az storage blob upload-batch`, where the CLI is not installed.

It takes the options that docs/operations.md uses and uploads with the real storage SDK and the login of the
environment. It does not do anything else that Azure CLI does.
"""

import argparse
from pathlib import Path

from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient

parser = argparse.ArgumentParser()
parser.add_argument("command", nargs=3)
for name in ("auth-mode", "blob-endpoint", "destination", "destination-path", "source"):
    parser.add_argument(f"--{name}", required=True)
given = parser.parse_args()
assert given.command == ["storage", "blob", "upload-batch"]
assert given.auth_mode == "login"
credential = DefaultAzureCredential(disable_instance_discovery=True)
container = BlobServiceClient(given.blob_endpoint, credential).get_container_client(given.destination)
for file in Path(given.source).iterdir():
    container.upload_blob(f"{given.destination_path}/{file.name}", file.read_bytes(), overwrite=True)
