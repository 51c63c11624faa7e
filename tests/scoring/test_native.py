"""Tests of the service as a separate process with the native engine, over HTTP."""

import asyncio
import gzip
import io
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, soak
from scoring.artefact import ArtefactError, open_artefact
from scoring.contract import ContractError
from scoring.engines.native import NativeEngine
from testing.scoring import (
    Running,
    Toys,
    free_port,
    make_artefact,
    random_row,
    scoring_environment,
    serving,
    write_manifest,
)
from testing.waiting import eventually, eventually_in_loop

JSON = {"Content-Type": "application/json"}
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


@pytest.fixture(scope="module")
def service(toys: Toys) -> Iterator[Running]:
    with serving(scoring_environment(toys.folder.parent, SCORING_MAX_BYTES=MAX_BYTES)) as running:
        yield running


def begin_request(service: Running, length: int) -> socket.socket:
    """Send the head of a request, and return once the service reads its body (it answers 100 Continue)."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % length)
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    return connection


def refuses_connections(service: Running) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{service.port}/live", trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # accepted by the kernel, then reset by the closing listener
        return False
    return False


def ranked(service: Running, body: Any) -> list[dict[str, Any]]:
    response = service.score(body)
    assert response.status_code == 200, response.text
    return list(response.json()["ranking"])


def test_golden_rows_are_reproduced_to_the_last_bit(service: Running, toys: Toys) -> None:
    golden = [json.loads(line) for line in (toys.folder / "golden.jsonl").read_text().splitlines()]
    assert service.probabilities([line["row"] for line in golden]) == [line["probability"] for line in golden]


def test_batch_gives_the_same_probabilities_as_single_rows(service: Running) -> None:
    rng = random.Random(11)
    rows = [random_row(rng) for _ in range(200)]
    assert service.probabilities(rows) == [service.probabilities([row])[0] for row in rows]


levels = (
    st.sampled_from(["M", " F", "Drama", "Comédie ", "😀", "maker 3", "", " ", "\u0000", "\t", "unseen"]) | st.text()
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"hour": st.integers(0, 23)},
        optional={
            "age": st.none() | st.integers(-(2**40), 2**40),
            "price": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "gender": st.none() | levels,
            "genres": st.none() | st.lists(levels, max_size=5),
            "maker name": st.none() | levels,
        },
    )
)
def test_generated_rows_score_as_the_reference_does(service: Running, toys: Toys, row: dict[str, Any]) -> None:
    assert service.probabilities([row]) == [toys.probability(row)]


def test_ranking_holds_the_scores_in_descending_order(service: Running, toys: Toys) -> None:
    user = {"age": 30, "gender": "F", "hour": 20}
    items = [{"id": f"item {i}", "price": i / 3, "genres": ["Drama"] * (i % 3)} for i in range(60)]
    scored = {item["id"]: toys.probability({**user, **item}) for item in items}
    ranking = ranked(service, {"user": user, "items": items})
    assert {item["id"]: item["probability"] for item in ranking} == scored
    assert [item["id"] for item in ranking] == sorted(scored, key=lambda id_: -scored[id_])
    assert ranked(service, {"user": user, "items": items, "top": 7}) == ranking[:7]
    assert ranked(service, {"user": user, "items": items, "top": 1000}) == ranking


def test_context_features_in_user_change_the_ranking_and_are_validated(service: Running, toys: Toys) -> None:
    items = [{"id": i, "price": i / 3} for i in range(60)]
    rankings = {}
    for hour in (3, 20, None):
        rankings[hour] = ranked(service, {"user": {"age": 30, "hour": hour}, "items": items})
        scored = {item["id"]: toys.probability({"age": 30, "hour": hour, **item}) for item in items}
        assert {item["id"]: item["probability"] for item in rankings[hour]} == scored
    assert [item["id"] for item in rankings[3]] != [item["id"] for item in rankings[20]]
    assert rankings[None] == ranked(service, {"user": {"age": 30}, "items": items})
    refused = service.score({"user": {"age": 30, "hour": 24}, "items": items})
    problem = refused.json()
    assert (refused.status_code, problem["part"], problem["field"]) == (400, "user", "hour")


def test_ties_keep_the_order_of_the_request(service: Running) -> None:
    ids = ["b", 3, "a", "b", 1]
    ranking = ranked(service, {"user": {"hour": 1}, "items": [{"id": id_, "price": 2} for id_ in ids]})
    assert [item["id"] for item in ranking] == ids


def test_answers_name_the_model(service: Running) -> None:
    assert service.score({"rows": [{"age": 1}]}).json()["model"] == "toys:3"
    assert service.score({"user": {"age": 1}, "items": [{"id": 1}]}).json()["model"] == "toys:3"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["rows", "user", "items", "id", "age", "gender", "genres", "top"]), inner)
        ),
    ).map(lambda document: json.dumps(document).encode())
)
def test_generated_bodies_are_answered_or_refused(service: Running, body: bytes) -> None:
    response = service.client.post("/score", content=body, headers=JSON)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["reason"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        ({**JSON, "Content-Encoding": "br"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_only_json_is_read(service: Running, headers: dict[str, str], status: int) -> None:
    response = service.client.post("/score", content=b'{"rows": [{"age": 1}]}', headers=headers)
    assert response.status_code == status


def test_gzip_body_is_limited_after_inflation(service: Running) -> None:
    def post(body: bytes) -> httpx.Response:
        return service.client.post("/score", content=body, headers={**JSON, "Content-Encoding": "gzip"})

    body = b'{"rows": [{"age": 1}]}'
    assert post(gzip.compress(body)).status_code == 200
    assert post(gzip.compress(body + b" " * 50_000_000)).status_code == 413
    assert post(gzip.compress(body)[:-5]).status_code == 400
    assert post(gzip.compress(body) + b"x").status_code == 400
    assert post(body).status_code == 400


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 7 * MAX_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
def test_client_that_sends_a_too_large_body_receives_the_refusal(service: Running, size: int, chunked: bool) -> None:
    body = b'{"rows": [{"age": 1}]' + b" " * size + b"}"
    content = iter([body[: size // 2], body[size // 2 :]]) if chunked else body
    response = service.client.post("/score", content=content, headers=JSON)
    assert response.status_code == 413
    assert str(MAX_BYTES) in response.json()["reason"]


def test_router_that_is_still_sending_receives_the_refusal(service: Running) -> None:
    """The client of the sandbox's router: it reads an answer that is followed by a reset as a lost replica."""

    async def act() -> list[int]:
        statuses = []
        async with httpx.AsyncHTTPTransport() as router:
            for size in range(20, 32, 2):
                url = f"http://127.0.0.1:{service.port}/score"
                request = httpx.Request("POST", url, headers=JSON, content=b" " * size * 1024 * 1024)
                answer = await router.handle_async_request(request)
                await answer.aread()
                statuses.append(answer.status_code)
        return statuses

    assert asyncio.run(act()) == [413] * 6


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/score", 405),
        ("PUT", "/score", 405),
        ("GET", "/", 404),
        ("GET", "/live/", 404),
        ("POST", "/score/", 404),
    ],
)
def test_wrong_routes_are_answered_with_problems_and_counted(
    service: Running, method: str, path: str, status: int
) -> None:
    def counted() -> float:
        lines = service.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if f'status="{status}"' in line)

    before = counted()
    response = service.client.request(method, path)
    assert counted() == before + 1
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert status != 405 or response.headers["allow"] == "POST"


