"""The page without a browser: what each view says of a stand, of what is down, and to whom it answers."""

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
from cli.dashboard.architecture import Area, Standing, Thing
from cli.dashboard.ranking import Catalogue, before_of
from cli.dashboard.server import VIEWS, listen
from cli.dashboard.stack_source import Subject
from cli.errors import UserError
from testing.dashboard.stack import CARD, ENDPOINT, MODEL, RUN, Stand, page_stand, served

PATHS = [path for _, path, _ in VIEWS]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with page_stand(tmp_path_factory.mktemp("page")) as stand:
        yield stand


@pytest.fixture(scope="module")
def page(stand: Stand) -> Iterator[httpx.Client]:
    with page_of(stand.subject()) as page:
        yield page


@pytest.fixture(scope="module")
def views(stand: Stand, page: httpx.Client) -> dict[str, httpx.Response]:
    """Every view, after a minute with some requests and a ranking without a context."""
    stand.log_summary([0.004, 0.004, 25], without_features=1)  # beside what the service logged of the rollout
    rank(page, user="u3")
    return {path: page.get(path) for path in PATHS}


@contextmanager
def page_of(subject: Subject) -> Iterator[httpx.Client]:
    with served(subject) as url, httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
        yield client


def rank(page: httpx.Client, **form: str) -> str:
    answer = page.post("/try", data=form, headers={"x-fragment": "1"})
    assert answer.status_code == 200, answer.text
    return answer.text


def kept(fragment: str) -> list[dict[str, Any]]:
    """The ranking that the next form carries along."""
    (value,) = re.findall(r'name="before" form="try" value="([^"]*)"', fragment)
    return before_of(value.replace("&#34;", '"'))


def test_every_view_tells_of_the_stand(stand: Stand, views: dict[str, httpx.Response]) -> None:
    for path, answer in views.items():
        assert answer.status_code == 200
        assert "Not available" not in answer.text, f"{path}: {answer.text}"
    wanted = {
        "/": ["Storage", "2 of 2 stand, 1 recorded", "log-never-made", "is gone: the state has it"],
        "/release": [
            f"run {RUN}",
            f"passed, {len(stand.outputs['metrics']['gate'])} rules",
            "quality:auc_min 0.65",
            "100 %",
            "scoring:2",
            stand.outputs["deployment"],
        ],
        "/serving": [ENDPOINT, "100 % of traffic", f"{MODEL}:9", "25000.00 ms", "Succeeded"],
        "/plan": [
            "requests a second",
            "container registry",
            "5.08",
            "training units: no price",
            "traffic out of Azure",
        ],
        "/model": [f"{MODEL}:9, training run {RUN}, which serves", "<iframe"],
        "/lineage": [ENDPOINT, f"{MODEL}:9", RUN, "movielens/day-1", "3,000 rows"],
        "/try": ["One of 200", "context-hour"],
    }
    for path, words in wanted.items():
        for word in words:
            assert word in views[path].text, f"{path} does not say {word}"
    assert re.search(r"(?!0\.00)\d+\.\d\d % of requests", views["/serving"].text)


def test_rules_of_the_gate_stand_with_value_and_limit(stand: Stand, views: dict[str, httpx.Response]) -> None:
    text = re.sub(r"\s+", " ", views["/release"].text)
    for rule in stand.outputs["metrics"]["gate"]:
        value = "\u2013" if rule["value"] is None else f"{rule['value']:.5g}"
        row = text.partition(f'<th scope="row">{rule["name"].replace("_", " ")}</th>')[2].partition("</tr>")[0]
        assert value in row
        assert f"{rule['limit']:.5g}" in row
        assert "passed" in row


def test_a_users_ranking_changes_with_the_hour_and_the_one_before_stands_beside_it(
    stand: Stand, page: httpx.Client
) -> None:
    morning = rank(page, user="u3", **{"context-hour": "2"})
    first = kept(morning)
    assert "Film «" in morning
    assert len(first) == 10
    evening = rank(page, user="u3", before=json.dumps(first), asked="user u3, hour 2", **{"context-hour": "22"})
    second = kept(evening)
    assert [item["id"] for item in second] != [item["id"] for item in first]
    assert "Now: user u3, hour 22" in evening
    assert "Before: user u3, hour 2" in evening
    assert re.search(r'class="moved">(up|down) \d|class="moved">new', evening)
    # The endpoint itself says the same of the best item.
    described = {item["id"]: item for item in Catalogue.of("movielens", stand.data).items}
    users = Catalogue.of("movielens", stand.data).users
    asked = {"user": {**users["u3"], "hour": 22}, "items": list(described.values()), "top": 1}
    best = stand.cloud.score(ENDPOINT, asked).json()["ranking"][0]
    assert (best["id"], best["probability"]) == (second[0]["id"], pytest.approx(second[0]["probability"]))


