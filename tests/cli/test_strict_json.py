"""JSON on the command line is refused with the position if the endpoint would refuse it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import strict_json
from cli.errors import UserError
from cli.main import app


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"user_id": "196", "user_id": "197"}', "'user_id' appears twice"),
        ('{"user": {"a": 1, "a": 1}}', "'a' appears twice"),
        ('{"age": NaN}', "NaN is not a JSON number; use null"),
        ('{"age": -Infinity}', "-Infinity is not a JSON number"),
        ('{"ages": [1, {"x": 1e999}]}', r"ages\[1\].x is a number too large"),
        (r'{"city": "\ud83d"}', "city contains half of a surrogate pair"),
        (r'{"a": {"\udc00": 1}}', r"a.\\udc00 contains half of a surrogate pair"),
        ('{"age": ' + "1" * 5000 + "}", "is not JSON: .*4300 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"age": 1', "is not JSON: Expecting ',' delimiter"),
        ("[1]", r"row 1 must be a JSON object: '\[1\]'"),
    ],
)
def test_invalid_or_ambiguous_json_is_refused_with_the_position(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"row 1 .*{says}|{says}") as error:
        strict_json.parse(text, "row 1", dict)
    str(error.value).encode()
    assert len(str(error.value)) < 300


def test_json_with_any_character_is_read(tmp_path: Path) -> None:
    assert strict_json.parse(r'{"a": "\ud83d\ude00", "b": [null, 1.5]}', "row", dict) == {"a": "😀", "b": [None, 1.5]}
    file = tmp_path / "outputs.json"
    file.write_bytes('\ufeff{"a": 1}'.encode())
    assert strict_json.load(file, "stack outputs") == {"a": 1}
    file.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(UserError, match=r"outputs\.json is not UTF-8: byte 0 is 0xff"):
        strict_json.load(file, "stack outputs")


def test_score_refuses_a_row_before_it_contacts_the_endpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 2 is not JSON: 'user_id' appears twice"):
        CliRunner().invoke(
            app,
            ["score", "{}", '{"user_id": "196", "user_id": "197"}', "--state", str(tmp_path)],
            catch_exceptions=False,
        )
