"""The dashboard over HTTP: the content of each view, its behaviour when services are down, and its protection."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from cli.dashboard import architecture, serving
from cli.dashboard.architecture import Area, ResourceStatus, Status
from cli.dashboard.ranking import Catalogue, previous_ranking
from cli.dashboard.server import VIEWS, listen
from cli.dashboard.stack_source import StackSource
from cli.errors import UserError
from testing.dashboard.stack import CARD, ENDPOINT, MODEL, RUN, ExampleStack, example_stack, served

PATHS = [path for _, path, _ in VIEWS]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleStack]:
    with example_stack(tmp_path_factory.mktemp("dashboard")) as stack:
        yield stack


@pytest.fixture(scope="module")
def page(stack: ExampleStack) -> Iterator[httpx.Client]:
    with page_of(stack.source()) as page:
        yield page


@pytest.fixture(scope="module")
def views(stack: ExampleStack, page: httpx.Client) -> dict[str, httpx.Response]:
    """Every view, after a minute with some requests and a ranking without a context."""
    stack.log_summary([0.004, 0.004, 25], without_features=1)  # in addition to the summaries of the rollout
    rank(page, user="u3")
    return {path: page.get(path) for path in PATHS}


@contextmanager
def page_of(source: StackSource) -> Iterator[httpx.Client]:
    with served(source) as url, httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
        yield client


def rank(page: httpx.Client, **form: str) -> str:
    answer = page.post("/try", data=form, headers={"x-fragment": "1"})
    assert answer.status_code == 200, answer.text
    return answer.text


def hidden_ranking(fragment: str) -> list[dict[str, Any]]:
    """Return the ranking in the form's hidden field, which the next request sends."""
    (value,) = re.findall(r'name="before" form="try" value="([^"]*)"', fragment)
    return previous_ranking(value.replace("&#34;", '"'))


def test_every_view_shows_the_stack(stack: ExampleStack, views: dict[str, httpx.Response]) -> None:
    for path, answer in views.items():
        assert answer.status_code == 200
        assert "Not available" not in answer.text, f"{path}: {answer.text}"
    wanted = {
        "/": ["Storage", "2 of 2 exist, 1 recorded", "log-never-made", "missing: in the state, but not in Azure"],
        "/release": [
            f"run {RUN}",
            f"passed, {len(stack.outputs['metrics']['gate'])} rules",
            "quality:auc_min 0.65",
            "100 %",
            "scoring:2",
            stack.outputs["deployment"],
        ],
        "/serving": [ENDPOINT, "100 % of traffic", f"{MODEL}:9", "25000.00 ms", "Succeeded"],
        "/plan": [
            "requests a second",
            "container registry",
            "5.08",
            "training units: no price",
            "traffic out of Azure",
        ],
        "/model": [f"{MODEL}:9, live model from training run {RUN}", "<iframe"],
        "/lineage": [ENDPOINT, f"{MODEL}:9", RUN, "movielens/day-1", "3,000 rows"],
        "/try": ["One of 200", "context-hour"],
    }
    for path, words in wanted.items():
        for word in words:
            assert word in views[path].text, f"{path} does not show {word}"
    assert re.search(r"(?!0\.00)\d+\.\d\d % of requests", views["/serving"].text)


def test_gate_rules_are_shown_with_value_and_limit(stack: ExampleStack, views: dict[str, httpx.Response]) -> None:
    text = re.sub(r"\s+", " ", views["/release"].text)
    for rule in stack.outputs["metrics"]["gate"]:
        value = "\u2013" if rule["value"] is None else f"{rule['value']:.5g}"
        row = text.partition(f'<th scope="row">{rule["name"].replace("_", " ")}</th>')[2].partition("</tr>")[0]
        assert value in row
        assert f"{rule['limit']:.5g}" in row
        assert "passed" in row


def test_ranking_changes_with_the_hour_and_is_shown_next_to_the_previous_one(
    stack: ExampleStack, page: httpx.Client
) -> None:
    morning = rank(page, user="u3", **{"context-hour": "2"})
    first = hidden_ranking(morning)
    assert "Film «" in morning
    assert len(first) == 10
    evening = rank(page, user="u3", before=json.dumps(first), request="user u3, hour 2", **{"context-hour": "22"})
    second = hidden_ranking(evening)
    assert [item["id"] for item in second] != [item["id"] for item in first]
    assert "Now: user u3, hour 22" in evening
    assert "Before: user u3, hour 2" in evening
    assert re.search(r'class="moved">(up|down) \d|class="moved">new', evening)
    # A direct request to the endpoint returns the same best item.
    items = {item["id"]: item for item in Catalogue.of("movielens", stack.data).items}
    users = Catalogue.of("movielens", stack.data).users
    body = {"user": {**users["u3"], "hour": 22}, "items": list(items.values()), "top": 1}
    best = stack.cloud.score(ENDPOINT, body).json()["ranking"][0]
    assert (best["id"], best["probability"]) == (second[0]["id"], pytest.approx(second[0]["probability"]))