def test_missing_features_are_counted_by_the_replicas_themselves(page: httpx.Client) -> None:
    """Shares are of everything that the replicas were sent so far, other tests' rankings included."""

    def shares() -> dict[str, float]:
        found = re.findall(r'<th scope="row">(\w+)</th><td class="n">([\d.]+) %', page.get("/serving").text)
        return {name: float(share) for name, share in found}

    rank(page, user="u3", **{"context-hour": "2"})
    before = shares()
    rank(page, user="u3")
    after = shares()
    assert after["hour"] > before["hour"]
    assert after["item_id"] <= before["item_id"]


def test_without_scripts_the_form_answers_with_a_whole_page(page: httpx.Client) -> None:
    answer = page.post("/try", data={"user": "u3", "context-hour": "9"})
    assert "<!doctype html>" in answer.text
    assert "Now: user u3, hour 9" in answer.text


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"user": ""}, "choose a user; there are 200, such as u0"),
        ({"user": "nobody"}, "no user &#39;nobody&#39;"),
        ({"user": "u3", "context-hour": "noon"}, "hour is &#39;noon&#39;; it must be a whole number"),
    ],
)
def test_what_cannot_be_asked_is_told(form: dict[str, str], said: str, page: httpx.Client) -> None:
    assert said in rank(page, **form)


def test_without_tables_a_user_and_items_are_written(stand: Stand) -> None:
    with page_of(stand.subject(data=None)) as page:
        assert "open the page with <code>--data FOLDER</code>" in page.get("/try").text
        items = [{"id": "old", "year": 1950}, {"id": "new", "year": 1999}]
        evening = rank(page, user_json="{}", items_json=json.dumps(items), **{"context-hour": "23"})
        assert [item["id"] for item in kept(evening)] == ["new", "old"]
        assert "items is not JSON" in rank(page, user_json="{}", items_json="[")
        assert "the endpoint answered 400" in rank(page, user_json='{"shoe": 1}', items_json='[{"id": "1"}]')


def test_users_are_found_by_key_and_by_what_is_known_of_them(page: httpx.Client) -> None:
    assert next(iter(page.get("/users?q=u19").json()))["key"] == "u19"
    assert all("job3" in found["words"] for found in page.get("/users?q=job3").json())
    assert page.get("/users?q=nobody").json() == []


def test_a_key_never_reaches_the_browser(stand: Stand, page: httpx.Client, views: dict[str, httpx.Response]) -> None:
    secrets = [stand.cloud.key(ENDPOINT), stand.cloud.environment["ARM_CLIENT_SECRET"]]
    answers = [answer.text for answer in views.values()] + [page.get(path).text for path in ("/card", "/users")]
    answers.append(rank(page, user="u3"))
    assert not [secret for secret in secrets for text in answers if secret in text]


