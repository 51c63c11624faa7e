"""What a training run left in the lake, read by the deployer's identity.

Layout: `models/<run id>/` with `MANIFEST.json` last, so a folder without it is not an artefact. The one thing written
here is the gate's verdict, which the manifest does not list: it is given after the artefact was made, perhaps again.
A refused model has `refused.json` too, for the alert that reads the lake's log of requests (`monitoring/queries.py`),
because that log has names of blobs and not their content. It stays when another floor lets the model pass later.
"""

import json
from typing import Any

from infra.cloud.clients import Cloud


class ArtefactError(Exception):
    """The artefact is missing or was not written to the end."""


class Artefact:
    def __init__(self, blob_endpoint: str, container: str, run_id: str) -> None:
        self._container = Cloud.discover().blobs(blob_endpoint).get_container_client(container)
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

    def write_verdict(self, rules: list[dict[str, Any]]) -> None:
        passed = all(rule["passed"] for rule in rules)
        document = json.dumps({"passed": passed, "rules": rules}, indent=1)
        self._container.upload_blob(f"{self._run_id}/verdict.json", document, overwrite=True)
        if not passed:
            self._container.upload_blob(f"{self._run_id}/refused.json", document, overwrite=True)

    def require_whole(self) -> None:
        """Raises `ArtefactError` where the manifest, written last, is missing."""
        self.json("MANIFEST.json")
