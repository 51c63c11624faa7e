"""Runs the stack's notebooks in its Databricks workspace, and writes their output as Markdown.

The notebooks run one after the other on the interactive cluster. Rendering needs the notebook that the sandbox embeds
in an exported page. Databricks does not embed it in this form, so the pages in `docs/` come from a local stack.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import MarkdownExporter

from cli.errors import UserError
from infra.cloud.clients import AzureClients

NAMES = ("explore", "train", "operationalize")
_MINUTES = 60


@dataclass(frozen=True)
class NotebookRun:
    result: str | None
    """The notebook's exit value."""
    page: str
    """The notebook with its output, as HTML."""

    @property
    def notebook(self) -> nbformat.NotebookNode:
        """The notebook embedded in the page. Raises `UserError` if there is none."""
        embedded = re.search(r'<script type="application/x-ipynb\+json">(.*?)</script>', self.page, re.DOTALL)
        if embedded is None:
            raise UserError("the exported pages of this workspace do not embed the notebook: use a local stack")
        return nbformat.reads(embedded[1], as_version=4)


def run(outputs: Mapping[str, Any]) -> dict[str, NotebookRun]:
    """Run all notebooks of the stack with these outputs. Raises `UserError` with the error of a failed cell."""
    from databricks.sdk.errors import OperationFailed
    from databricks.sdk.service import jobs

    if not outputs.get("notebooks"):
        raise UserError("this stack has no notebooks: release:enabled is false, or its first release failed")
    if not outputs.get("interactive_cluster_id"):
        raise UserError("this stack has no interactive cluster: set training:interactive_cluster to true")
    client = AzureClients.discover().databricks(
        outputs["databricks_url"].removeprefix("https://"), outputs["databricks_workspace_id"]
    )
    tasks = [
        jobs.SubmitTask(
            name,
            depends_on=[jobs.TaskDependency(before)] if before else [],
            existing_cluster_id=outputs["interactive_cluster_id"],
            notebook_task=jobs.NotebookTask(f"{outputs['notebooks']}/{name}"),
        )
        for before, name in zip((None, *NAMES), NAMES, strict=False)
    ]
    run_id = client.jobs.submit(run_name="notebooks", tasks=tasks, timeout_seconds=_MINUTES * 60).run_id
    try:
        done = client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timeout=datetime.timedelta(minutes=_MINUTES))
    except OperationFailed:
        done = client.jobs.get_run(run_id)
    for task in done.tasks:
        if task.state.result_state not in (jobs.RunResultState.SUCCESS, jobs.RunResultState.UPSTREAM_FAILED):
            error = client.jobs.get_run_output(task.run_id).error or task.state.state_message
            raise UserError(f"notebook {task.task_key} failed: {error}\n{done.run_page_url}")
    return {task.task_key: _notebook_run(client, task.run_id) for task in done.tasks}


def _notebook_run(client: Any, run_id: int) -> NotebookRun:
    output = client.jobs.get_run_output(run_id).notebook_output
    (view,) = client.jobs.export_run(run_id).views
    return NotebookRun(output.result if output else None, view.content)


def render(runs: Mapping[str, NotebookRun], folder: Path) -> list[Path]:
    """Write `<name>.md` and the plots of each notebook, replacing earlier ones. Returns the written files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, notebook_run in runs.items():
        for old in folder.glob(f"{name}*.png"):
            old.unlink()
        text, resources = MarkdownExporter().from_notebook_node(
            notebook_run.notebook, resources={"unique_key": name, "output_files_dir": "."}
        )
        for file, content in resources["outputs"].items():
            written.append(folder / file)
            written[-1].write_bytes(content)
        written.append(folder / f"{name}.md")
        # The converter puts blank lines around a plot, and gives all plots the same text.
        written[-1].write_text(
            re.sub(r"\n\s*\n *!\[png\](\S+)\s*\n", rf"\n\n![A plot of {name}]\1\n\n", text).strip() + "\n"
        )
    return written