def test_health_metrics_and_contract_are_served(service: Running) -> None:
    service.probabilities([{"age": 1}])
    assert service.client.get("/live").status_code == 200
    assert service.client.get("/ready").json() == {"ready": True, "reason": None}
    metrics = service.client.get("/metrics").text
    assert 'scoring_ready{engine="native",model="toys:3"} 1.0' in metrics
    document = service.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    row = document["components"]["schemas"]["Row"]
    assert row["additionalProperties"] is False
    assert {"age", "maker name", "click"} <= set(row["properties"])
    assert "id" in document["components"]["schemas"]["Item"]["required"]


def test_requests_above_the_concurrency_limit_get_503_until_others_end(toys: Toys) -> None:
    """Two requests whose bodies never end reach the limit of two; both end with 408, and then requests are answered."""
    with serving(scoring_environment(toys.folder, SCORING_MAX_IN_FLIGHT=2, SCORING_BODY_SECONDS=2)) as service:
        stalled = [begin_request(service, 100) for _ in range(2)]
        response = service.score({"rows": [{"age": 1}]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        for connection in stalled:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert service.score({"rows": [{"age": 1}]}).status_code == 200


def test_generated_requests_are_answered_as_by_the_strict_reader(service: Running, toys: Toys) -> None:
    """A sample: `benchmarks/fuzz.py` sends fifty thousand requests."""
    result = fuzz.run(service.client, toys, 400, seed=3)
    assert not result.wrong
    assert {"200", "400", "406", "415"} <= set(result.outcomes)


def test_overloaded_service_sheds_load_answers_correctly_and_recovers(service: Running, toys: Toys) -> None:
    """Two hundred clients repeat their requests without a pause. Answers are correct; late requests get 503."""
    bodies, outcomes = soak.known_requests(toys, 80, range(5)), soak.Outcomes()
    asyncio.run(soak.as_fast_as_answered(service.port, 4000, 200, bodies, outcomes))
    assert set(outcomes.statuses) == {"200", "503"}
    assert outcomes.wrong == 0
    assert service.score({"rows": [{"age": 1}]}).status_code == 200


def test_new_clients_do_not_wait_for_the_connected_ones(service: Running, toys: Toys) -> None:
    async def act() -> float:
        bodies, earlier, crowd = soak.known_requests(toys, 80, range(5)), soak.Outcomes(), soak.Outcomes()
        others = asyncio.create_task(soak.as_fast_as_answered(service.port, 1000, 40, bodies, earlier))
        await eventually_in_loop(lambda: earlier.statuses)
        await soak.as_fast_as_answered(service.port, 200, 200, bodies, crowd)
        assert set(crowd.statuses) <= {"200", "503"}
        await others
        return max(max(seconds) for seconds in crowd.seconds.values())

    assert asyncio.run(act()) < 2


def test_sigterm_drains_and_lets_a_request_in_flight_finish(toys: Toys) -> None:
    body = b'{"rows": [{"age": 1}]}'
    # The body's time limit is longer than the drain and all that the test does in it.
    limits = {"SCORING_DRAIN_SECONDS": 2, "SCORING_BODY_SECONDS": 30, "SCORING_STOP_SECONDS": 30}
    with serving(scoring_environment(toys.folder, **limits)) as service:
        with begin_request(service, len(body)) as connection:
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: service.client.get("/ready").status_code == 503, seconds=2)
            assert service.score({"rows": [{"age": 1}]}).status_code == 200
            eventually(lambda: refuses_connections(service))
            connection.sendall(body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert service.process.wait(timeout=10) == 0


def test_logs_are_json_without_feature_values(toys: Toys, tmp_path: Path) -> None:
    port = free_port()
    environment = scoring_environment(toys.folder, SCORING_PORT=port)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "scoring"], env=environment, stderr=log)
    eventually((tmp_path / "log").read_text, lambda text: '"ready"' in text)
    for row in ({"gender": "s3cret"}, {"age": "s3cret"}, {"genres": "s3cret"}):
        httpx.post(f"http://127.0.0.1:{port}/score", json={"rows": [row]}, trust_env=False)
    process.terminate()
    process.wait(timeout=20)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    messages = [line["message"] for line in lines if line["message"] != "summary"]
    assert messages == ["listening", "ready", "refused", "refused", "stopped"]
    assert "s3cret" not in json.dumps(lines)


