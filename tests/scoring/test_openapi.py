"""Tests of the OpenAPI document: published with its version, and checked against the service by schemathesis."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from cli.reference.http_api import EXAMPLES
from scoring import openapi
from scoring.contract import RequestTypes, read_contract
from scoring.settings import Limits
from testing.scoring import REPOSITORY, Running, make_artefact, scoring_environment, serving
from workloads import artefact, spec

DOCS = REPOSITORY / "docs"
PUBLISHED = DOCS / "openapi.movielens.json"
PAGES = (REPOSITORY / "README.md", REPOSITORY / "docs" / "calling.md")
COMMAND = "python -m scoring.openapi docs/contract.movielens.json docs/openapi.movielens.json"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_document_and_contract_are_linked(page: Path) -> None:
    links = {(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+\.json)\)", page.read_text())}
    assert {DOCS / "openapi.movielens.json", DOCS / "contract.movielens.json"} <= links


def test_example_contract_equals_the_one_that_training_writes() -> None:
    written = artefact.contract(spec.load("movielens"))
    assert json.loads((DOCS / "contract.movielens.json").read_text()) == json.loads(json.dumps(written))


def test_published_document_equals_the_generated_one() -> None:
    contract = read_contract((DOCS / "contract.movielens.json").read_bytes())
    made = openapi.document(contract, RequestTypes(contract, Limits()))
    assert json.loads(PUBLISHED.read_text()) == made, f"raise VERSION in scoring/openapi.py, then: {COMMAND}"


def test_changed_document_is_not_published_under_its_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "openapi.json"
    contract = read_contract((DOCS / "contract.movielens.json").read_bytes())
    openapi.publish(contract, file)
    monkeypatch.setitem(openapi._PROBLEMS, "400", "Something else.")
    with pytest.raises(openapi.VersionError, match="raise VERSION"):
        openapi.publish(contract, file)
    monkeypatch.setattr(openapi, "VERSION", "99.0")
    openapi.publish(contract, file)
    assert json.loads(file.read_text())["info"]["version"] == "99.0"


def test_document_describes_the_access_through_the_router() -> None:
    document = json.loads(PUBLISHED.read_text())
    score = document["paths"]["/score"]["post"]
    (server,) = document["servers"]
    assert server["url"] + "/score" == "{router}/api/v1/endpoint/{endpoint}/score"
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert score["security"] == [{"bearer": []}]
    assert {"401", "404", "502", "503", "504"} <= set(score["responses"])
    others = [path for path in document["paths"] if path != "/score"]
    assert all(document["paths"][path]["servers"] != document["servers"] for path in others)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    toys = make_artefact(tmp_path_factory.mktemp("scoring") / "toys")
    # A limit of five rows is checked by the same code as one of a thousand, with smaller requests.
    with serving(scoring_environment(toys.folder, SCORING_MAX_ROWS=5)) as running:
        yield running


def test_reference_page_shows_the_answers_of_the_service(service: Running) -> None:
    answers = {path: EXAMPLES["get", path][0].answer for path in ("/live", "/ready", "/metrics")}
    assert service.client.get("/live").text.strip() == answers["/live"]
    assert service.client.get("/ready").text == answers["/ready"]
    # The model's name differs; the metric, its labels and its value do not.
    shown = re.sub('"[^"]*"', '".*"', re.escape(answers["/metrics"]))
    assert re.search(f"^{shown}$", service.client.get("/metrics").text, re.MULTILINE)


@pytest.mark.parametrize("mode", GenerationMode)
def test_service_conforms_to_its_document(service: Running, mode: GenerationMode) -> None:
    served = service.client.get("/openapi.json").json()
    del served["paths"]["/score"]["post"]["security"]  # the router checks the key, not this service
    document = schemathesis.openapi.from_dict(served)
    document.config.checks.negative_data_rejection.expected_statuses += ["413"]
    for result in document.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # a request without parameters cannot be wrong

        @settings(
            max_examples=25 if operation.method == "post" else 2, deadline=None, suppress_health_check=HealthCheck
        )
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=f"http://127.0.0.1:{service.port}")

        check()
