"""Tests of the request parser: every invalid row is refused, with its position and the reason."""

import asyncio
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.artefact import open_artefact
from scoring.contract import ContractError, read_contract
from scoring.engines.native import NativeEngine
from scoring.http.negotiation import accepts_json
from scoring.http.parsing import RequestParser
from scoring.http.problems import Problem
from scoring.logs import trace_id
from scoring.settings import Limits
from testing.scoring import FEATURES, Row, contract, make_artefact

MAX_ROWS = 50
LIMITS = Limits(rows=MAX_ROWS, string=60, strings=8)
PARSER = RequestParser(read_contract(json.dumps(contract()).encode()), LIMITS)
NAMES = [feature["name"] for feature in FEATURES]

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=20)
GOOD = {
    "integer": st.integers(-(2**70), 2**70) | st.integers(-1000, 1000).map(float) | st.none(),
    "number": finite | st.integers(-(2**70), 2**70) | st.none(),
    "string": text | st.none(),
    "strings": st.lists(text, max_size=4) | st.none(),
    "hour": st.integers(0, 23) | st.integers(0, 23).map(float) | st.none(),
}
BAD = {
    "integer": text | st.booleans() | finite.filter(lambda value: value != int(value)) | st.just({}),
    "number": text | st.booleans() | st.lists(finite) | st.just(10**400),
    "string": finite | st.integers() | st.booleans() | st.lists(text),
    "strings": text | finite | st.lists(st.integers() | st.none(), min_size=1) | st.dictionaries(text, text),
    "hour": st.integers(24) | st.integers(max_value=-1) | st.just(3.5) | text,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | text, inner, max_size=4),
    max_leaves=15,
)


@st.composite
def rows_with_faults(draw: st.DrawFn) -> tuple[list[Row], set[tuple[int, str]]]:
    """Rows, and the (row, field) of every value that must be refused."""
    rows: list[Row] = []
    faults = set()
    for number in range(draw(st.integers(1, 4))):
        row: Row = {"hour": 1}
        for feature in FEATURES:
            choice = draw(st.sampled_from(["absent", "good", "good", "good", "bad"]))
            if choice != "absent":
                kind = "hour" if feature["name"] == "hour" else feature["type"]
                row[feature["name"]] = draw((GOOD if choice == "good" else BAD)[kind])
            if choice == "bad":
                faults.add((number, feature["name"]))
        if draw(st.integers(0, 9)) == 0:
            unknown = draw(text.filter(lambda name: name not in (*NAMES, "click")))
            row[unknown] = draw(json_values)
            faults.add((number, unknown))
        rows.append(row)
    return rows, faults


def refused(body: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        PARSER.parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def outcome(body: bytes) -> Any:
    """The parsed request, or the status of the refusal. Any other exception is an error of the parser."""
    try:
        return PARSER.parse(body)
    except Problem as problem:
        return problem.status


@given(rows_with_faults())
def test_invalid_rows_are_refused_with_row_and_field(drawn: tuple[list[Row], set[tuple[int, str]]]) -> None:
    rows, faults = drawn
    if faults:
        problem = refused({"rows": rows})
        assert problem.status == 400
        assert (problem.row, problem.field) in faults
    elif all(any(value is not None for value in row.values()) for row in rows):
        assert outcome(json.dumps({"rows": rows}).encode()).rows == [
            tuple(float(value) if isinstance(value := row.get(name), int) else value for name in NAMES) for row in rows
        ]


@given(json_values | st.builds(lambda rows: {"rows": rows}, st.lists(json_values, max_size=3)))
def test_generated_json_is_parsed_or_refused(document: Any) -> None:
    answer = outcome(json.dumps(document).encode())
    assert answer == 400 or all(row.count(None) < len(NAMES) for row in answer.rows)


@given(st.binary(max_size=60))
def test_generated_bytes_are_parsed_or_refused(body: bytes) -> None:
    for content in (body, b'{"rows": [{"gender": "' + body + b'"}]}', b'{"rows": [' + body + b"]}"):
        assert outcome(content) is not None


@given(st.integers(-(2**53), 2**53))
def test_integer_may_be_written_with_a_decimal_point(value: int) -> None:
    bodies = [b'{"rows": [{"age": %s}]}' % form.encode() for form in (f"{value}", f"{value}.0", f"{value}.000")]
    assert len({tuple(PARSER.parse(body).rows) for body in bodies}) == 1


@given(st.permutations(NAMES))
def test_order_of_keys_does_not_matter(names: list[str]) -> None:
    values = {"age": 3, "gender": "F", "hour": 4, "price": 2.5, "genres": ["a", "b"], "maker name": "m"}
    body = json.dumps({"rows": [{name: values[name] for name in names}]}).encode()
    assert PARSER.parse(body).rows == [(3.0, "F", 4.0, 2.5, ["a", "b"], "m")]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400])
