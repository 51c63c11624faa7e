"""The server's log: one line a request, without queries, which may hold signatures that grant access (SAS)."""

import logging


class WithoutQuery(logging.Filter):
    """Cuts the query from the address of `uvicorn.access` and `httpx`, both of which give it as an argument."""

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