def test_missing_features_are_those_counted_by_the_replicas(page: httpx.Client) -> None:
    """Shares refer to all requests so far, including the rankings of other tests."""

    def shares() -> dict[str, float]:
        cells = re.findall(r'<th scope="row">(\w+)</th><td class="n">([\d.]+) %', page.get("/serving").text)
        return {name: float(share) for name, share in cells}

    rank(page, user="u3", **{"context-hour": "2"})
    before = shares()
    rank(page, user="u3")
    after = shares()
    assert after["hour"] > before["hour"]
    assert after["item_id"] <= before["item_id"]


def test_without_scripts_a_ranking_is_a_whole_page(page: httpx.Client) -> None:
    answer = page.post("/try", data={"user": "u3", "context-hour": "9"})
    assert "<!doctype html>" in answer.text
    assert "Now: user u3, hour 9" in answer.text


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"user": ""}, "choose a user; there are 200, such as u0"),
        ({"user": "nobody"}, "no user &#39;nobody&#39;"),
        ({"user": "u3", "context-hour": "noon"}, "hour is &#39;noon&#39;; it must be a whole number"),
    ],
)
def test_invalid_form_is_reported(form: dict[str, str], message: str, page: httpx.Client) -> None:
    assert message in rank(page, **form)


def test_without_tables_user_and_items_are_entered_as_json(stack: ExampleStack) -> None:
    with page_of(stack.source(data=None)) as page:
        assert "start the dashboard with <code>--data FOLDER</code>" in page.get("/try").text
        items = [{"id": "old", "year": 1950}, {"id": "new", "year": 1999}]
        evening = rank(page, user_json="{}", items_json=json.dumps(items), **{"context-hour": "23"})
        assert [item["id"] for item in hidden_ranking(evening)] == ["new", "old"]
        assert "items is not JSON" in rank(page, user_json="{}", items_json="[")
        assert "the endpoint answered 400" in rank(page, user_json='{"shoe": 1}', items_json='[{"id": "1"}]')


def test_users_are_suggested_by_key_and_by_feature(page: httpx.Client) -> None:
    assert next(iter(page.get("/users?q=u19").json()))["key"] == "u19"
    assert all("job3" in user["features"] for user in page.get("/users?q=job3").json())
    assert page.get("/users?q=nobody").json() == []


def test_keys_never_reach_the_browser(
    stack: ExampleStack, page: httpx.Client, views: dict[str, httpx.Response]
) -> None:
    secrets = [stack.cloud.key(ENDPOINT), stack.cloud.environment["ARM_CLIENT_SECRET"]]
    answers = [answer.text for answer in views.values()] + [page.get(path).text for path in ("/card", "/users")]
    answers.append(rank(page, user="u3"))
    assert not [secret for secret in secrets for text in answers if secret in text]


