"""`personalization`: the local run, and questions to its endpoint. Exit code 1 is a mistake the message explains."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from operations.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
StateFolder = Annotated[Path, typer.Option("--state", help="Folder that holds everything of the local run.")]
_DEFAULT_STATE = Path(".local")


@app.command()
def local(
    dataset: Annotated[str, typer.Option(help="movielens or criteo.")] = "movielens",
    data: Annotated[str, typer.Option(help="Your own file or folder of rows.")] = "",
    engine: Annotated[str, typer.Option(help="native or spark.")] = "native",
    state: StateFolder = _DEFAULT_STATE,
    port: Annotated[int | None, typer.Option(help="Port of the sandbox; free-chosen if not given.")] = None,
) -> None:
    """Stand up the whole chain on this machine and score through it."""
    from operations import local as run
    from operations.summary import show

    _one_of("DATASET", dataset, ("movielens", "criteo"))
    _one_of("ENGINE", engine, ("native", "spark"))
    where = Path(data).expanduser() if data else None
    report = run.up(run.State(state.absolute()), dataset, where, engine, port, _say)
    # Addresses are for copying: where the output is a file or a pipe, a line is as long as it needs.
    show(report, Console(width=None if sys.stdout.isatty() else 160))


@app.command("local-down")
def local_down(state: StateFolder = _DEFAULT_STATE) -> None:
    """Destroy the local stack through Pulumi and stop everything."""
    from operations import local as run

    run.down(run.State(state.absolute()), _say)


@app.command()
def score(
    rows: Annotated[
        list[str] | None, typer.Argument(help="Rows as JSON objects; the model's golden rows if none.")
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Click probabilities of rows, from the live endpoint."""
    from operations import local as run

    recorded, endpoint = _endpoint(state)
    if rows:
        body = [_json(row) for row in rows]
    else:
        body = [line["row"] for line in run._golden(recorded["outputs"])[:3]]
    print(json.dumps(endpoint.post({"rows": body}), indent=1))


@app.command()
def rank(
    user: Annotated[str, typer.Option(help="Key of a user in the dataset's user table.")],
    top: Annotated[int, typer.Option(min=1)] = 10,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """The best items of the whole catalogue for one user, from the live endpoint."""
    from operations import local as run
    from workloads import spec

    recorded, endpoint = _endpoint(state)
    described = spec.load(recorded["dataset"])
    if described.users is None or described.items is None:
        raise UserError(f"dataset {described.name} has no tables of users and items to rank from")
    for item in run.rank(endpoint, described, Path(recorded["data"]), user, top):
        print(f"{item['probability']:.6f}  {item['id']}  {item['title']}")


def _endpoint(state: Path) -> tuple[dict[str, Any], Any]:
    from operations import local as run
    from operations import sandbox
    from operations.endpoint import Endpoint

    where = run.State(state.absolute())
    recorded = where.recorded()
    sandbox.start(where.sandbox, None)
    return recorded, Endpoint.of(recorded["outputs"])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"not a JSON object: {text!r} ({error})") from None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; it can be {' or '.join(allowed)}")


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
