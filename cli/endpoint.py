"""HTTP client of a stack's endpoint. The key comes from Azure ML and stays in this process."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cli.errors import UserError
from infra.cloud.clients import AzureClients
from infra.cloud.live_deployment import endpoint_key


@dataclass(frozen=True)
class Endpoint:
    client: httpx.Client
    uri: str

    @classmethod
    def of(cls, outputs: Mapping[str, Any]) -> "Endpoint":
        """Return a client for the stack with these outputs. Raises `UserError` if the stack has no live model."""
        if not outputs.get("deployment"):
            raise UserError("this stack has no live model yet: release:enabled is false, or its first release failed")
        key = endpoint_key(
            AzureClients.discover().machine_learning(outputs["ml_workspace_id"]), outputs["endpoint_name"]
        )
        return cls(httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30), outputs["scoring_uri"])

    def post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to one request. Raises `UserError` with its text for another status than 200."""
        try:
            request = self.client.build_request("POST", self.uri, json=body)
        except UnicodeEncodeError as error:
            text = error.object[error.start : error.end]
            raise UserError(
                f"the request contains half of a surrogate pair, which is not a character: {text!r}"
            ) from None
        except ValueError as error:
            raise UserError(
                f"the request cannot be written as JSON, which has no NaN and no infinity: {error}"
            ) from None
        answer = self.client.send(request)
        if answer.status_code != 200:
            raise UserError(f"the endpoint answered {answer.status_code}: {answer.text.strip()}")
        return answer.json()

    def latencies(self, bodies: Sequence[Mapping[str, Any]], calls: int) -> list[float]:
        """Return the sorted latencies, in ms, of `calls` sequential requests, after ten uncounted warm-up requests."""
        for body in bodies[:10]:
            self.post(body)
        times = []
        for number in range(calls):
            started = time.perf_counter()
            self.post(bodies[number % len(bodies)])
            times.append((time.perf_counter() - started) * 1000)
        return sorted(times)