def test_nothing_may_be_loaded_from_elsewhere_and_the_card_may_only_be_looked_at(
    page: httpx.Client, views: dict[str, httpx.Response]
) -> None:
    for answer in views.values():
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        assert not re.findall(r'(?:src|href)="(?!/)[^"#]', answer.text)
    card = page.get("/card")
    assert card.text == CARD
    assert card.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_another_sites_name_and_another_sites_form_are_refused(page: httpx.Client) -> None:
    assert page.get("/", headers={"host": "evil.example"}).status_code == 400
    for origin in ("http://evil.example", "null"):
        answer = page.post("/try", data={"user": "u3"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "this page&#39;s own form" in answer.text


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/try"])
def test_views_take_no_other_method(path: str, page: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert page.request(method, path).status_code == 405


def test_a_refused_model_is_shown_with_the_rule_it_broke(stand: Stand) -> None:
    broken = stand.cloud.folder / "accounts" / "lake" / "models" / "run-10"
    broken.mkdir()
    rule = {"name": "auc", "value": 0.5, "limit": 0.65, "passed": False, "says": "AUC 0.5000 is below the floor"}
    (broken / "verdict.json").write_text(json.dumps({"passed": False, "rules": [rule]}))
    resources = [
        replace(it, id="run-10", outputs={"run_id": "run-10"}) if it.kind == "databricks:TrainingRun" else it
        for it in stand.resources
    ]
    with page_of(stand.subject(resources=lambda: resources)) as page:
        text = page.get("/release").text
    assert "refused: auc" in text
    assert "AUC 0.5000 is below the floor" in text
    assert f"of run {RUN}: the model of run run-10 was not registered" in text


def test_before_the_first_release_each_view_says_so(stand: Stand) -> None:
    with page_of(stand.subject(outputs=dict, resources=list)) as page:
        for path in PATHS:
            answer = page.get(path)
            assert answer.status_code == 200
            assert re.search("Not available|not reached", answer.text), path
        assert "no release stands in this stack" in rank(page, user="u3")


def test_a_stack_that_cannot_be_read_is_told_in_the_clis_words(stand: Stand) -> None:
    def fails() -> Any:
        raise UserError("stack prod cannot be read: no stack named 'prod' found")

    with page_of(stand.subject(outputs=fails, resources=fails)) as page:
        for path in PATHS:
            assert "no stack named &#39;prod&#39; found" in page.get(path).text
        assert "no stack named &#39;prod&#39; found" in page.get("/card").text


def test_a_mistake_of_the_pages_own_is_no_broken_page(stand: Stand) -> None:
    with page_of(stand.subject(outputs=lambda: 1 / 0)) as page:
        assert "by a mistake of the page&#39;s own" in page.get("/serving").text
        assert "by a mistake of the page&#39;s own" in rank(page, user="u3")
        assert "by a mistake of the page&#39;s own" in page.get("/card").text


def test_when_the_cloud_is_stopped_each_view_says_what_does_not_answer(stand: Stand, page: httpx.Client) -> None:
    rank(page, user="u3")  # the key is at hand
    stand.cloud.stop()
    try:
        for path in PATHS:
            answer = page.get(path)
            assert answer.status_code == 200
            if path != "/plan":  # what the stack told needs nobody
                assert f"{stand.cloud.url} does not answer" in answer.text, path
        said = rank(page, user="u3", before=json.dumps([{"id": "i1", "title": "Film", "probability": 0.5}]))
        assert "does not answer" in said
        assert "Start the stand again." in said
        assert kept(said)[0]["id"] == "i1"
    finally:
        stand.cloud.start()


# --- without the stand


def test_a_minutes_summaries_are_summed_and_old_ones_left_out() -> None:
    now = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)

    def line(minutes: int, **figures: Any) -> str:
        told = {"requests": 60, "errors": 0, "without_features": 0, "p99_ms": 3.0, **figures}
        written = {"time": (now - timedelta(minutes=minutes)).isoformat(), "message": "summary", **told}
        return f"2026-11-26T12:00:00Z stderr {json.dumps(written)}"

    lines = [line(1), line(2, errors=6, p99_ms=9.5), line(60, requests=9999), '{"message": "summary" cut', "serving"]
    found = serving.summed(serving.summaries(lines), now)
    assert found is not None
    assert (found.requests, found.errors, found.p99_ms, found.rate) == (120, 6, 9.5, 1.0)
    assert serving.summed(serving.summaries([line(60)]), now) is None


def test_what_is_in_trouble_gives_an_area_its_colour() -> None:
    def area(*standings: Standing) -> Area:
        return Area("Storage", [Thing("Account", "a", standing, "") for standing in standings])

    assert area(Standing.STANDS, Standing.GONE, Standing.RECORDED).standing is Standing.GONE
    assert area(Standing.STANDS, Standing.UNASKED).standing is Standing.UNASKED
    assert area(Standing.STANDS, Standing.RECORDED).standing is Standing.STANDS
    assert area(Standing.RECORDED).standing is Standing.RECORDED


@pytest.mark.parametrize("narrow", [False, True])
def test_boxes_of_the_drawing_never_overlap_and_stay_inside(narrow: bool) -> None:
    names = "Storage Databricks,Azure ML,Registry,AKS,Monitoring,Network,Access".replace(" D", ",D").split(",")
    areas = [Area(name, [Thing("Account", "a", Standing.STANDS, "")] * 2) for name in names]
    drawn = architecture.drawing(areas, narrow)
    assert {box.area.name for box in drawn.boxes} == set(names)
    for i, box in enumerate(drawn.boxes):
        assert box.x + box.width <= drawn.width
        assert box.y + box.height <= drawn.height
        for other in drawn.boxes[:i]:
            apart = abs(box.x - other.x) >= box.width or abs(box.y - other.y) >= box.height
            assert apart, f"{box.area.name} lies on {other.area.name}"


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"a": 1}', '[{"id": 1}]'])
def test_a_carried_ranking_that_is_not_ours_is_none(text: str) -> None:
    assert before_of(text) == []


def test_a_metrics_document_that_is_none_adds_nothing() -> None:
    assert serving._missing(["http://127.0.0.1:9/metrics"]) == {}
    with pytest.raises(ValueError, match=r"."):
        serving.count("<html> not metrics", {})


def test_who_is_told_the_address_may_call_before_the_page_is_served() -> None:
    with listen(None) as listener, socket.create_connection(listener.getsockname(), timeout=1):
        pass


def test_a_port_that_is_taken_is_told_with_what_would_do() -> None:
    with listen(None) as taken:
        host, port = taken.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had: .* Leave --port out"):
            listen(port)