def run_to_end(environment: dict[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "scoring"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in ended.stderr
    return ended.returncode, str(json.loads(ended.stderr.splitlines()[-1])["message"])


@pytest.mark.parametrize("name", ["model.txt", "encoder.npz", "contract.json", "golden.jsonl"])
@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted"])
def test_damaged_artefact_is_refused_with_the_name_of_the_file(
    toys: Toys, tmp_path: Path, name: str, damage: str
) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    if damage == "changed":
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    else:
        (folder / name).unlink()
    if damage == "unlisted":
        write_manifest(folder)
    code, message = run_to_end(scoring_environment(folder, SCORING_PORT=free_port()))
    assert code == 1
    assert message.startswith(f"{name} ")


def bomb(size: int) -> bytes:
    file = io.BytesIO()
    numpy.savez_compressed(file, levels_0=numpy.zeros(size, numpy.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("encoder.npz", b"PK\x05\x06 no zip", "File is not a zip file"),
        ("encoder.npz", b"", "File is not a zip file"),
        ("encoder.npz", bomb(50_000_000), "more than 20 times its size"),
        ("contract.json", b"[" * 1_000_000, ""),
        ("contract.json", b'{"dataset": "\xff"}', "can't decode byte 0xff"),
        ("golden.jsonl", b"[" * 1_000_000, ""),
        ("lineage.json", b'{"trained_at": "\xff"}', ""),
        ("MANIFEST.json", b'{"files": {"\xff": ""}}', "can't decode byte 0xff"),
        ("MANIFEST.json", b"[" * 1_000_000, ""),
        ("MANIFEST.json", b" " * 65 * 1024 * 1024, "is over 67108864 bytes"),
    ],
)
def test_unreadable_file_is_refused_with_its_name(
    toys: Toys, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    (folder / name).write_bytes(content)
    if name != "MANIFEST.json":
        write_manifest(folder)
    with pytest.raises((ArtefactError, ContractError), match=f"^{name}.*{message}"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../toys/model.txt", "is not a path within the artefact"),
        ("/etc/hostname", "is not a path within the artefact"),
        ("model\0.txt", "is not a path within the artefact"),
        ("outside", "is a link that leads out of the artefact"),
        ("n" * 5000, "File name too long"),
        ("none", "missing"),
    ],
)
def test_manifest_cannot_name_files_outside_its_folder(toys: Toys, tmp_path: Path, name: str, message: str) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    (folder / "outside").symlink_to("/etc/hostname")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][name] = "0"
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=message) as caught:
        open_artefact(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("field", "place", "value", "message"),
    [
        ("left_child", 0, 0, "tree 0: child 0 of node 0 is neither a later node nor a leaf"),
        ("right_child", 5, 3, "tree 0: child 3 of node 5"),
        ("left_child", 2, 1_000_000, "tree 0: child 1000000 of node 2"),
        ("right_child", 1, -1_000_000, "tree 0: child -1000000 of node 1"),
        ("split_feature", 3, 99, "tree 0: a split is not on one of the 13 columns"),
        ("split_feature", 3, -1, "tree 0: a split is not on one of the 13 columns"),
        ("num_leaves", 0, 16, "do not fit"),
        ("num_leaves", 0, "many", "ValueError"),
    ],
)
def test_model_with_an_invalid_tree_is_refused(
    toys: Toys, tmp_path: Path, field: str, place: int, value: object, message: str
) -> None:
    """LightGBM loops forever on a cycle, and a bad index ends the process."""
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    lines = (folder / "model.txt").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{field}="))
    values = lines[at].partition("=")[2].split()
    values[place] = str(value)
    lines[at] = f"{field}={' '.join(values)}"
    (folder / "model.txt").write_text("\n".join(lines))
    write_manifest(folder)
    with pytest.raises(ArtefactError, match=f"^model.txt: .*{message}"):
        load(folder)


