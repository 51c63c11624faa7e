"""Every ARM PUT that standing up a production and a development stack sends, as it left the provider's process.

The provider on PATH is the stand-in with one thing added: this file, run as a program, also writes down each PUT that
goes through `requests`. A sandbox answers, so the ids it computes are made up; what the program sets is not.
Does not record what a release sends: that goes through the models of azure-ai-ml.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tools.commands import one_at_a_time

PRODUCTION, DEVELOPMENT = "prod-westeurope", "dev"
_RECORD = "ARM_BODIES_RECORD"

_STREAMS = """2026-11-25: the list of streams is open; this one is Container Insights' own:
https://learn.microsoft.com/azure/azure-monitor/containers/container-insights-data-collection-configure"""
ACCEPTED = {
    ("Microsoft.Insights/dataCollectionRules", "properties.dataFlows[].streams[]"): _STREAMS,
    ("Microsoft.Insights/dataCollectionRules", "properties.dataSources.extensions[].streams[]"): _STREAMS,
}
"""What a judge of bodies finds and Azure takes all the same: type and path, with the day and the reason."""


@dataclass(frozen=True)
class Put:
    stack: str
    address: str
    """The resource's id, as the URL has it."""
    api_version: str
    body: dict[str, Any]

    @property
    def type(self) -> str:
        """Such as `Microsoft.Network/privateEndpoints/privateDnsZoneGroups`."""
        if re.fullmatch(r"/subscriptions/[^/]+/resourceGroups/[^/]+", self.address):
            return "Microsoft.Resources/resourceGroups"
        namespace, *rest = self.address.rpartition("/providers/")[2].split("/")
        return "/".join([namespace, *rest[::2]])

    @property
    def name(self) -> str:
        """As a template names it: after the names of the parents within its namespace."""
        parts = self.address.rpartition("/providers/")[2].split("/")
        return "/".join(parts[2::2]) if parts[0] else parts[-1]

    def __str__(self) -> str:
        return f"{self.type} {self.name} ({self.stack})"


@pytest.fixture(scope="session")
def puts(tmp_path_factory: pytest.TempPathFactory) -> list[Put]:
    """Of both stacks, stood up once in a test run, whatever number of workers it has: 15 seconds."""
    run = tmp_path_factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    kept = run / "arm_bodies.json"
    with one_at_a_time(run):
        if not kept.exists():
            kept.write_text(json.dumps([asdict(put) for put in sorted(_recorded(), key=str)]))
    return [Put(**put) for put in json.loads(kept.read_text())]


def _recorded() -> Iterator[Put]:
    from infra_stack import RUNNER, infra_stacks

    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ), infra_stacks(Path(place)) as stacks:
        plugin = Path(place) / "bin" / "pulumi-resource-azure-native"
        plugin.parent.mkdir()
        plugin.write_text(f'#!/bin/sh\nexec python3 {__file__} "$@"\n')
        plugin.chmod(0o755)
        stacks.environment["PATH"] = f"{plugin.parent}:{stacks.environment['PATH']}"
        for stack in (PRODUCTION, DEVELOPMENT):
            record = Path(place) / f"{stack}.jsonl"
            stacks.environment[_RECORD] = str(record)
            stacks.up(stack, **(RUNNER if stack == PRODUCTION else {}))
            for line in record.read_text().splitlines():
                url, body = json.loads(line)
                parts = urlsplit(url)
                yield Put(stack, unquote(parts.path), parse_qs(parts.query)["api-version"][0], body)


def require_no_faults(judge: Callable[[Put], Iterable[str]], judged: Iterable[Put]) -> None:
    """A fault is a path, a colon and what is wrong there. Fails as well for what is accepted and not met any more."""
    faults = {(put.type, fault.partition(": ")[0], f"{put}: {fault}") for put in judged for fault in judge(put)}
    wrong = sorted(shown for *where, shown in faults if tuple(where) not in ACCEPTED)
    assert not wrong, "\n".join(wrong)
    assert {(kind, path) for kind, path, _ in faults} == ACCEPTED.keys()


def _serve_and_record() -> None:
    import requests

    from sandbox.azure_native.__main__ import main

    send = requests.Session.send

    def recording(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if request.method == "PUT":
            line = json.dumps([request.url, json.loads(request.body or "")]) + "\n"
            # Unbuffered, so that the lines of parallel calls stay whole.
            with open(os.environ[_RECORD], "ab", buffering=0) as record:
                record.write(line.encode())
        return send(session, request, **options)

    with mock.patch.object(requests.Session, "send", recording):
        main()


if __name__ == "__main__":
    _serve_and_record()