def test_number_that_is_not_finite_is_refused_with_its_field(number: str) -> None:
    problem = refused(b'{"rows": [{"price": 1}, {"price": %s}]}' % number.encode())
    assert (problem.status, problem.part, problem.row, problem.field) == (400, "rows", 1, "price")
    assert "finite" in problem.reason


@pytest.mark.parametrize(
    ("body", "place", "reason"),
    [
        ({"rows": []}, ("rows", None, None), "at least one row"),
        ({"user": {"age": 1}, "items": []}, ("items", None, None), "at least one item"),
        ({"rows": [{"age": 1}, {}]}, ("rows", 1, None), "no feature has a value"),
        ({"rows": [{"age": None}]}, ("rows", 0, None), "no feature has a value"),
        ({"rows": [{"click": 1}]}, ("rows", 0, None), "no feature has a value"),
        ({"rows": [{"age": 1.5}]}, ("rows", 0, "age"), "fraction"),
        ({"rows": [{"age": True}]}, ("rows", 0, "age"), "boolean"),
        ({"rows": [{"hour": 24}]}, ("rows", 0, "hour"), "at most 23"),
        ({"user": {"hour": -1}, "items": [{"id": 1}]}, ("user", None, "hour"), "at least 0"),
        ({"rows": [{"gender": 5}]}, ("rows", 0, "gender"), "got integer"),
        ({"rows": [{"genres": ["a", None]}]}, ("rows", 0, "genres"), "element 1"),
        ({"rows": [{"gender": "x" * 61}]}, ("rows", 0, "gender"), "at most 60 characters"),
        ({"rows": [{"genres": ["a", "x" * 61]}]}, ("rows", 0, "genres"), "element 1: must be at most 60 characters"),
        ({"rows": [{"genres": ["a"] * 9}]}, ("rows", 0, "genres"), "at most 8 strings"),
        ({"user": {"age": 1}, "items": [{"id": "x" * 61}]}, ("items", 0, "id"), "at most 60 characters"),
        ({"user": {"age": 1}, "items": [{"id": 2**63}]}, ("items", 0, "id"), "at most 9223372036854775807"),
        ({"rows": [{"Age": 1}]}, ("rows", 0, "Age"), "known are age, gender, hour, price, genres, maker name"),
        ({"rows": [5]}, ("rows", 0, None), "Expected object"),
        ({"rows": {"age": 1}}, ("rows", None, None), "Expected array"),
        ({"user": {"sex": 1}, "items": [{"id": 1}]}, ("user", None, "sex"), "known are age, gender, hour"),
        ({"user": {}, "items": [{"id": 1, "tag": 1}]}, ("items", 0, "tag"), "known are price, genres, maker name"),
        ({"rows": [{"click": {"a": 1}}]}, ("rows", 0, "click"), "Expected number, string, boolean or null, got object"),
        ({"user": {"price": 1}, "items": [{"id": 1}]}, ("user", None, "price"), "with each item"),
        ({"user": {}, "items": [{"id": 1, "hour": 1}]}, ("items", 0, "hour"), "send it in user"),
        ({"user": {"age": 1}, "items": [{"price": 1}]}, ("items", 0, None), "id"),
        ({"user": {"age": 1}, "items": [{"id": 1.5}]}, ("items", 0, "id"), "fraction"),
        ({"user": {"age": 1}, "items": [{"id": None}]}, ("items", 0, "id"), "string or integer"),
        ({"user": {}, "items": [{"id": 1}]}, ("items", 0, None), "no feature has a value"),
        ({"user": {"age": 1}, "items": [{"id": 1}], "top": 0}, ("top", None, None), "must be at least 1"),
        ({"user": {"age": 1}}, (None, None, None), "to rank"),
        ({"rows": [{"age": 1}], "user": {}}, (None, None, None), "not both"),
        ({"rows": [{"age": 1}], "top": 1}, (None, None, None), "not both"),
        ({"instances": []}, (None, None, "instances"), "unknown member"),
        ([], (None, None, None), "Expected object"),
    ],
)
def test_refusal_holds_the_position_and_the_reason(body: Any, place: tuple[Any, ...], reason: str) -> None:
    problem = refused(body)
    assert problem.status == 400
    assert (problem.part, problem.row, problem.field) == place
    assert reason in problem.reason


