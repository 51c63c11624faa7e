"""Arguments, options and output of the `personalization` command.

`docs/reference/cli.md` is generated from them. Exit code 1 is an error that the message explains; `change-report` also
returns 3. Each command imports the module that does its work only when it runs, because those modules load Spark or the
Azure SDKs.
"""

import datetime
import functools
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli import strict_json
from cli.errors import UserError
from cli.local_run.run_directory import RunDirectory
from cli.paths import PROJECT

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
StateFolder = Annotated[Path, typer.Option("--state", help="Folder of the local run: its stack, data and logs.")]
_DEFAULT_STATE = Path(".local")
StackFolder = Annotated[
    Path, typer.Option("--folder", help="Folder of the stack files.", show_default="the project's folder")
]
_SPECS = PROJECT / "workloads" / "datasets"

RENAMED = {
    "snapshot": "select-snapshot",
    "evaluate": "cross-validate",
    "report": "change-report",
    "open": "dashboard",
}
"""Present name of each renamed command by its earlier name, which works with a warning for one more release."""


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
    rows = Path(data).expanduser() if data else None
    try:
        run_summary = run.up(RunDirectory(state.absolute()), dataset, rows, engine, port, _print_line)
    except KeyboardInterrupt:
        raise UserError("interrupted. `make local` continues the run; `make local-down` removes it") from None
    # Users copy addresses from the output, so lines are not wrapped at 80 columns in a file or a pipe.
    show(run_summary, Console(width=None if sys.stdout.isatty() else 160))


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

    run.down(RunDirectory(state.absolute()), _print_line, force=force, confirm=_confirm_without_pulumi)


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
    from cli import ranking
    from workloads import spec

    recorded, endpoint = _endpoint(state)
    dataset = spec.load(recorded["dataset"])
    if dataset.users is None or dataset.items is None:
        raise UserError(f"dataset {dataset.name} has no tables of users and items, so nothing can be ranked")
    features = ranking.parse_context(dataset, context or [])
    for item in ranking.rank(endpoint, dataset, Path(recorded["data"]), user, top, features):
        print(f"{item['probability']:.6f}  {item['id']}  {item['title']}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")],
) -> None:
    """Check a dataset's spec against rows: read, join and convert every line as training does, with local Spark."""
    from cli import local_training

    _require_spark_and_rows(dataset, data)
    result = local_training.check(dataset, data)
    for name, table in result.tables.items():
        print(f"{name}: {table['file']}, {table['rows']} lines read, {table['rejected']} left out")
        if table["unused_columns"]:
            print(f"  not in the spec: {', '.join(table['unused_columns'])}")
    for reason, count in result.reasons.items():
        print(f"  {count} x {reason}")
    print(
        f"{result.rows} rows, {result.clicks} of them clicks; {result.orphans} rows name a user or an item that is "
        "missing from its table"
    )


@app.command("cross-validate")
def cross_validate(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    folds: Annotated[
        str, typer.Option(help="Repeats and folds of the cross-validation, as <repeats>x<folds>.")
    ] = "2x5",
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")] = "criteo",
    output: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
) -> None:
    """Cross-validate the training pipeline on your rows, with Spark on this machine and without a stack."""
    from cli import local_training

    _require_spark_and_rows(dataset, data)
    local_training.cross_validate(dataset, data, folds, output)


@app.command()
def tune(
    data: Annotated[Path, typer.Argument(help="Your file or folder of rows.", metavar="DATA")],
    dataset: Annotated[str, typer.Option(help="Name of a dataset spec.")] = "criteo",
    trials: Annotated[int, typer.Option(min=1, help="Number of trials; the first is the unchanged spec.")] = 30,
    rows: Annotated[int, typer.Option(min=1, help="Training rows of a trial.")] = 500_000,
    specs: Annotated[
        Path,
        typer.Option(help="Folder to write the spec and the trials' figures to.", show_default="workloads/datasets"),
    ] = _SPECS,
    experiment: Annotated[
        str, typer.Option(help="MLflow experiment to log the trials to, on the server of MLFLOW_TRACKING_URI.")
    ] = "",
) -> None:
    """Tune LightGBM's parameters on your rows. Writes the best into the dataset's spec, and a file of all trials."""
    from cli import local_training

    _require_spark_and_rows(dataset, data)
    for path in local_training.tune(dataset, data, trials, rows, specs, experiment):
        print(f"wrote {path}")