def test_no_content_is_loaded_from_other_origins_and_the_card_has_no_scripts(
    page: httpx.Client, views: dict[str, httpx.Response]
) -> None:
    for answer in views.values():
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        assert not re.findall(r'(?:src|href)="(?!/)[^"#]', answer.text)
    card = page.get("/card")
    assert card.text == CARD
    assert card.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_other_host_names_and_forms_of_other_sites_are_refused(page: httpx.Client) -> None:
    assert page.get("/", headers={"host": "evil.example"}).status_code == 400
    for origin in ("http://evil.example", "null"):
        answer = page.post("/try", data={"user": "u3"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "the dashboard&#39;s own form" in answer.text


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/try"])
def test_views_accept_only_get(path: str, page: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert page.request(method, path).status_code == 405


@pytest.mark.parametrize("key", ["message", "says"])  # `says`: a verdict of an earlier version
def test_refused_model_is_shown_with_the_violated_rule(stack: ExampleStack, key: str) -> None:
    broken = stack.cloud.folder / "accounts" / "lake" / "models" / "run-10"
    broken.mkdir(exist_ok=True)
    rule = {"name": "auc", "value": 0.5, "limit": 0.65, "passed": False, key: "AUC 0.5000 is below the floor"}
    (broken / "verdict.json").write_text(json.dumps({"passed": False, "rules": [rule]}))
    resources = [
        replace(resource, id="run-10", outputs={"run_id": "run-10"})
        if resource.kind == "databricks:TrainingRun"
        else resource
        for resource in stack.resources
    ]
    with page_of(stack.source(resources=lambda: resources)) as page:
        text = page.get("/release").text
    assert "refused: auc" in text
    assert "AUC 0.5000 is below the floor" in text
    assert f"from run {RUN}: the model of run run-10 was not registered" in text


def test_each_view_reports_a_missing_release(stack: ExampleStack) -> None:
    with page_of(stack.source(outputs=dict, resources=list)) as page:
        for path in PATHS:
            answer = page.get(path)
            assert answer.status_code == 200
            assert re.search("Not available|not reached", answer.text), path
        assert "this stack has no release" in rank(page, user="u3")


def test_each_view_shows_the_error_of_pulumi(stack: ExampleStack) -> None:
    def fails() -> Any:
        raise UserError("stack prod cannot be read: no stack named 'prod' found")

    with page_of(stack.source(outputs=fails, resources=fails)) as page:
        for path in PATHS:
            assert "no stack named &#39;prod&#39; found" in page.get(path).text
        assert "no stack named &#39;prod&#39; found" in page.get("/card").text


def test_internal_error_is_reported_in_the_view(stack: ExampleStack) -> None:
    with page_of(stack.source(outputs=lambda: 1 / 0)) as page:
        assert "internal error of the dashboard" in page.get("/serving").text
        assert "internal error of the dashboard" in rank(page, user="u3")
        assert "internal error of the dashboard" in page.get("/card").text


def test_each_view_names_the_service_that_does_not_answer(stack: ExampleStack, page: httpx.Client) -> None:
    rank(page, user="u3")  # caches the key
    stack.cloud.stop()
    try:
        for path in PATHS:
            view = page.get(path)
            assert view.status_code == 200
            if path != "/plan":  # reads only the stack's outputs
                assert f"{stack.cloud.url} does not answer" in view.text, path
        answer = rank(page, user="u3", before=json.dumps([{"id": "i1", "title": "Film", "probability": 0.5}]))
        assert "does not answer" in answer
        assert "Restart the example stack." in answer
        assert hidden_ranking(answer)[0]["id"] == "i1"
    finally:
        stack.cloud.start()


# --- without a stack


def test_summaries_of_minutes_are_added_and_old_ones_ignored() -> None:
    now = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)

    def line(minutes: int, **changes: Any) -> str:
        metrics = {"requests": 60, "errors": 0, "without_features": 0, "p99_ms": 3.0, **changes}
        written = {"time": (now - timedelta(minutes=minutes)).isoformat(), "message": "summary", **metrics}
        return f"2026-11-26T12:00:00Z stderr {json.dumps(written)}"

    lines = [line(1), line(2, errors=6, p99_ms=9.5), line(60, requests=9999), '{"message": "summary" cut', "serving"]
    total = serving.aggregate(serving.summaries(lines), now)
    assert total is not None
    assert (total.requests, total.errors, total.p99_ms, total.rate) == (120, 6, 9.5, 1.0)
    assert serving.aggregate(serving.summaries([line(60)]), now) is None


def test_area_has_the_worst_status_of_its_resources() -> None:
    def area(*statuses: Status) -> Area:
        return Area("Storage", [ResourceStatus("Account", "a", status, "") for status in statuses])

    assert area(Status.EXISTS, Status.MISSING, Status.RECORDED).status is Status.MISSING
    assert area(Status.EXISTS, Status.UNKNOWN).status is Status.UNKNOWN
    assert area(Status.EXISTS, Status.RECORDED).status is Status.EXISTS
    assert area(Status.RECORDED).status is Status.RECORDED


@pytest.mark.parametrize("narrow", [False, True])
def test_boxes_of_the_drawing_never_overlap_and_stay_inside(narrow: bool) -> None:
    names = "Storage Databricks,Azure ML,Registry,AKS,Monitoring,Network,Access".replace(" D", ",D").split(",")
    areas = [Area(name, [ResourceStatus("Account", "a", Status.EXISTS, "")] * 2) for name in names]
    drawing = architecture.drawing(areas, narrow)
    assert {box.area.name for box in drawing.boxes} == set(names)
    for i, box in enumerate(drawing.boxes):
        assert box.x + box.width <= drawing.width
        assert box.y + box.height <= drawing.height
        for other in drawing.boxes[:i]:
            apart = abs(box.x - other.x) >= box.width or abs(box.y - other.y) >= box.height
            assert apart, f"{box.area.name} lies on {other.area.name}"


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"a": 1}', '[{"id": 1}]'])
def test_invalid_previous_ranking_is_ignored(text: str) -> None:
    assert previous_ranking(text) == []


def test_invalid_metrics_add_nothing() -> None:
    assert serving._missing(["http://127.0.0.1:9/metrics"]) == {}
    with pytest.raises(ValueError, match=r"."):
        serving.count("<html> not metrics", {})


def test_clients_can_connect_before_the_server_starts() -> None:
    with listen(None) as listener, socket.create_connection(listener.getsockname(), timeout=1):
        pass


def test_port_in_use_is_named_with_the_remedy() -> None:
    with listen(None) as taken:
        host, port = taken.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is not available: .* Omit --port"):
            listen(port)
