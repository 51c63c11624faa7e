"""The service as its users meet it: a process of its own, the native engine, real HTTP."""

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
import time
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
from testing.waiting import eventually

JSON = {"Content-Type": "application/json"}
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return make_artefact(tmp_path_factory.mktemp("scoring") / "toys")


@pytest.fixture(scope="module")
def service(toys: Toys) -> Iterator[Running]:
    with serving(scoring_environment(toys.folder.parent, SCORING_MAX_BYTES=MAX_BYTES)) as running:
        yield running


def ranked(service: Running, body: Any) -> list[dict[str, Any]]:
    response = service.score(body)
    assert response.status_code == 200, response.text
    return list(response.json()["ranking"])


def test_golden_rows_come_back_to_the_last_bit(service: Running, toys: Toys) -> None:
    golden = [json.loads(line) for line in (toys.folder / "golden.jsonl").read_text().splitlines()]
    assert service.probabilities([line["row"] for line in golden]) == [line["probability"] for line in golden]


def test_a_batch_answers_as_its_single_rows_do(service: Running) -> None:
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
def test_any_row_scores_as_the_plain_reference_does(service: Running, toys: Toys, row: dict[str, Any]) -> None:
    assert service.probabilities([row]) == [toys.probability(row)]


def test_a_ranking_is_the_scores_best_first(service: Running, toys: Toys) -> None:
    user = {"age": 30, "gender": "F", "hour": 20}
    items = [{"id": f"item {i}", "price": i / 3, "genres": ["Drama"] * (i % 3)} for i in range(60)]
    scored = {item["id"]: toys.probability({**user, **item}) for item in items}
    ranking = ranked(service, {"user": user, "items": items})
    assert {item["id"]: item["probability"] for item in ranking} == scored
    assert [item["id"] for item in ranking] == sorted(scored, key=lambda id_: -scored[id_])
    assert ranked(service, {"user": user, "items": items, "top": 7}) == ranking[:7]
    assert ranked(service, {"user": user, "items": items, "top": 1000}) == ranking


def test_another_hour_is_another_ranking(service: Running, toys: Toys) -> None:
    """The context of a request rides with its user, and is within its limits."""
    items = [{"id": i, "price": i / 3} for i in range(60)]
    found = {}
    for hour in (3, 20, None):
        found[hour] = ranked(service, {"user": {"age": 30, "hour": hour}, "items": items})
        scored = {item["id"]: toys.probability({"age": 30, "hour": hour, **item}) for item in items}
        assert {item["id"]: item["probability"] for item in found[hour]} == scored
    assert [item["id"] for item in found[3]] != [item["id"] for item in found[20]]
    assert found[None] == ranked(service, {"user": {"age": 30}, "items": items})
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
def test_no_body_makes_the_service_fail(service: Running, body: bytes) -> None:
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