@pytest.mark.parametrize("part", ["rows", "items"])
def test_too_many_rows_are_refused_with_413(part: str) -> None:
    many = [{"id": i, "price": i} if part == "items" else {"price": i} for i in range(MAX_ROWS + 1)]
    problem = refused({part: many, **({"user": {}} if part == "items" else {})})
    assert (problem.status, problem.part) == (413, part)
    assert str(MAX_ROWS) in problem.reason


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"rows": [{"age": 1}], "rows": [{"age": 2}]}', (None, None, "rows")),
        ('{"rows": [{"age": 1}, {"hour": 1, "age": 1, "age": 1}]}', ("rows", 1, "age")),
        ('{"rows": [{"age": 1, "age": null}]}', ("rows", 0, "age")),
        ('{"rows": [{"age": null, "price": 1, "age": 1}]}', ("rows", 0, "age")),
        ('{"rows": [{"age": 1, "\\u0061ge" : 2}]}', ("rows", 0, "age")),
        ('{"rows": [{"age":1, "age"\n\t\r :2}]}', ("rows", 0, "age")),
        ('{"rows": [{"gender": "a:b \\": c", "age": 1, "age": 1}]}', ("rows", 0, "age")),
        ('{"rows": [{"age": 1, "click": 0, "click": 1}]}', ("rows", 0, "click")),
        ('{"user": {"age": 1, "age": 2}, "items": [{"id": 1}]}', ("user", None, "age")),
        ('{"user": {"age": 1}, "items": [{"id": 1}, {"id": 1, "id": 2}]}', ("items", 1, "id")),
        ('{"user": {"age": 1}, "items": [{"id": 1}], "top": 1, "top": 2}', (None, None, "top")),
    ],
)
def test_duplicate_json_keys_are_rejected(body: str, place: tuple[Any, ...]) -> None:
    problem = refused(body.encode())
    assert (problem.part, problem.row, problem.field) == place
    assert "twice" in problem.reason


tricky = st.text(st.sampled_from('a:" \\\n{}[],'), max_size=12)
white = st.text(st.sampled_from(" \t\n\r"), max_size=2)


@given(tricky, st.lists(tricky, max_size=3), tricky, st.booleans(), white, white, white)
def test_text_with_colons_and_quotes_is_not_taken_for_a_duplicate_key(
    gender: str, genres: list[str], label: str, twice: bool, before: str, after: str, end: str
) -> None:
    """Strings may hold any text, and white space may surround colons."""
    row = {"gender": gender, "genres": genres, "age": 1, "click": label}
    if any(level == "" for level in (gender, *genres)):
        row["hour"] = 2
    members = [*row.items(), *([("age", 1)] if twice else [])]
    written = ",".join(f"{json.dumps(name)}{before}:{after}{json.dumps(value)}" for name, value in members)
    answer = outcome(f'{{"rows"{after}:[{{{written}}}{end}]}}'.encode())
    assert answer == 400 if twice else answer.rows[0][:2] == (1.0, gender)


def test_lists_of_a_cross_have_one_limit_for_their_combinations() -> None:
    """Each list is within its limit, but the number of combinations could be the square of the limit."""
    lists = [{"name": name, "type": "strings", "side": "item"} for name in ("a", "b")]
    encoder = {"categoricals": [], "missing_level": "", "width": 2, "crosses": [{"name": "ab", "of": ["a", "b"]}]}
    of_lists = {**contract(), "features": lists, "model_columns": [], "encoder": encoder}
    parser = RequestParser(read_contract(json.dumps(of_lists).encode()), LIMITS)
    assert parser.parse(json.dumps({"rows": [{"a": ["x"] * 4, "b": ["y"] * 2}, {"a": ["x"] * 8}]}).encode()).rows
    with pytest.raises(Problem, match="9 combinations; the limit is 8") as caught:
        parser.parse(json.dumps({"rows": [{"a": ["x"]}, {"a": ["x"] * 3, "b": ["y"] * 3}]}).encode())
    assert (caught.value.row, caught.value.field) == (1, "ab")


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("*/*", True),
        ("application/json", True),
        ("Application/JSON;q=0.1, text/html", True),
        ("application/*", True),
        ("text/html, */*;q=0.1", True),
        ("text/html", False),
        ("text/*, application/xml", False),
        ("*/*, application/json;q=0", False),
        ("*/*;q=0", False),
        ("application/*;q=0, application/json", True),
        ("", False),
    ],
)
def test_accept_header_is_read_as_in_rfc_9110(accept: str, taken: bool) -> None:
    assert accepts_json(accept.encode()) is taken


