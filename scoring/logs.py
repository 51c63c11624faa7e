"""Structured logs: one JSON object per line on stderr. Callers never pass feature values; see `http.problems`."""

import logging
import re
import sys
from datetime import UTC, datetime

import msgspec

_OWN = "fields"
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,400})?")


def trace_id(traceparent: bytes) -> str | None:
    """Return the trace id of a W3C `traceparent` header. A malformed header counts as not sent: None."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1].decode() if match else None


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    logger.log(level, message, extra={_OWN: fields})


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _OWN, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