def test_a_gzip_body_is_read_within_the_limit_after_inflation(service: Running) -> None:
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
def test_a_body_over_the_limit_is_refused_and_the_refusal_arrives(service: Running, size: int, chunked: bool) -> None:
    body = b'{"rows": [{"age": 1}]' + b" " * size + b"}"
    content = iter([body[: size // 2], body[size // 2 :]]) if chunked else body
    response = service.client.post("/score", content=content, headers=JSON)
    assert response.status_code == 413
    assert str(MAX_BYTES) in response.json()["reason"]


def test_a_refusal_reaches_a_router_that_still_sends(service: Running) -> None:
    """The sandbox's own, whose client took an answer that was followed by a reset for a lost replica."""

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
def test_wrong_routes_are_problems_too_and_counted(service: Running, method: str, path: str, status: int) -> None:
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


def test_more_requests_than_admitted_are_told_to_come_back(toys: Toys) -> None:
    """Two bodies that never end fill both places; a third request is turned away at once, and the places come free."""
    with serving(scoring_environment(toys.folder, SCORING_MAX_IN_FLIGHT=2, SCORING_BODY_SECONDS=1)) as service:
        stalled = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        for connection in stalled:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        response = service.score({"rows": [{"age": 1}]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        for connection in stalled:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert service.score({"rows": [{"age": 1}]}).status_code == 200


def test_generated_requests_are_answered_as_a_plain_reader_says(service: Running, toys: Toys) -> None:
    """`benchmarks/fuzz.py` sends fifty thousand."""
    found = fuzz.run(service.client, toys, 400, seed=3)
    assert not found.wrong
    assert {"200", "400", "406", "415"} <= set(found.outcomes)


def test_an_overloaded_service_answers_some_refuses_the_rest_and_recovers(service: Running, toys: Toys) -> None:
    """Two hundred clients who ask again at once: what waits too long is told so, what is answered is right."""
    bodies, outcomes = soak.asked(toys, 80, range(5)), soak.Seen()
    asyncio.run(soak.as_fast_as_answered(service.port, 4000, 200, bodies, outcomes))
    assert set(outcomes.statuses) == {"200", "503"}
    assert outcomes.wrong == 0
    assert service.score({"rows": [{"age": 1}]}).status_code == 200


def test_a_crowd_of_new_clients_does_not_wait_behind_the_ones_that_are_served(service: Running, toys: Toys) -> None:
    async def act() -> float:
        bodies, crowd = soak.asked(toys, 80, range(5)), soak.Seen()
        others = asyncio.create_task(soak.as_fast_as_answered(service.port, 1000, 40, bodies, soak.Seen()))
        await asyncio.sleep(0.2)
        await soak.as_fast_as_answered(service.port, 200, 200, bodies, crowd)
        assert set(crowd.statuses) <= {"200", "503"}
        await others
        return max(max(seconds) for seconds in crowd.seconds.values())

    assert asyncio.run(act()) < 2


def test_sigterm_lets_a_request_in_flight_finish(toys: Toys) -> None:
    body = b'{"rows": [{"age": 1}]}'
    with serving(scoring_environment(toys.folder, SCORING_DRAIN_SECONDS=0.5)) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body))
            time.sleep(0.2)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert service.client.get("/ready").status_code == 503
            assert service.score({"rows": [{"age": 1}]}).status_code == 200
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{service.port}/live", trust_env=False)
            connection.sendall(body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert service.process.wait(timeout=10) == 0


def test_logs_are_json_and_hold_no_feature_value(toys: Toys, tmp_path: Path) -> None:
    port = free_port()
    environment = scoring_environment(toys.folder, SCORING_PORT=port)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "scoring"], env=environment, stderr=log)
    eventually((tmp_path / "log").read_text, lambda told: '"ready"' in told)
    for row in ({"gender": "s3cret"}, {"age": "s3cret"}, {"genres": "s3cret"}):
        httpx.post(f"http://127.0.0.1:{port}/score", json={"rows": [row]}, trust_env=False)
    process.terminate()
    process.wait(timeout=20)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = [line["message"] for line in lines if line["message"] != "summary"]
    assert told == ["listening", "ready", "refused", "refused", "stopped"]
    assert "s3cret" not in json.dumps(lines)


def run_to_end(environment: dict[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "scoring"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in ended.stderr
    return ended.returncode, str(json.loads(ended.stderr.splitlines()[-1])["message"])


@pytest.mark.parametrize("name", ["model.txt", "encoder.npz", "contract.json", "golden.jsonl"])
@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted"])
def test_a_damaged_artefact_is_refused_by_name(toys: Toys, tmp_path: Path, name: str, damage: str) -> None:
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
    ("name", "content", "says"),
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
def test_a_file_that_cannot_be_read_is_named(toys: Toys, tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    (folder / name).write_bytes(content)
    if name != "MANIFEST.json":
        write_manifest(folder)
    with pytest.raises((ArtefactError, ContractError), match=f"^{name}.*{says}"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../toys/model.txt", "is not a path within the artefact"),
        ("/etc/hostname", "is not a path within the artefact"),
        ("model\0.txt", "is not a path within the artefact"),
        ("outside", "is a link that leads out of the artefact"),
        ("n" * 5000, "File name too long"),
        ("none", "missing"),
    ],
)
def test_a_manifest_reaches_nothing_outside_its_folder(toys: Toys, tmp_path: Path, name: str, says: str) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    (folder / "outside").symlink_to("/etc/hostname")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][name] = "0"
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=says) as caught:
        open_artefact(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("field", "place", "value", "says"),
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
def test_a_model_whose_trees_are_none_is_refused(
    toys: Toys, tmp_path: Path, field: str, place: int, value: object, says: str
) -> None:
    """LightGBM would follow a circle for ever, and end the process at a bad index."""
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    lines = (folder / "model.txt").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{field}="))
    values = lines[at].partition("=")[2].split()
    values[place] = str(value)
    lines[at] = f"{field}={' '.join(values)}"
    (folder / "model.txt").write_text("\n".join(lines))
    write_manifest(folder)
    with pytest.raises(ArtefactError, match=f"^model.txt: .*{says}"):
        load(folder)


def load(folder: Path) -> None:
    artefact = open_artefact(folder)
    artefact.golden()
    artefact.trained_at()
    NativeEngine(artefact)


def test_an_engine_that_never_comes_back_ends_the_service(toys: Toys, tmp_path: Path) -> None:
    """Not even an interpreter that is held by a C library for ever keeps a replica starting for ever."""
    program = (
        "import ctypes, sys; from scoring import __main__ as main; from scoring.engines.native import NativeEngine;"
        "NativeEngine.probabilities = lambda self, rows: ctypes.PyDLL(None).pause(); sys.exit(main.main())"
    )
    environment = scoring_environment(toys.folder, SCORING_PORT=free_port(), SCORING_WARM_UP_SECONDS=1)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "golden.py" in ended.stderr


def test_a_model_that_does_not_reproduce_its_golden_rows_never_serves(toys: Toys, tmp_path: Path) -> None:
    folder = shutil.copytree(toys.folder, tmp_path / "toys")
    lines = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    lines[41]["probability"] += 2e-9
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(folder)
    code, message = run_to_end(scoring_environment(folder, SCORING_PORT=free_port()))
    assert code == 1
    assert "golden.jsonl row 41" in message


@pytest.mark.parametrize(
    ("setting", "value", "says"),
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
def test_a_wrong_setting_is_named_with_what_would_do(toys: Toys, setting: str, value: str, says: str) -> None:
    environment = {**scoring_environment(toys.folder, SCORING_PORT=free_port()), setting: value}
    code, message = run_to_end(environment)
    assert code == 2
    assert setting in message
    assert says in message


def test_a_taken_port_is_said_plainly(service: Running, toys: Toys) -> None:
    code, message = run_to_end(scoring_environment(toys.folder, SCORING_PORT=service.port))
    assert code == 2
    assert f"SCORING_PORT={service.port}" in message


def test_a_model_folder_without_an_artefact_is_refused(tmp_path: Path) -> None:
    code, message = run_to_end(scoring_environment(tmp_path, SCORING_PORT=free_port()))
    assert code == 1
    assert "MANIFEST.json" in message


def test_the_native_engine_loads_neither_lightgbm_nor_a_data_frame(toys: Toys) -> None:
    program = (
        "import asyncio, pathlib, sys; from scoring.artefact import open_artefact;"
        "from scoring.engines.native import NativeEngine; import scoring.server;"
        "engine = NativeEngine(open_artefact(pathlib.Path(sys.argv[1])));"
        "print(sorted({'lightgbm', 'scipy', 'pandas', 'pyspark', 'sklearn'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(toys.folder)]
    ended = subprocess.run(command, env=scoring_environment(toys.folder), capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