def test_long_accept_headers_are_not_cached() -> None:
    tracemalloc.start()
    try:
        for number in range(300):
            assert accepts_json(b"*/*, text/%d-%s" % (number, b"x" * 60_000))
        assert tracemalloc.get_traced_memory()[0] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", "ab" * 16),
        (f"01-{'ab' * 16}-{'cd' * 8}-01-what-comes-later", "ab" * 16),
        (f"01-{'ab' * 16}-{'cd' * 8}-01-{'x' * 60_000}", None),
        (f"ff-{'ab' * 16}-{'cd' * 8}-01", None),
        (f"00-{'00' * 16}-{'cd' * 8}-01", None),
        (f"00-{'ab' * 16}-{'00' * 8}-01", None),
        (f"00-{'AB' * 16}-{'cd' * 8}-01", None),
        ("", None),
    ],
)
def test_malformed_trace_context_is_ignored(header: str, trace: str | None) -> None:
    assert trace_id(header.encode()) == trace


@pytest.mark.parametrize("before", [b'{"rows": [{"click": ', b'{"rows": NaN, "x": ', b'{"x": '])
def test_deeply_nested_body_is_refused(before: bytes) -> None:
    assert refused(before + b"[" * 100_000 + b"]" * 100_000 + b"}]}").status == 400


@pytest.mark.parametrize("label", ["1", "0.5", '"yes"', "true", "null"])
def test_label_of_any_type_is_ignored(label: str) -> None:
    with_label = PARSER.parse(f'{{"rows": [{{"age": 1, "click": {label}}}]}}'.encode()).rows
    assert with_label == PARSER.parse(b'{"rows": [{"age": 1}]}').rows


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"rows": [{"gender": "ab\\ud83d"}]}', "half of a surrogate pair at position 24 of the body"),
        (b'{"rows": [{"gender": "\\\\\\ude00\\ud83d\\ude00"}]}', "half of a surrogate pair at position 24 of the body"),
        (b'{"rows": [{"gender": "\\ud83d\\u0041"}]}', "half of a surrogate pair at position 22 of the body"),
        (b'{"rows": [{"gender": "ab\xff"}]}', "byte 0xff at position 24 of the body"),
        (b'\xef\xbb\xbf{"rows": [{"age": 1}]}', "byte order mark"),
        ('{"rows": [{"age": 1}]}'.encode("utf-16"), "the body is UTF-16; send UTF-8"),
        (b'{"rows": [{"gender": "\\ud83d\\ude00"}', "truncated"),
    ],
)
def test_body_that_is_not_utf_8_text_is_refused_with_the_position(body: bytes, reason: str) -> None:
    assert reason in refused(body).reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"a - at `$.rows[%s].x":1}' % (b"1" * 5000),
        b'{"%s - at `$.rows[3].x":1}' % (b"a" * 1_900_000),
        b'{"rows":[{"%s - at `$.rows[3].x":1}]}' % (b"a" * 1_900_000),
        b'{"rows":NaN,"\\ud800%s":{"\\ud801%s":NaN}}' % (b"a" * 900_000, b"b" * 900_000),
        b'{"rows":[{"age":1}],"%s":1,"%s":2}' % (b"a" * 900_000, b"a" * 900_000),
    ],
)
def test_long_member_name_is_cut_and_not_taken_for_a_position(body: bytes) -> None:
    problem = refused(body)
    _, answer = problem.raw()
    assert problem.status == 400
    assert problem.row in (None, 0)
    assert len(answer) < 3000


def wide_parser() -> RequestParser:
    """A parser for two hundred features."""
    many = [{"name": f"feature {i}", "type": "number", "side": "item"} for i in range(200)]
    encoder = {**contract()["encoder"], "categoricals": [], "crosses": [], "bands": {}}
    wide = {**contract(), "features": many, "model_columns": [], "encoder": encoder}
    return RequestParser(read_contract(json.dumps(wide).encode()), LIMITS)