@app.command("change-report")
def change_report(
    previews: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of `pulumi preview --json`. Without any, this project is previewed in a sandbox."),
    ] = None,
    base: Annotated[str, typer.Option(help="Git revision that is deployed in the sandbox first.")] = "HEAD^",
    stack: Annotated[
        list[str] | None, typer.Option(help="Stack to preview in the sandbox; all but local if none.")
    ] = None,
    base_preview: Annotated[
        list[Path] | None, typer.Option(help="Preview of the base branch. Changes that it also contains are left out.")
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
    """Report the effect of a change on stacks, as Markdown. Exit code 1: a preview failed; 3: data would be lost."""
    from cli.changes import sandbox_preview
    from cli.changes.preview import Preview, load
    from cli.changes.report import report

    bases = {preview.stack: preview for preview in map(load, base_preview or [])}
    if output:
        _require_writable(output)
    outputs = {"before": _outputs(before), "after": _outputs(after)}
    loaded: Iterable[Preview]
    if previews:
        loaded, place = map(load, previews), ""
    else:
        loaded = sandbox_preview.previews(Path.cwd(), base, stack or [], _print_progress)
        place = sandbox_preview.PLACE
    failed = blocked = False
    for preview in loaded:
        on_stack = report(preview, base=bases.get(preview.stack), allow_stateful=allow_stateful, place=place, **outputs)
        failed, blocked = failed or on_stack.failed, blocked or on_stack.blocked
        if output:
            (output / f"{on_stack.stack}.md").write_text(on_stack.text)
        else:
            print(on_stack.text)
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

    planned = Steps.of_preview(preview)
    if output:
        planned.dump(output)
    if approved and (differences := Steps.load(approved).differences(planned)):
        lines = "\n".join(f"  - {line}" for line in differences)
        raise UserError(
            "nothing has been changed: the stack or its resources have changed since the approval, so `up` would "
            f"perform other steps than the approved ones:\n{lines}\n"
            "Run the workflow again, for a new plan and its approval"
        )
    print(f"{planned.stack}: {len(planned.by_urn)} steps{', as approved' if approved else ''}")


@app.command()
def lineage(
    snapshot: Annotated[
        str,
        typer.Option(
            help="Start from this snapshot and print the models trained on it, instead of starting from the endpoint."
        ),
    ] = "",
    outputs: Annotated[
        Path | None, typer.Option(help="Outputs of a stack on Azure: pulumi stack output --json > FILE.")
    ] = None,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Print the models, runs, code and rows behind an endpoint, of the local run or of a stack on Azure."""
    from cli.stacks import lineage as records

    stack_outputs = _outputs(outputs) or _recorded(state)["outputs"]
    root = records.of_snapshot(stack_outputs, snapshot) if snapshot else records.of_endpoint(stack_outputs)
    Console(width=None if sys.stdout.isatty() else 200).print(records.tree(root))


@app.command("dashboard")
def open_dashboard(
    stack: Annotated[str, typer.Argument(help="Name of a Pulumi stack; local: the local run.")] = "local",
    port: Annotated[int | None, typer.Option(help="Port of the dashboard; a free one if not given.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the tables of users and items, to rank for a user.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Address of a replica's /metrics, such as that of a forwarded port.")
    ] = None,
    folder: StackFolder = PROJECT,
    state: StateFolder = _DEFAULT_STATE,
) -> None:
    """Serve a dashboard of a stack on 127.0.0.1: resources, release, serving, plan, model, lineage and a ranking."""
    from cli.dashboard import server, stack_source
    from cli.local_run import sandbox

    if stack == "local":
        run = RunDirectory(state.absolute())
        recorded = run.recorded()
        source = stack_source.of_local_run(run.folder, recorded, sandbox.start(run.sandbox, None), data)
    else:
        source = stack_source.of_stack(folder.absolute(), stack, data, metrics or ())
    server.serve(source, port, _print_line)


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
    folder: StackFolder = PROJECT,
) -> None:
    """Write the stack file of another region, from an existing stack file."""
    from cli.stacks import files

    created = files.create(folder, name, like, location)
    print(f"{created.path}: copied from {like}, in {created.location}, environment {created.environment}")
    for key, why in created.review.items():
        print(f"  review {key}: {why}")
    for path in created.secrets:
        print(f"  set again: pulumi config set --stack {name} --secret --path '{path}'")
    print(f"next: pulumi stack init {name} && personalization preflight --stack {name} && make preview STACK={name}")


@app.command("select-snapshot")
def select_snapshot(
    stack: Annotated[str, typer.Option(help="Stack whose file is written, such as dev.")],
    landed: Annotated[bool, typer.Option("--landed", help="Take the newest day in the stack's lake.")] = False,
    day: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Latest day to take; today (UTC) if not given."),
    ] = None,
    folder: StackFolder = PROJECT,
) -> None:
    """Set training:snapshot in the stack's file to the snapshot of the last training, or to a newer one in the lake."""
    from cli.stacks import snapshot

    today = (day or datetime.datetime.now(datetime.UTC)).date()
    print(snapshot.update(folder, stack, landed, today))


@app.command("movielens")
def write_movielens(
    folder: Annotated[Path, typer.Argument(help="Folder to write the three files to.")],
) -> None:
    """Download MovieLens 100K as a first snapshot: the three files that the dataset movielens reads."""
    from cli.local_run import movielens

    movielens.fetch(folder, _print_progress)
    print(f"{folder}: {', '.join(movielens.TABLES)}")


@app.command()
def plan(
    stack: Annotated[str, typer.Option(help="Stack whose file is read, such as dev.")],
    folder: StackFolder = PROJECT,
) -> None:
    """Print capacity and monthly cost of a stack file, without Azure. Exit code 1: the file is wrong."""
    from cli.changes import plan as tables
    from cli.changes.mock_program import declared
    from cli.stacks import files
    from infra.config import former_names

    console = Console(width=None if sys.stdout.isatty() else 160)
    path = files.file_of(folder, stack)
    tables.show(declared(path), console)
    config = files.read(folder, stack)
    ends = files.settings_of(config, path.name).support_ends
    for warning in [*former_names.deprecations(config), *ends]:
        console.print(f"  warning: {warning}", highlight=False, soft_wrap=True)


@app.command()
def preflight(
    stack: Annotated[str, typer.Option(help="Stack to check, such as prod-swedencentral.")],
    reach: Annotated[
        bool,
        typer.Option(
            "--reach", help="Check only whether this machine reaches the stack's resources, which a release needs."
        ),
    ] = False,
    folder: StackFolder = PROJECT,
) -> None:
    """Check whether region or subscription would stop `up`. Exit code 1: a check failed, or could not run."""
    from cli.preflight import command

    findings = command.run_checks(folder, stack, "reach" if reach else "")
    command.show(findings, f"preflight of {stack}", Console(width=None if sys.stdout.isatty() else 160))
    if command.stops(findings):
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
    """Check in a workflow that GitHub holds a deployment until it is approved. Exit code 1: it does not."""
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
        str, typer.Option(help="The stack's name again: also delete protected resources.", metavar="STACK")
    ] = "",
    folder: StackFolder = PROJECT,
) -> None:
    """Destroy a stack on Azure, then check that nothing is left. Exit code 1: something is left."""
    from cli.stacks.teardown import Teardown

    confirm = functools.partial(_confirm, stack, yes)
    Teardown(folder, stack, _print_line).run(confirm, purge=purge, destroy_protected=destroy_protected)


