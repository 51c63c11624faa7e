"""The server's log: one line per request, without the query, which may contain signatures that grant access (SAS)."""

import logging


class WithoutQuery(logging.Filter):
    """Removes the query from the address in records of `uvicorn.access` and `httpx`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name in ("uvicorn.access", "httpx") and isinstance(record.args, tuple):
            record.args = tuple(_cut(argument) for argument in record.args)
        return True


def configure() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(WithoutQuery())


def _cut(argument: object) -> object:
    text = argument if isinstance(argument, str) or type(argument).__name__ == "URL" else None
    return argument if text is None else str(text).partition("?")[0]
