"""Read a request body within a limit of bytes, before and after decompression.

Does not limit the time: `protocol` closes the connection of a client that stalls.
"""

import zlib
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from scoring.http.problems import Problem

DISCARD_FACTOR = 8
"""Multiple of the limit up to which a body that is too large is still read, so that the connection can be reused."""
_CLOSE = {"Connection": "close"}


async def read_json_body(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> bytes:
    """Return the decompressed body of a request; `headers` has lower-case names.

    Raises `Problem` for another media type or encoding, a damaged body or one over `max_bytes`, and `ClientDisconnect`
    if the client disconnects before the end of the body.
    """
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise Problem(415, f"Content-Type {media_type.decode('latin-1') or 'missing'}: send application/json")
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding not in (b"identity", b"gzip"):
        raise Problem(415, f"Content-Encoding {encoding.decode('latin-1')}: send identity or gzip")
    body = await _read(receive, max_bytes)
    return _inflate(body, max_bytes) if encoding == b"gzip" else body


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= max_bytes * DISCARD_FACTOR:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        more = message.get("more_body", False)
    if size > max_bytes:
        raise _too_large(max_bytes)
    return b"".join(chunks)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Problem(400, "the body is not gzip, although Content-Encoding is gzip") from None
    if len(inflated) > max_bytes:
        raise _too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise Problem(400, "the gzip body is cut short or followed by other data")
    return inflated


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body is over {max_bytes} bytes: send fewer rows per request", headers=_CLOSE)
