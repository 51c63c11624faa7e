"""Random requests to the service, checked by an independent reader: `benchmarks/fuzz.py [--requests 50000] [--seed 1]`.

Generates requests in the shape of the contract, most of them with an error: a value, a name, a byte, a header. An
answer is correct only if the strict reader in this file, which shares no code with the service, gives the same result:
the same probabilities to the last bit, or a refusal. Prints a Markdown table; exit code 1 if any answer was wrong.
"""

import argparse
import gzip
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from testing.scoring import FEATURES, Toys, make_artefact, random_row, scoring_environment, serving

SECONDS = 10.0
"""Time limit for an answer."""
ROWS, STRING, STRINGS = 1000, 1000, 100
LABEL = "click"
TYPES = {feature["name"]: feature["type"] for feature in FEATURES}
LIMITS = {feature["name"]: (feature["minimum"], feature["maximum"]) for feature in FEATURES if "minimum" in feature}
ITEM = [feature["name"] for feature in FEATURES if feature["side"] == "item"]
USER = [name for name in TYPES if name not in ITEM]
Row = dict[str, Any]


class Refused(Exception):
    """The strict reader refuses the request."""


@dataclass
class Sent:
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    status: int | None = None
    """Expected status if the headers alone determine it."""


def requests(rng: random.Random, count: int) -> Iterator[Sent]:
    for _ in range(count):
        document = _document(rng)
        for _ in range(rng.choice([0, 0, 1, 2])):
            _spoil(rng, document)
        text = json.dumps(
            document, ensure_ascii=rng.random() < 0.5, separators=rng.choice([(",", ":"), (" , ", "\n: ")])
        )
        if rng.random() < 0.15:
            text = _repeat_a_member(rng, text)
        body = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            body = _damage(rng, body)
        yield _dressed(rng, body)


def _document(rng: random.Random) -> Any:
    rows = [random_row(rng) for _ in range(rng.choice([1, 1, 2, 5]))]
    for row in rows:
        for name in rng.sample(list(row), rng.randint(0, 3)):
            del row[name]
    if rng.random() < 0.6:
        return {"rows": rows}
    items = [
        {"id": rng.choice([i, f"item {i}"]), **{n: row[n] for n in ITEM if n in row}} for i, row in enumerate(rows)
    ]
    document = {"user": {name: rows[0][name] for name in USER if name in rows[0]}, "items": items}
    return document | ({"top": rng.randint(1, 8)} if rng.random() < 0.5 else {})


def _odd(rng: random.Random) -> Any:
    huge: list[Any] = [2**53 + 1, -(2**63), 2**64, 10**30, 10**400, 1e308, -1e-320, 1.5, 3.0, -0.0, math.nan, -math.inf]
    other: list[Any] = [
        None,
        True,
        False,
        "",
        " ",
        "1",
        "null",
        "a:b",
        '": {',
        "\u0000",
        "é😀",
        "\ud800",
        [],
        {},
        [None],
    ]
    long: list[Any] = ["x" * (STRING + rng.randint(0, 1)), ["y"] * (STRINGS + rng.randint(0, 1)), {"a": {"a": 1}}]
    nested: Any = "end"
    for _ in range(rng.choice([3, 30])):
        nested = [nested]
    return rng.choice([*huge, *other, *long, nested, ["Drama", rng.choice(huge)], rng.random() * 100])


def _spoil(rng: random.Random, document: Any) -> None:
    """Put an unusual value or name somewhere; the request may still be valid."""
    objects: list[Any] = [document]
    for part in ("rows", "items"):
        objects += document[part] if isinstance(document.get(part), list) else []
    objects += [document["user"]] if isinstance(document.get("user"), dict) else []
    target = rng.choice(objects)
    if not isinstance(target, dict):
        return
    if rng.random() < 0.6 and target is not document:
        target[rng.choice([*TYPES, LABEL, "id"])] = _odd(rng)
    elif rng.random() < 0.5 and target:
        target[rng.choice(list(target))] = _odd(rng)
    else:
        target[rng.choice(["Age", "", "age ", "instances", "top", "rows", "gender\u0000"])] = _odd(rng)


def _repeat_a_member(rng: random.Random, text: str) -> str:
    places = [i for i, c in enumerate(text) if c == "{"]
    if not places:
        return text
    at = rng.choice(places) + 1
    return f'{text[:at]}"{rng.choice([*TYPES, "id", "rows", LABEL])}":{rng.choice(["1", "null", "[]"])},{text[at:]}'


def _damage(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body))
    piece = rng.choice(
        [b"", b"\x00", b"\xff", b'"', b"{", b"]", b",", b"0", b":", b"-", b"\\", b"\\u0061", b"NaN", b" "]
    )
    return rng.choice([body[:at], body[:at] + piece + body[at + 1 :], body[:at] + piece + body[at:], body + piece])


def _dressed(rng: random.Random, body: bytes) -> Sent:
    sent = Sent(body)
    chance = rng.random()
    if chance < 0.02:
        sent.headers["Content-Type"], sent.status = rng.choice(["text/plain", "application/xml", ""]), 415
    elif chance < 0.04:
        sent.headers["Accept"], sent.status = rng.choice(["text/html", "application/json;q=0", "image/*"]), 406
    elif chance < 0.06:
        sent.headers["Content-Encoding"], sent.status = rng.choice(["br", "deflate", "gzip, gzip"]), 415
    elif chance < 0.1:
        sent = Sent(gzip.compress(body), {**sent.headers, "Content-Encoding": "gzip"})
    elif chance < 0.12:
        cut = gzip.compress(body)[: -rng.randint(1, 12)]
        sent = Sent(cut, {**sent.headers, "Content-Encoding": "gzip"}, 400)
    elif chance < 0.14:
        sent.headers |= {"Accept": "text/html, */*;q=0.1", "Traceparent": rng.choice(["x", "00-" + "a" * 52])}
    return sent