def _keep_earlier_name(name: str, present: str, command: Callable[..., None]) -> None:
    """Add a hidden command with an earlier name, which prints a deprecation warning on standard error."""

    @functools.wraps(command)
    def warn_and_run(*arguments: Any, **options: Any) -> None:
        _print_progress(
            f"warning: `personalization {name}` is deprecated and will be removed in the next release; "
            f"use `personalization {present}`"
        )
        command(*arguments, **options)

    app.command(name, hidden=True)(warn_and_run)


_functions = {command.name: command.callback for command in app.registered_commands}
for _name, _present in RENAMED.items():
    if _function := _functions[_present]:
        _keep_earlier_name(_name, _present, _function)


def _confirm(stack: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nothing was destroyed: pass --yes, or run it in a terminal and type the stack's name")
    if input(f"Type {stack} to destroy all of this: ").strip() != stack:
        raise UserError("nothing was destroyed: that is not the stack's name")


def _confirm_without_pulumi(problem: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(problem, file=sys.stderr)
    question = "Stop the sandbox and remove the run without Pulumi? The run has no resources elsewhere. [y/N] "
    return input(question).strip().lower() in ("y", "yes")


def _endpoint(state: Path) -> tuple[dict[str, Any], Any]:
    from cli.endpoint import Endpoint

    recorded = _recorded(state)
    return recorded, Endpoint.of(recorded["outputs"])


def _recorded(state: Path) -> dict[str, Any]:
    """Return the record of the local run, after starting its sandbox."""
    from cli.local_run import sandbox

    run = RunDirectory(state.absolute())
    recorded = run.recorded()
    sandbox.start(run.sandbox, None)
    return recorded


def _require_spark_and_rows(dataset: str, data: Path) -> None:
    from cli import local_spark
    from workloads import spec

    _one_of("--dataset", dataset, tuple(spec.names()))
    local_spark.require_java()
    if not data.exists():
        raise UserError(f"{data}: no such file or folder of rows")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; it can be {' or '.join(allowed)}")


def _require_writable(folder: Path) -> None:
    """Create the folder of the results before the long work starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(f"--output is {folder}: {fault.strerror}. Give a folder") from None


def _outputs(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"file {path} of stack outputs does not exist. Write it: pulumi stack output --json > {path}")
    outputs: dict[str, Any] = strict_json.load(path, "stack outputs")
    return outputs


def _print_line(line: str) -> None:
    print(line, flush=True)


def _print_progress(line: str) -> None:
    """Print on standard error, for a command whose standard output is its result."""
    print(line, file=sys.stderr, flush=True)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError:
        from cli import packages

        packages.require_local()
        raise


def main() -> None:
    try:
        _run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        from cli.dashboard.stack_source import EXPECTED_ERRORS

        if not isinstance(error, EXPECTED_ERRORS):
            raise
        print(f"error: unexpected answer from the cloud: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