def test_long_list_of_known_features_is_cut() -> None:
    with pytest.raises(Problem, match=r"known are feature 0, .* and 1\d\d more$") as caught:
        wide_parser().parse(b'{"rows": [{"x": 1}]}')
    assert len(caught.value.reason) < 700


@pytest.mark.parametrize("rows", [b'{"rows":[{}%s]}', b'{"rows":[{}%s],"rows":[{"feature 0":1}]}', b'{"rows":[{}%s'])
def test_rows_above_the_limit_do_not_fill_the_memory(rows: bytes) -> None:
    """The body has 700,000 rows, each of which would have a slot for 200 features."""
    parser, body = wide_parser(), rows % (b",{}" * 700_000)
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="more than 50 rows") as caught:
            parser.parse(body)
        assert caught.value.status == 413
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_null_equals_an_absent_feature() -> None:
    absent = PARSER.parse(b'{"rows": [{"age": 1}]}').rows
    assert absent == PARSER.parse(json.dumps({"rows": [dict.fromkeys(NAMES) | {"age": 1}]}).encode()).rows


@given(st.lists(st.text(max_size=60) | st.integers(-(2**63), 2**63 - 1) | st.just(2.0), min_size=1, max_size=10))
def test_item_ids_are_returned_unchanged(ids: list[str | int]) -> None:
    body = {"user": {"age": 30, "hour": 2}, "items": [{"id": id_, "price": 1} for id_ in ids]}
    request = PARSER.parse(json.dumps(body).encode())
    assert request.ids == ids
    assert request.rows == [(30.0, None, 2.0, 1.0, None, None)] * len(ids)


def test_problem_never_repeats_a_value() -> None:
    secret = "s3cret"
    for row in ({"age": secret}, {"genres": secret}, {"gender": [secret]}, {"genres": [secret, 1]}):
        assert secret not in refused({"rows": [row]}).detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract_version": "2.0"}, "1.x"),
        ({"features": []}, "features"),
        ({"label": "age"}, "label"),
        ({"features": [{"name": "id", "type": "string", "side": "item"}]}, "called id"),
        ({"features": [{"name": 'a"', "type": "string", "side": "item"}]}, "regex"),
        ({"features": [{"name": "a", "type": "string", "side": "item", "maximum": 1}]}, "maximum of a: not a numeric"),
        ({"features": [{"name": "a", "type": "number", "side": "item", "minimum": 2, "maximum": 1}]}, "not ascending"),
        ({"model_columns": [{"feature": "age", "value": "rate"}]}, "age"),
        ({"model_columns": [{"feature": "other", "value": "number"}]}, "other"),
        ({"encoder": {"categoricals": ["age"], "missing_level": "", "width": 2}}, "gender"),
        ({"encoder": {"categoricals": [], "missing_level": "", "width": 3}}, "width"),
    ],
)
def test_invalid_contract_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        read_contract(json.dumps({**contract(), **change}).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": {"gender": [1]}}, "bands of gender: not a numeric feature"),
        ({"bands": {"age": [30, 18]}}, "bands of age: .* not ascending"),
        ({"bands": {}}, "age__maker name: age is neither a string feature nor a number with bands"),
        ({"crosses": [{"name": "gender__genres", "of": ["gender"]}]}, "length >= 2"),
        ({"crosses": []}, "model column gender__genres"),
        ({"crosses": [*contract()["encoder"]["crosses"], {"name": "genres", "of": ["gender", "genres"]}]}, "differ"),
    ],
)
def test_invalid_cross_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        read_contract(json.dumps({**contract(), "encoder": {**contract()["encoder"], **change}}).encode())


def test_artefact_of_an_earlier_minor_version_is_scored(tmp_path: Path) -> None:
    toys = make_artefact(tmp_path / "toys", crosses=False)
    artefact = open_artefact(toys.folder)
    rows = (
        RequestParser(artefact.contract, Limits(len(toys.rows), 100, 100))
        .parse(json.dumps({"rows": toys.rows}).encode())
        .rows
    )
    scored = asyncio.run(NativeEngine(artefact).probabilities(rows))
    assert scored == [toys.probability(row) for row in toys.rows]


def test_parser_keeps_every_bit_of_a_number() -> None:
    for value in (0.1, 5e-324, 1.7976931348623157e308, -0.0, 2**53 + 1.0, math.pi):
        (row,) = PARSER.parse(json.dumps({"rows": [{"price": value, "hour": 1}]}).encode()).rows
        assert repr(row[NAMES.index("price")]) == repr(value)
