"""Arguments, options and output of the `personalization` command.

`docs/reference/cli.md` is generated from them. Exit code 1 is an error that the message explains; `report` also returns
3. Each command imports the module that does its work only when it runs, because those modules load Spark or the Azure
SDKs.
"""

import datetime
import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli import packages, strict_json
from cli.errors import UserError
from cli.local_run.run_directory import State

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
StateFolder = Annotated[Path, typer.Option("--state", help="Folder of the local run: its stack, data and logs.")]
_DEFAULT_STATE = Path(".local")
StackFolder = Annotated[
    Path, typer.Option("--folder", help="Folder of the stack files.", show_default="the project's folder")
]
_PROJECT = Path(__file__).parents[1]
_SPECS = _PROJECT / "workloads" / "datasets"


@app.command()
def local(
    dataset: Annotated[str, typer.Option(help="Dataset to train on: movielens or criteo.")] = "movielens",
    data: Annotated[
        str,
        typer.Option(help="File or folder of your rows; MovieLens 100K, or synthetic clicks for criteo, if not given."),
    ] = "",
    engine: Annotated[str, typer.Option(help="Scoring engine: native or spark.")] = "native",
    state: StateFolder = _DEFAULT_STATE,
    port: Annotated[int | None, typer.Option(help="Port of the sandbox; a free one if not given.")] = None,
) -> None:
    """Deploy the whole system on this machine, in a sandbox, and score rows through its endpoint."""
    from cli.local_run import command as run
    from cli.local_run.summary import show

    _one_of("DATASET", dataset, ("movielens", "criteo"))
    _one_of("ENGINE", engine, ("native", "spark"))
    where = Path(data).expanduser() if data else None
    try:
        report = run.up(State(state.absolute()), dataset, where, engine, port, _say)
    except KeyboardInterrupt:
        raise UserError("interrupted. `make local` goes on from here; `make local-down` removes what stands") from None
    # Addresses are for copying: where the output is a file or a pipe, a line is as long as it needs.
    show(report, Console(width=None if sys.stdout.isatty() else 160))


@app.command("local-down")
def local_down(
    state: StateFolder = _DEFAULT_STATE,
    force: Annotated[
        bool,
        typer.Option("--force", help="Stop the sandbox and delete the run without Pulumi, if its files are damaged."),
    ] = False,
) -> None:
    """Destroy the local stack with Pulumi, stop the sandbox and delete the run."""
    from cli.local_run import command as run

    run.down(State(state.absolute()), _say, force=force, confirm=_without_pulumi)


@app.command()
def score(
    rows: Annotated[
        list[str] | None, typer.Argument(help="Rows, each a JSON object; three golden rows of the model if none.")
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Print the click probabilities of rows, from the endpoint of the local run."""
    from cli.local_run import command as run

    body = [strict_json.parse(row, f"row {number}", dict) for number, row in enumerate(rows or [], 1)]
    recorded, endpoint = _endpoint(state)
    if not body:
        body = [line["row"] for line in run.golden(recorded["outputs"])[:3]]
    print(json.dumps(endpoint.post({"rows": body}), indent=1))


@app.command()
def rank(
    user: Annotated[str, typer.Option(help="Key of a user in the dataset's user table.")],
    top: Annotated[int, typer.Option(min=1, help="How many of the best items to print.")] = 10,
    context: Annotated[
        list[str] | None,
        typer.Option(help="Context feature as name=value, such as hour=22 (UTC). Without it, it is missing."),
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Print the best items of the whole catalogue for one user, from the endpoint of the local run."""
    from cli.local_run import command as run
    from workloads import spec

    recorded, endpoint = _endpoint(state)
    described = spec.load(recorded["dataset"])
    if described.users is None or described.items is None:
        raise UserError(f"dataset {described.name} has no tables of users and items to rank from")
    given = run.context_of(described, context or [])
    for item in run.rank(endpoint, described, Path(recorded["data"]), user, top, given):
        print(f"{item['probability']:.6f}  {item['id']}  {item['title']}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")],
) -> None:
    """Check a dataset's spec against rows. Reads, joins and converts every line as training does, with Spark here."""
    from cli import local_training

    _ready_for(dataset, data)
    found = local_training.check(dataset, data)
    for name, table in found.tables.items():
        print(f"{name}: {table['file']}, {table['rows']} lines read, {table['rejected']} left out")
        if table["unused_columns"]:
            print(f"  not in the spec: {', '.join(table['unused_columns'])}")
    for reason, count in found.reasons.items():
        print(f"  {count} x {reason}")
    print(f"{found.rows} rows, {found.clicks} of them clicks; {found.orphans} refer to a user or item in no table")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    folds: Annotated[
        str, typer.Option(help="Repeats and folds of the cross-validation, as <repeats>x<folds>.")
    ] = "2x5",
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")] = "criteo",
    output: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
) -> None:
    """Cross-validate the training pipeline on your rows, with Spark on this machine and without a stack."""
    from cli import local_training

    _ready_for(dataset, data)
    local_training.evaluate(dataset, data, folds, output)


