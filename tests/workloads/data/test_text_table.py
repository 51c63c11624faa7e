"""Unusual data files: the reader in Spark and the one in Python return the same rows, reasons and refusals."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from workloads.data import raw_file, tables, text_table
from workloads.data.tables import MALFORMED
from workloads.errors import WorkloadError
from workloads.spec import Table

# A session fixture that is imported would be set up once per module.
pytest_plugins = ["testing.workloads.spark"]

HEADER = b"key\tsize\tprice\tname\n"
KEY = ("key", "string")
WANTED = [KEY, ("size", "integer"), ("price", "number"), ("name", "string"), ("size", "string")]
GOOD = ("a", 1, 1.5, "x", "1")


def row(size: bytes = b"1", price: bytes = b"1.5", name: bytes = b"x", key: bytes = b"a") -> bytes:
    return b"\t".join((key, size, price, name)) + b"\n"


def sizes(*texts: bytes) -> bytes:
    return HEADER + b"".join(row(size=text) for text in texts)


def prices(*texts: bytes) -> bytes:
    return HEADER + b"".join(row(price=text) for text in texts)


def named(name: str) -> tuple[Any, ...]:
    return (*GOOD[:3], name, "1")


def sized(size: int, text: str) -> tuple[Any, ...]:
    return ("a", size, 1.5, "x", text)


def priced(*prices: float) -> list[tuple[Any, ...]]:
    return [("a", 1, price, "x", "1") for price in prices]


INTEGER, NUMBER, FINITE = "size is not an integer", "price is not a number", "price is not a finite number"
SEPARATORS, MOST = "a\u2028b\u0085c\x0bd\x0ce", 2**63 - 1
UTF8, NUL = text_table.NOT_UTF8, text_table.NUL
PACKED = gzip.compress(HEADER + row() * 3_000, mtime=0)
WRONG_CRC = PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:]

Expected = list[tuple[Any, ...] | str] | str
"""A list with the values of each line, or the reason why it is malformed; or a part of the file's refusal."""
CASES: dict[str, tuple[str, bytes, Expected]] = {
    # Lines.
    "CRLF": ("t.tsv", (HEADER + row() * 2).replace(b"\n", b"\r\n"), [GOOD, GOOD]),
    "CR only": ("t.tsv", (HEADER + row() * 2).replace(b"\n", b"\r"), [GOOD, GOOD]),
    "mixed line ends": ("t.tsv", HEADER + row()[:-1] + b"\r" + row()[:-1] + b"\r\n" + row(), [GOOD] * 3),
    "no last line end": ("t.tsv", (HEADER + row())[:-1], [GOOD]),
    "blank line at the end": ("t.tsv", HEADER + row() + b"\n", [GOOD]),
    "blank lines at the end": ("t.tsv", HEADER + row() + b"\n \n\r\n", [GOOD]),
    "blank line in the middle": ("t.tsv", HEADER + row() + b"\n" + row(), [GOOD, GOOD]),
    "blank lines before the header": ("t.tsv", b"\n \n" + HEADER + row(), [GOOD]),
    "line of tabs": ("t.tsv", HEADER + b"\t\t\t\n" + row(), [GOOD]),
    "line of control characters": ("t.tsv", HEADER + b"\x01\x1f\n" + row(), [GOOD]),
    "line of a no-break space": ("t.tsv", HEADER + "\u00a0\n".encode() + row(), ["1 columns, not 4", GOOD]),
    "header alone": ("t.tsv", HEADER, []),
    "header without line end": ("t.tsv", HEADER[:-1], []),
    "header again in the middle": ("t.tsv", HEADER + row() + HEADER, [GOOD, INTEGER]),
    "empty file": ("t.tsv", b"", "is empty, a header line was expected"),
    "blank lines alone": ("t.tsv", b"\n\n", "is empty, a header line was expected"),
    "line separators of Unicode": ("t.tsv", HEADER + row(name=SEPARATORS.encode()), [named(SEPARATORS)]),
    "comment sign": ("t.tsv", HEADER + row(key=b"#a"), [("#a", *GOOD[1:])]),
    # Fields.
    "too few fields": ("t.tsv", HEADER + b"a\t1\n" + row(), ["2 columns, not 4", GOOD]),
    "too many fields": ("t.tsv", HEADER + row()[:-1] + b"\t\n", ["5 columns, not 4"]),
    "30,000 fields": ("t.tsv", HEADER + b"\t" * 29_998 + b"a\tb\n" + row(), ["30000 columns, not 4", GOOD]),
    "comma separated": ("t.tsv", HEADER + b"a,1,1.5,x\n", ["1 columns, not 4"]),
    "field of 200,000 characters": ("t.tsv", HEADER + row(name=b"x" * 200_000), [named("x" * 200_000)]),
    "empty fields": ("t.tsv", HEADER + row(b"", b"", b""), [("a", None, None, None, None)]),
    "empty key": ("t.tsv", HEADER + row(key=b""), ["key is missing"]),
    "key of a space": ("t.tsv", HEADER + row(key=b" "), [(" ", *GOOD[1:])]),
    "quotes": ("t.tsv", HEADER + row(name=b'"x'), [named('"x')]),
    "quotes around a tab": ("t.tsv", HEADER + b'a\t1\t1.5\t"x\ty"\n', ["5 columns, not 4"]),
    "backslashes": ("t.tsv", HEADER + row(name=rb"\N \t \\"), [named(r"\N \t \\")]),
    "words for nothing": ("t.tsv", HEADER + row(name=b"NA") + row(name=b"null"), [named("NA"), named("null")]),
    "patterns": ("t.tsv", HEADER + row(name=rb"$1 %s \1 {0}"), [named(r"$1 %s \1 {0}")]),
    "spaces around a text": ("t.tsv", HEADER + row(name=b" x "), [named(" x ")]),
    "control characters in a text": ("t.tsv", HEADER + row(name=b"\x01x\x7f"), [named("\x01x\x7f")]),
    "NUL in a text": ("t.tsv", HEADER + row(name=b"x\0y") + row(), [NUL, GOOD]),
    "NUL before a text": ("t.tsv", HEADER + row(name=b"\0x") + row(), [NUL, GOOD]),
    # Whole numbers.
    "signs": ("t.tsv", sizes(b"+5", b"-5", b"-0"), [sized(5, "+5"), sized(-5, "-5"), sized(0, "-0")]),
    "leading zeros": ("t.tsv", sizes(b"00110"), [sized(110, "00110")]),
    "spaces around a whole number": ("t.tsv", sizes(b" 5 "), [sized(5, " 5 ")]),
    "no-break space around it": ("t.tsv", sizes("\u00a05".encode()), [INTEGER]),
    "highest of 64 bits": ("t.tsv", sizes(b"%d" % MOST), [sized(MOST, f"{MOST}")]),
    "lowest of 64 bits": ("t.tsv", sizes(b"%d" % ~MOST), [sized(~MOST, f"{~MOST}")]),
    "beyond 64 bits": ("t.tsv", sizes(b"%d" % (MOST + 1), b"-%d" % (MOST + 2), b"9" * 5_000), [INTEGER] * 3),
    "fractions": ("t.tsv", sizes(b"1.5", b"1.0", b"1.", b".5"), [INTEGER] * 4),
    "other notations": ("t.tsv", sizes(b"1e3", b"0x10", b"1_000", b"1,000", b"1L", b"--1", b"+"), [INTEGER] * 7),
    "words": ("t.tsv", sizes(b"NaN", b"many", b"true", b" "), [INTEGER] * 4),
    "Arabic digits": ("t.tsv", sizes("١٢".encode()), [INTEGER]),
    "full-width digits": ("t.tsv", sizes("\uff11\uff12".encode()), [INTEGER]),
    # Numbers.
    "number notations": ("t.tsv", prices(b"1", b"1.", b".5", b"1e3", b"1E-3"), priced(1, 1, 0.5, 1e3, 1e-3)),
    "extreme numbers": ("t.tsv", prices(b"1e308", b"5e-324", b"1e-400", b"+0.1"), priced(1e308, 5e-324, 0, 0.1)),
    "digits beyond precision": ("t.tsv", prices(b"9007199254740993", b"0." + b"1" * 400), priced(2.0**53, 1 / 9)),
    "spaces around a number": ("t.tsv", prices(b" 1.5 "), priced(1.5)),
    "too large numbers": ("t.tsv", prices(b"1e400", b"-1e400"), [FINITE] * 2),
    "not finite": ("t.tsv", prices(b"NaN", b"Infinity", b"-Infinity"), [FINITE] * 3),
    "other words for it": ("t.tsv", prices(b"nan", b"inf", b"Inf", b"INFINITY"), [NUMBER] * 4),
    "Java's own notations": ("t.tsv", prices(b"1d", b"2F", b"0x1p4", b"1D"), [NUMBER] * 4),
    "Python's own notations": ("t.tsv", prices(b"1_000.5", "١٢".encode(), "\u20031".encode()), [NUMBER] * 3),
    "decimal comma": ("t.tsv", prices(b"1,5", b"1.000,5", b"1'000"), [NUMBER] * 3),
    "units": ("t.tsv", prices(b"$5", "5€".encode(), b"5%"), [NUMBER] * 3),
    "space for a number": ("t.tsv", prices(b" "), [NUMBER]),
    # Encodings.
    "Latin-1": ("t.tsv", HEADER + row(name="Malmö".encode("latin-1")) + row(), [UTF8, GOOD]),
    "Latin-1 in a column that is not wanted as text": ("t.tsv", HEADER + row(price=b"1.5\xa0"), [UTF8]),
    "Windows-1252": ("t.tsv", HEADER + row(name=b"\x93x\x94 \x80") + row(), [UTF8, GOOD]),
    "cut character": ("t.tsv", HEADER + row(name="x😀".encode()[:-1]), [UTF8]),
    "overlong": ("t.tsv", HEADER + row(name=b"\xc0\xaf"), [UTF8]),
    "surrogates": ("t.tsv", HEADER + row(name=b"\xed\xa0\xbd\xed\xb8\x80"), [UTF8]),
    "beyond Unicode": ("t.tsv", HEADER + row(name=b"\xf4\x90\x80\x80"), [UTF8]),
    "replacement character that is truly there": ("t.tsv", HEADER + row(name="\ufffd".encode()), [named("\ufffd")]),
    "replacement character and a bad byte": ("t.tsv", HEADER + row(name="\ufffd".encode() + b"\xe9"), [UTF8]),
    "noncharacters": ("t.tsv", HEADER + row(name="\uffff\ufdd0".encode()), [named("\uffff\ufdd0")]),
    "composed and decomposed": ("t.tsv", HEADER + row(name="é e\u0301".encode()), [named("é e\u0301")]),
    "emoji": ("t.tsv", HEADER + row(name="👩‍👩‍👧 😀".encode()), [named("👩‍👩‍👧 😀")]),
    "byte order mark": ("t.tsv", b"\xef\xbb\xbf" + HEADER + row(), [GOOD]),
    "byte order mark in a text": ("t.tsv", HEADER + row(name=b"\xef\xbb\xbfx"), [named("\ufeffx")]),
    "byte order mark twice": ("t.tsv", b"\xef\xbb\xbf" * 2 + HEADER, r"no column 'key'; there are: '\ufeffkey', size"),
    "Latin-1 in the header": ("t.tsv", HEADER[:-1] + b"\xe9\n", "line 1, the header, is not UTF-8 at byte 20"),
    "UTF-16": ("t.tsv", HEADER.decode().encode("utf-16"), "is UTF-16. Save it as text in UTF-8"),
    "UTF-16 without a mark": ("t.tsv", HEADER.decode().encode("utf-16-le"), r"there are: 'k\x00e\x00y\x00', "),
    # Headers.
    "types in the header": ("t.tsv", HEADER.replace(b"price", b"price:float") + row(), [GOOD]),
    "a type of many values": ("t.tsv", HEADER.replace(b"size", b"size:token_seq"), "'size' has type token_seq"),
    "a column that is missing": ("t.tsv", HEADER.replace(b"size", b"sise"), "no column 'size'; there are: key, sise, "),
    "a column twice": ("t.tsv", HEADER.replace(b"name", b"Size"), "column 'size' exists twice"),
    "a space after a name": ("t.tsv", HEADER.replace(b"size", b"size "), "there are: key, 'size ', price"),
    # Archives.
    "gzip": ("t.tsv.gz", gzip.compress(HEADER + row()), [GOOD]),
    "gzip with a byte order mark": ("t.tsv.gz", gzip.compress(b"\xef\xbb\xbf" + HEADER + row()), [GOOD]),
    "gzip of two members": ("t.tsv.gz", gzip.compress(HEADER + row()) + gzip.compress(row()), [GOOD, GOOD]),
    "gzip cut within a line": ("t.tsv.gz", gzip.compress(HEADER + row()[:3]) + gzip.compress(row()[3:]), [GOOD]),
    "empty gzip": ("t.tsv.gz", gzip.compress(b""), "is empty, a header line was expected"),
    "gzip cut short": ("t.tsv.gz", PACKED[:-20], "the gzip archive is cut short"),
    "gzip without its last byte": ("t.tsv.gz", PACKED[:-1], "the gzip archive is cut short"),
    "gzip with a wrong checksum": ("t.tsv.gz", WRONG_CRC, "its checksum (CRC) is wrong"),
    "gzip with garbage behind": ("t.tsv.gz", PACKED + b"garbage", "something that is not gzip follows"),
    "gzip with zeros behind": ("t.tsv.gz", PACKED + bytes(512), "something that is not gzip follows"),
    "plain under .gz": ("t.tsv.gz", HEADER + row(), "is not gzip, though its name ends in .gz"),
    "gzip under a plain name": ("t.tsv", PACKED, "is gzip, though its name does not end in .gz"),
    "zip": ("t.tsv", b"PK\x03\x04" + HEADER, "is a zip archive or an Excel workbook"),
    "another archive": ("t.tsv.bz2", HEADER, "a table is plain or gzip (.gz), not .bz2"),
    # Names of files.
    "brackets": ("t[1].tsv", HEADER + row(), [GOOD]),
    "braces": ("t{a,b}.tsv", HEADER + row(), [GOOD]),
    "star and question mark": ("t*?.tsv", HEADER + row(), [GOOD]),
    "backslash": ("t\\1.tsv", HEADER + row(), [GOOD]),
    "percent, hash and space": ("t%20#1 .tsv", HEADER + row(), [GOOD]),
    "colon": ("t:1.tsv", HEADER + row(), "Spark cannot open a file with : in its name"),
    "accents and emoji": ("été 😀.tsv", HEADER + row(), [GOOD]),
    "underscore first": ("_t.tsv", HEADER + row(), "Spark skips files whose names begin with _"),
}  # fmt: skip


