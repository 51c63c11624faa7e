"""The data files of a snapshot: which file is which table, its bytes (plain or gzip) and its lines.

A file that cannot be read completely is refused with the cause. Spark reads the same files through Hadoop, which
recognises gzip by the file's name alone; so does this module. Does not decode text: `text_table.py` does.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.spec import Table

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
# First bytes of files that are often named like text files.
_FOREIGN = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PAR1": "a parquet file",
}
# Hadoop would unpack these, too (org.apache.hadoop.io.compress.CompressionCodecFactory).
_OTHER_CODECS = (".bz2", ".deflate", ".snappy", ".lz4", ".zst")
PATTERN = re.compile(r"[{}\[\]*?\\]")
"""Any of these characters makes a path a pattern for Spark (SparkHadoopUtil.isGlobPath)."""
SYNTHETIC = "SYNTHETIC.json"
"""The generator writes this file next to its rows. Everything made from such rows is marked as synthetic, too."""
_CHUNK = 1 << 20


def locate(snapshot: Path, table: Table, name: str) -> Path:
    """Return the file of a table. Raises `WorkloadError` if there is none or more than one.

    name: users, items or interactions, for the message.
    """
    if not snapshot.is_dir():
        raise WorkloadError(f"{name}: no folder {snapshot}")
    for pattern in table.files:
        if (snapshot / pattern).is_file():
            return snapshot / pattern
        matches = sorted(path for path in snapshot.glob(pattern) if path.is_file())
        if len(matches) > 1:
            listed = ", ".join(path.name for path in matches)
            raise WorkloadError(f"{name}: {snapshot} holds {listed}: leave one file that matches {pattern}")
        if matches:
            return matches[0]
    raise WorkloadError(f"{name}: no file {' or '.join(str(snapshot / pattern) for pattern in table.files)}")


def check(file: Path) -> None:
    """Raise `WorkloadError` if the file is not text, is gzip though its name is not, or cannot be opened by Spark."""
    if file.suffix in _OTHER_CODECS:
        raise WorkloadError(f"{file}: a table is plain or gzip (.gz), not {file.suffix}")
    if file.name.startswith(("_", ".")):  # HadoopFSUtils.shouldFilterOutPathName
        raise WorkloadError(f"{file}: Spark skips files whose names begin with _ or a dot. Give it another name")
    # apache/hadoop ChecksumFileSystem.getChecksumFile; Globber for a path that `tables.literal` escapes (HADOOP-14217).
    if ":" in file.name or (":" in str(file) and PATTERN.search(str(file.absolute()))):
        raise WorkloadError(f"{file}: Spark cannot open a file with : in its name. Give it another name")
    try:
        with file.open("rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise WorkloadError(f"{file} cannot be read: {error.strerror}") from None
    if file.suffix == ".gz":
        if start and not start.startswith(_GZIP):
            raise WorkloadError(f"{file}: is not gzip, though its name ends in .gz. Remove .gz from the name")
        return
    if start.startswith(_GZIP):
        raise WorkloadError(f"{file}: is gzip, though its name does not end in .gz. Add .gz to the name")
    for mark, kind in _FOREIGN.items():
        if start.startswith(mark):
            raise WorkloadError(f"{file}: is {kind}. Save it as text in UTF-8, tab separated")


def check_archive(file: Path) -> None:
    """Read all of a gzip file. Raises `WorkloadError` with the cause if it is damaged."""
    if file.suffix == ".gz":
        for _ in _chunks(file):
            pass


def lines(file: Path) -> Iterator[bytes]:
    """Yield lines without their ends (a line feed, a carriage return or both) and without a byte order mark."""
    rest, started = b"", False
    for chunk in _chunks(file):
        rest += chunk
        if not started and len(rest) >= len(_BYTE_ORDER_MARK):
            rest, started = rest.removeprefix(_BYTE_ORDER_MARK), True
        if rest.endswith(b"\r"):  # a line feed may follow
            continue
        whole = rest.splitlines(keepends=True)
        rest = whole.pop() if whole and not whole[-1].endswith(b"\n") else b""
        yield from (line.rstrip(b"\r\n") for line in whole)
    yield from rest.splitlines()


def _chunks(file: Path) -> Iterator[bytes]:
    """Yield the bytes, unpacked if the file's name ends in `.gz`."""
    with file.open("rb") as opened:
        if file.suffix == ".gz":
            yield from _unpacked(file, iter(lambda: opened.read(_CHUNK), b""))
        else:
            yield from iter(lambda: opened.read(_CHUNK), b"")


def _unpacked(file: Path, packed: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack an archive of one or more members. Anything else in it is an error, as in Hadoop, even padding."""
    member, begun, members = zlib.decompressobj(31), False, 0
    for chunk in packed:
        while chunk:
            begun = True
            try:
                unpacked = member.decompress(chunk, _CHUNK)
            except zlib.error as fault:
                raise WorkloadError(f"{file}: {_cause(str(fault), members)}") from None
            yield unpacked
            chunk = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member, begun, members = zlib.decompressobj(31), False, members + 1
    if begun:
        raise WorkloadError(f"{file}: the gzip archive is cut short. Copy it again from its source")


def _cause(fault: str, members: int) -> str:
    if members and "incorrect header check" in fault:
        return "something that is not gzip follows the gzip archive. Pack it again"
    if "incorrect data check" in fault:
        return "the gzip archive is damaged: its checksum (CRC) is wrong. Copy it again from its source"
    return f"the gzip archive is damaged ({fault.partition(': ')[2] or fault}). Copy it again from its source"