@app.command()
def tune(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")] = "criteo",
    trials: Annotated[int, typer.Option(min=1, help="Number of trials; the first is the spec as it is.")] = 30,
    rows: Annotated[int, typer.Option(min=1, help="Training rows of a trial.")] = 500_000,
    specs: Annotated[
        Path,
        typer.Option(help="Folder to write the spec and the trials' figures to.", show_default="workloads/datasets"),
    ] = _SPECS,
    experiment: Annotated[
        str, typer.Option(help="MLflow experiment to log the trials to, on the server of MLFLOW_TRACKING_URI.")
    ] = "",
) -> None:
    """Choose LightGBM's parameters on your rows, and write them into the dataset's spec, with the trials' figures."""
    from cli import local_training

    _ready_for(dataset, data)
    for path in local_training.tune(dataset, data, trials, rows, specs, experiment):
        print(f"wrote {path}")


@app.command()
def report(
    previews: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of `pulumi preview --json`. Without any, this project is previewed in a sandbox."),
    ] = None,
    base: Annotated[str, typer.Option(help="Git revision that is deployed in the sandbox first.")] = "HEAD^",
    stack: Annotated[
        list[str] | None, typer.Option(help="Stack to preview in the sandbox; all but local if none.")
    ] = None,
    base_preview: Annotated[
        list[Path] | None, typer.Option(help="Preview of the base branch. Changes that it has too are left out.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="JSON file of the stack outputs before the change, instead of the preview's.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="JSON file of the stack outputs after the change, instead of the preview's.")
    ] = None,
    allow_stateful: Annotated[
        bool, typer.Option(help="Accept that resources with data are replaced or deleted.", envvar="ALLOW_STATEFUL")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write a file <stack>.md per stack to; printed if none.")
    ] = None,
) -> None:
    """Report what a change does to stacks, as Markdown. Exit code 1: a preview failed; 3: data would be lost."""
    from cli.changes import sandbox_preview
    from cli.changes.preview import load
    from cli.changes.report import report as report_on

    bases = {found.stack: found for found in map(load, base_preview or [])}
    if output:
        _require_writable(output)
    outputs = {"before": _outputs(before), "after": _outputs(after)}
    place = "" if previews else sandbox_preview.PLACE
    failed = blocked = False
    for found in map(load, previews) if previews else sandbox_preview.previews(Path.cwd(), base, stack or [], _tell):
        base_of_it = bases.get(found.stack)
        made = report_on(found, base=base_of_it, allow_stateful=allow_stateful, place=place, **outputs)
        failed, blocked = failed or made.failed, blocked or made.blocked
        if output:
            (output / f"{made.stack}.md").write_text(made.text)
        else:
            print(made.text)
    if failed or blocked:
        raise typer.Exit(1 if failed else 3)


@app.command()
def steps(
    preview: Annotated[Path, typer.Argument(help="File of `pulumi preview --json`.")],
    output: Annotated[Path | None, typer.Option(help="File to write the steps to, for a later comparison.")] = None,
    approved: Annotated[Path | None, typer.Option(help="File of the approved steps to compare with.")] = None,
) -> None:
    """Write the steps of a preview, or compare them with the approved ones. Exit code 1: they differ."""
    from cli.changes.steps import Steps

    found = Steps.of_preview(preview)
    if output:
        found.dump(output)
    if approved and (differences := Steps.load(approved).differences(found)):
        lines = "\n".join(f"  - {line}" for line in differences)
        raise UserError(
            "nothing has been changed: the stack or its cloud has moved on since the approval, and `up` would do "
            f"something else now:\n{lines}\nRun the workflow again, for a plan of today and its approval"
        )
    print(f"{found.stack}: {len(found.by_urn)} steps{', as approved' if approved else ''}")


