"""A training run's artefact in the lake, read with the deployer's identity.

Layout: `models/<run id>/` with `MANIFEST.json` last, so a folder without it is not an artefact. This module writes only
the gate's verdict, which the manifest does not list: it is computed after the artefact was written, and perhaps again.
A refused model also gets `refused.json`, for the alert on the lake's log of requests (`monitoring/queries.py`), which
has names of blobs and not their content. The file stays if the model passes with another threshold later.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from infra.cloud.clients import AzureClients


class ArtefactError(Exception):
    """The artefact is missing or was not written to the end."""


class Artefact:
    def __init__(self, blob_endpoint: str, container: str, run_id: str) -> None:
        self._container = AzureClients.discover().blobs(blob_endpoint).get_container_client(container)
        self._run_id = run_id

    def text(self, name: str) -> str:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._container.download_blob(f"{self._run_id}/{name}").readall().decode()
        except ResourceNotFoundError:
            raise ArtefactError(
                f"{self._container.container_name}/{self._run_id}/{name} is not in the lake: "
                "the training run ended before it wrote its artefact, or the artefact was deleted."
            ) from None

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))

    def write_verdict(self, rules: Sequence[Mapping[str, object]]) -> None:
        passed = all(rule["passed"] for rule in rules)
        document = json.dumps({"passed": passed, "rules": rules}, indent=1)
        self._container.upload_blob(f"{self._run_id}/verdict.json", document, overwrite=True)
        if not passed:
            self._container.upload_blob(f"{self._run_id}/refused.json", document, overwrite=True)

    def require_whole(self) -> None:
        """Raise `ArtefactError` if the manifest, which is written last, is missing."""
        self.json("MANIFEST.json")