def expected(sent: Sent, probability: Callable[[Row], float]) -> Any:
    """The strict reader's answer: probabilities, or (id, probability) pairs in descending order. Raises `Refused`."""
    body = gzip.decompress(sent.body) if sent.headers.get("Content-Encoding") == "gzip" else sent.body
    try:
        document = json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_refuse)
        json.dumps(document, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError):
        raise Refused from None
    if isinstance(document, dict) and set(document) == {"rows"} and _is_batch(document["rows"]):
        return [probability(_row(row, TYPES)) for row in _with_a_value(document["rows"], {})]
    _require(isinstance(document, dict) and {"user", "items"} <= set(document) <= {"user", "items", "top"})
    _require(_is_batch(document["items"]) and isinstance(document["user"], dict))
    user = _row(document["user"], USER)
    items = _with_a_value(document["items"], user)
    top = document.get("top", len(items))
    _require(_is_number(top) and top == int(top) and top >= 1)
    scored = []
    for item in items:
        id_ = item.pop("id", None)
        highest = {int: 2**63 - 1, float: 2**53}.get(type(id_), -1)
        whole = highest > 0 and id_ == id_ // 1 and -highest - isinstance(id_, int) <= id_ <= highest
        _require((isinstance(id_, str) and len(id_) <= STRING) or whole)
        scored.append((id_, probability({**user, **_row(item, ITEM)})))
    return sorted(scored, key=lambda pair: -pair[1])[: int(top)]


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    _require(len(members) == len(pairs))
    return members


def _refuse(_constant: str) -> None:
    raise Refused


def _require(holds: bool) -> None:
    if not holds:
        raise Refused


def _is_batch(rows: Any) -> bool:
    return isinstance(rows, list) and 1 <= len(rows) <= ROWS and all(isinstance(row, dict) for row in rows)


def _with_a_value(rows: list[Row], user: Row) -> list[Row]:
    for row in rows:
        _require(any(value is not None for name, value in {**user, **row}.items() if name in TYPES))
    return rows


def _row(row: Row, names: Any) -> Row:
    for name, value in row.items():
        _require(name in names or name == LABEL)
        _require(value is None or (_is_a_label(value) if name == LABEL else _is_a(TYPES[name], value)))
        if name in LIMITS and value is not None:
            _require(LIMITS[name][0] <= value <= LIMITS[name][1])
    return {name: value for name, value in row.items() if name != LABEL}


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(float(value))
    except OverflowError:
        return False


def _is_a_label(value: Any) -> bool:
    return isinstance(value, bool) or _is_a("string", value) or _is_number(value)


def _is_a(kind: str, value: Any) -> bool:
    if kind == "strings":
        return isinstance(value, list) and len(value) <= STRINGS and all(_is_a("string", level) for level in value)
    if kind == "string":
        return isinstance(value, str) and len(value) <= STRING
    return _is_number(value) and (kind == "number" or float(value).is_integer())


@dataclass
class FuzzResult:
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of answers by status."""
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds until the slowest answer."""


def run(client: httpx.Client, toys: Toys, count: int, seed: int) -> FuzzResult:
    result = FuzzResult()
    for number, sent in enumerate(requests(random.Random(seed), count)):
        started = time.perf_counter()
        try:
            response = client.post("/score", content=sent.body, headers=sent.headers, timeout=SECONDS)
        except httpx.HTTPError as error:
            result.wrong.append(f"request {number}: {error!r}")
            continue
        result.slowest = max(result.slowest, time.perf_counter() - started)
        result.outcomes[str(response.status_code)] += 1
        if fault := _fault(sent, response, toys):
            result.wrong.append(f"request {number}: {fault}; sent {sent.body[:300]!r} got {response.text[:300]}")
    return result


def _fault(sent: Sent, response: httpx.Response, toys: Toys) -> str | None:
    status, answer = response.status_code, response.json()
    if status != 200 and response.headers["content-type"] != "application/problem+json":
        return "an error without a problem document"
    if sent.status is not None:
        return None if status == sent.status else f"status {status}, not {sent.status}"
    try:
        right = expected(sent, toys.probability)
    except Refused:
        return None if status == 400 else f"status {status} for an invalid request"
    if status != 200:
        return f"status {status} for a valid request"
    ranking = answer.get("ranking")
    given = answer.get("probabilities") if ranking is None else [(item["id"], item["probability"]) for item in ranking]
    return None if given == right else f"the answer differs from {right}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        toys = make_artefact(Path(folder) / "toys")
        with (Path(folder) / "log").open("w") as log, serving(scoring_environment(toys.folder), log=log) as service:
            started = time.monotonic()
            result = run(service.client, toys, arguments.requests, arguments.seed)
    print(f"| {arguments.requests:,} requests, seed {arguments.seed} | |\n| --- | --- |")
    for status, times in sorted(result.outcomes.items()):
        print(f"| status {status} | {times:,} |")
    print(f"| slowest answer | {result.slowest * 1000:.0f} ms |\n| total time | {time.monotonic() - started:.0f} s |")
    print(f"| wrong | {len(result.wrong)} (bar 0) |")
    print(*result.wrong[:10], sep="\n", file=sys.stderr)
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