def load(folder: Path) -> None:
    artefact = open_artefact(folder)
    artefact.golden()
    artefact.trained_at()
    NativeEngine(artefact)


def test_service_ends_when_its_engine_blocks_the_interpreter_at_the_start(toys: Toys, tmp_path: Path) -> None:
    """A C library that never returns holds the interpreter lock, so no Python code could end the process."""
    program = (
        "import ctypes, sys; from scoring import __main__ as main; from scoring.engines.native import NativeEngine;"
        "NativeEngine.probabilities = lambda self, rows: ctypes.PyDLL(None).pause(); sys.exit(main.main())"
    )
    environment = scoring_environment(toys.folder, SCORING_PORT=free_port(), SCORING_WARM_UP_SECONDS=1)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "golden.py" in ended.stderr


def test_model_that_does_not_reproduce_its_golden_rows_is_refused(toys: Toys, tmp_path: Path) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    lines = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    lines[41]["probability"] += 2e-9
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(folder)
    code, message = run_to_end(scoring_environment(folder, SCORING_PORT=free_port()))
    assert code == 1
    assert "golden.jsonl row 41" in message


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("SCORING_PORT", "http", "an integer from 1 to 65535"),
        ("SCORING_PORT", "70000", "an integer from 1 to 65535"),
        ("SCORING_ENGINE", "onnx", "native or spark"),
        ("SCORING_MAX_ROWS", "0", "an integer from 1"),
        ("SCORING_BODY_SECONDS", "nan", "a number from"),
        ("MODEL_NAME", "a b", "letters"),
        ("AZUREML_MODEL_DIR", "", "folder"),
        ("SCORING_HOST", "256.0.0.1", "choose another"),
    ],
)
def test_wrong_setting_is_refused_with_its_name_and_rule(toys: Toys, setting: str, value: str, rule: str) -> None:
    environment = {**scoring_environment(toys.folder, SCORING_PORT=free_port()), setting: value}
    code, message = run_to_end(environment)
    assert code == 2
    assert setting in message
    assert rule in message


def test_port_in_use_is_refused_with_its_setting(service: Running, toys: Toys) -> None:
    code, message = run_to_end(scoring_environment(toys.folder, SCORING_PORT=service.port))
    assert code == 2
    assert f"SCORING_PORT={service.port}" in message


def test_model_folder_without_an_artefact_is_refused(tmp_path: Path) -> None:
    code, message = run_to_end(scoring_environment(tmp_path, SCORING_PORT=free_port()))
    assert code == 1
    assert "MANIFEST.json" in message


def test_native_engine_imports_neither_lightgbm_nor_data_frame_libraries(toys: Toys) -> None:
    program = (
        "import asyncio, pathlib, sys; from scoring.artefact import open_artefact;"
        "from scoring.engines.native import NativeEngine; import scoring.server;"
        "engine = NativeEngine(open_artefact(pathlib.Path(sys.argv[1])));"
        "print(sorted({'lightgbm', 'scipy', 'pandas', 'pyspark', 'sklearn'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(toys.folder)]
    ended = subprocess.run(command, env=scoring_environment(toys.folder), capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