@app.command()
def lineage(
    snapshot: Annotated[
        str,
        typer.Option(
            help="Start from this snapshot and print the models made of it, instead of starting from the endpoint."
        ),
    ] = "",
    outputs: Annotated[
        Path | None, typer.Option(help="Outputs of a stack on Azure: pulumi stack output --json > FILE.")
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Print the models, runs, code and rows behind an endpoint, of the local run or of a stack on Azure."""
    from cli.stacks import lineage as chain

    of = _outputs(outputs) or _recorded(state)["outputs"]
    tree = chain.of_snapshot(of, snapshot) if snapshot else chain.of_endpoint(of)
    Console(width=None if sys.stdout.isatty() else 200).print(tree)


@app.command("open")
def open_page(
    stack: Annotated[str, typer.Argument(help="Name of a Pulumi stack; local: the local run.")] = "local",
    port: Annotated[int | None, typer.Option(help="Port of the page; a free one if not given.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the tables of users and items, to rank for a user.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Address of a replica's /metrics, such as a forwarded port.")
    ] = None,
    folder: StackFolder = _PROJECT,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Serve a page on 127.0.0.1 about a stack: resources, release, serving, plan, model, lineage, and a ranking."""
    from cli.dashboard import server, stack_source
    from cli.local_run import sandbox

    if stack == "local":
        where = State(state.absolute())
        recorded = where.recorded()
        of = stack_source.of_local_run(where.folder, recorded, sandbox.start(where.sandbox, None), data)
    else:
        of = stack_source.of_stack(folder.absolute(), stack, data, metrics or ())
    server.serve(of, port, _say)


@app.command()
def notebooks(
    output: Annotated[Path, typer.Option(help="Folder to write a file <name>.md per notebook and the plots to.")],
    outputs: Annotated[
        Path | None, typer.Option(help="Outputs of a stack on Azure: pulumi stack output --json > FILE.")
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Run the stack's notebooks in its Databricks workspace, and write their results as Markdown."""
    from cli import notebooks as run

    _require_writable(output)
    for path in run.render(run.run(_outputs(outputs) or _recorded(state)["outputs"]), output):
        print(f"wrote {path}")


@app.command("new-stack")
def new_stack(
    name: Annotated[str, typer.Argument(help="Name of the new stack, such as prod-swedencentral.")],
    like: Annotated[str, typer.Option(help="Existing stack to copy all settings but the region from.")],
    location: Annotated[str | None, typer.Option(help="Region, if it is not the last part of the name.")] = None,
    folder: StackFolder = _PROJECT,
) -> None:
    """Write the stack file of another region from an existing stack file."""
    from cli.stacks import files

    made = files.create(folder, name, like, location)
    print(f"{made.path}: as {like}, in {made.location}, environment {made.environment}")
    for key, why in made.review.items():
        print(f"  look at {key}: {why}")
    for path in made.secrets:
        print(f"  set again: pulumi config set --stack {name} --secret --path '{path}'")
    print(f"next: pulumi stack init {name} && personalization preflight --stack {name} && make preview STACK={name}")


@app.command()
def snapshot(
    stack: Annotated[str, typer.Option(help="Stack whose file is written, such as dev.")],
    landed: Annotated[bool, typer.Option("--landed", help="Take the newest day in the stack's lake.")] = False,
    day: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Latest day to take; today (UTC) if not given."),
    ] = None,
    folder: StackFolder = _PROJECT,
) -> None:
    """Write into the stack's file which rows it trains on: those of the last training, or newer ones in the lake."""
    from cli.stacks import snapshot as rows

    today = (day or datetime.datetime.now(datetime.UTC)).date()
    print(rows.update(folder, stack, landed, today))


@app.command("movielens")
def write_movielens(
    folder: Annotated[Path, typer.Argument(help="Folder to write the three files to.")],
) -> None:
    """Download MovieLens 100K as a first snapshot: the three files that the dataset movielens reads."""
    from cli.local_run import movielens

    movielens.fetch(folder, _tell)
    print(f"{folder}: {', '.join(movielens.TABLES)}")


@app.command()
def plan(
    stack: Annotated[str, typer.Option(help="Stack whose file is read, such as dev.")],
    folder: StackFolder = _PROJECT,
) -> None:
    """Print the resources, capacity and monthly cost of a stack file, without Azure. Exit code 1: the file is wrong."""
    from cli.changes import plan as planned
    from cli.changes.mock_program import declared
    from cli.stacks import files

    console = Console(width=None if sys.stdout.isatty() else 160)
    path = files.file_of(folder, stack)
    planned.show(declared(path), console)
    for end in files.settings_of(files.read(folder, stack), path.name).support_ends:
        console.print(f"  warning: {end}", highlight=False, soft_wrap=True)


@app.command()
def preflight(
    stack: Annotated[str, typer.Option(help="Stack to check, such as prod-swedencentral.")],
    reach: Annotated[
        bool,
        typer.Option(
            "--reach", help="Check only whether this machine reaches the stack's resources, as a release must."
        ),
    ] = False,
    folder: StackFolder = _PROJECT,
) -> None:
    """Check whether region or subscription would stop `up`. Exit code 1: a check failed, or could not run."""
    from cli.preflight import command as check

    findings = check.ask(folder, stack, "reach" if reach else "")
    check.show(findings, f"preflight of {stack}", Console(width=None if sys.stdout.isatty() else 160))
    if check.stops(findings):
        raise typer.Exit(1)


@app.command()
def approval(
    environment: Annotated[
        str, typer.Argument(help="Name of a GitHub environment of the repository whose workflow runs this.")
    ],
    branch: Annotated[
        str,
        typer.Option(help="Check that only this branch may deploy, instead of checking reviewers.", metavar="BRANCH"),
    ] = "",
) -> None:
    """Check in a workflow that GitHub makes a deployment wait for an approval. Exit code 1: it does not."""
    from cli import github

    repository = github.Repository.of_this_workflow()
    if branch:
        print(github.require_branch(repository, environment, branch))
    else:
        print(github.require_reviewers(repository, environment))


@app.command()
def teardown(
    stack: Annotated[str, typer.Argument(help="Stack to destroy, such as dev.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also purge soft-deleted resources, unless purge protection forbids it.")
    ] = False,
    destroy_protected: Annotated[
        str, typer.Option(help="The stack's name again: protected resources are deleted too.", metavar="STACK")
    ] = "",
    folder: StackFolder = _PROJECT,
) -> None:
    """Destroy a stack on Azure, and check afterwards that nothing is left. Exit code 1: something is left."""
    from cli.stacks.teardown import Teardown

    confirm = partial(_confirm, stack, yes)
    Teardown(folder, stack, _say).run(confirm, purge=purge, destroy_protected=destroy_protected)


def _confirm(stack: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nothing was destroyed: say --yes, or run it in a terminal and type the stack's name")
    if input(f"Type {stack} to destroy all of this: ").strip() != stack:
        raise UserError("nothing was destroyed: that is not the stack's name")


def _without_pulumi(problem: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(problem, file=sys.stderr)
    asked = "Stop the sandbox and remove the run without Pulumi? Nothing of it exists elsewhere. [y/N] "
    return input(asked).strip().lower() in ("y", "yes")


def _endpoint(state: Path) -> tuple[dict[str, Any], Any]:
    from cli.endpoint import Endpoint

    recorded = _recorded(state)
    return recorded, Endpoint.of(recorded["outputs"])


def _recorded(state: Path) -> dict[str, Any]:
    """What the local run wrote down, with its sandbox running."""
    from cli.local_run import sandbox

    where = State(state.absolute())
    recorded = where.recorded()
    sandbox.start(where.sandbox, None)
    return recorded


def _ready_for(dataset: str, data: Path) -> None:
    from cli import local_spark
    from workloads import spec

    _one_of("--dataset", dataset, tuple(spec.names()))
    local_spark.require_java()
    if not data.exists():
        raise UserError(f"{data}: there is no such file or folder of rows")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; it can be {' or '.join(allowed)}")


def _require_writable(folder: Path) -> None:
    """Make the folder before the long work whose results it is for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(f"--output is {folder}: {fault.strerror}. Give a folder") from None


def _outputs(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"there is no file {path} of stack outputs: pulumi stack output --json > {path}")
    outputs: dict[str, Any] = strict_json.load(path, "stack outputs")
    return outputs


def _say(line: str) -> None:
    print(line, flush=True)


def _tell(line: str) -> None:
    """Progress of a command whose standard output is its result."""
    print(line, file=sys.stderr, flush=True)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError:
        packages.require_local()
        raise


def main() -> None:
    try:
        _run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        from cli.dashboard.stack_source import UNANSWERED

        if not isinstance(error, UNANSWERED):
            raise
        print(f"error: the cloud did not answer as it should: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