def in_spark(spark: SparkSession, file: Path, table: Table) -> list[Any]:
    lines = tables.read(spark, file, table, WANTED, [KEY])
    rows = lines.values().select(*(lines.column(*column) for column in WANTED), MALFORMED).collect()
    return [row[-1] or tuple(row[:-1]) for row in rows]


def in_python(file: Path, table: Table) -> list[Any]:
    lines = text_table.read(file, table, WANTED, [KEY])
    return [line.malformed or tuple(line.values[column] for column in WANTED) for line in lines]


def outcome(read: Callable[[], list[Any]], file: Path) -> Any:
    try:
        return read()
    except WorkloadError as refusal:
        return str(refusal)
    except Exception as fault:  # an error of Spark, for which `prepare` finds the cause like this
        try:
            raw_file.check_archive(file)
        except WorkloadError as refusal:
            return str(refusal)
        return repr(fault)


def as_expected(result: Any, expected: Expected, file: Path) -> bool:
    if isinstance(expected, str):
        return isinstance(result, str) and result.startswith(str(file)) and expected in result and "\n" not in result
    return bool(result == expected)


@pytest.mark.spark
def test_both_readers_agree_on_every_unusual_file(spark: SparkSession, tmp_path: Path) -> None:
    wrong = {}
    for index, (case, (name, content, expected)) in enumerate(CASES.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / name).write_bytes(content)
        (folder / re.sub(r"\W", "", name)).write_bytes(HEADER + row(name=b"in another file"))
        file, table = folder / name, Table((name,))
        for reader, result in (
            ("Spark", outcome(lambda file=file, table=table: in_spark(spark, file, table), file)),  # type: ignore[misc]
            ("Python", outcome(lambda file=file, table=table: in_python(file, table), file)),  # type: ignore[misc]
        ):
            if not as_expected(result, expected, file):
                wrong[f"{reader}: {case}"] = str(result)[:300]
    assert len(CASES) >= 60
    assert wrong == {}


def test_lines_do_not_depend_on_where_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.tsv"
    content = b"\xef\xbb\xbfa\r\nb\rc\n\n\r\n\rd\r\r\ne"
    file.write_bytes(content)
    for size in range(1, len(content) + 1):
        monkeypatch.setattr(raw_file, "_CHUNK", size)
        assert list(raw_file.lines(file)) == [b"a", b"b", b"c", b"", b"", b"", b"d", b"", b"e"]
