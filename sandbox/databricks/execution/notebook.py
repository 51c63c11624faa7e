"""A separate program, started by `driver.py`, that runs one notebook from top to bottom in an IPython kernel.

Reads an order file: the notebook in Databricks' source format, the widgets' values, the path of the page. Writes the
page, the same as `<page>.ipynb`, and for the driver `<order>.done` with the result or the error of the failed cell.
Runs Python cells and `%md`; others are refused. Imports nothing of the sandbox, for the same reason as the driver.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import v4

# Source: databricks/cli bundle/trampoline/python_wheel.go (NOTEBOOK_TEMPLATE)
_HEADER = "# Databricks notebook source"
# Source: databricks/cli bundle/trampoline/python_wheel.go (NOTEBOOK_TEMPLATE: # COMMAND ----------)
_BETWEEN = re.compile(r"^# COMMAND -+[ \t]*$", re.MULTILINE)
# Source: https://docs.databricks.com/aws/en/notebooks/notebook-export-import
_MAGIC = "# MAGIC"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_KERNEL = Path(__file__).with_name("kernel.py")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ background: #f4f5f7; padding: .6rem 1rem; overflow-x: auto; font-size: 13px; }} img {{ max-width: 100%; }}
.jp-OutputArea-output pre {{ background: none; }} .jp-InputPrompt, .jp-OutputPrompt, .anchor-link {{ display: none; }}
</style></head><body>
{body}
<script type="application/x-ipynb+json">{notebook}</script>
</body></html>
"""


class NotAnotebook(ValueError):
    """The source is not a notebook, or has a cell that cannot be run here."""


def parse(source: str) -> nbformat.NotebookNode:
    header, _, body = source.partition("\n")
    if header.strip() != _HEADER:
        raise NotAnotebook(f"its first line is not {_HEADER!r}")
    cells = [_cell(text.strip("\n")) for text in _BETWEEN.split(body) if text.strip()]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def _cell(text: str) -> nbformat.NotebookNode:
    lines = text.splitlines()
    if not any(line.startswith(_MAGIC) for line in lines):
        return v4.new_code_cell(text)
    unmarked = [line.removeprefix(_MAGIC).removeprefix(" ") for line in lines]
    kind, _, first = unmarked[0].partition(" ")
    if kind != "%md" or not all(line.startswith(_MAGIC) for line in lines):
        raise NotAnotebook(f"a cell begins with {lines[0]!r}: cells are Python, or Markdown by {_MAGIC} %md")
    return v4.new_markdown_cell("\n".join((first, *unmarked[1:])).strip())


def main(order_file: Path) -> None:
    order = json.loads(order_file.read_text())
    notebook, page = v4.new_notebook(), Path(order["page"])
    try:
        notebook = parse(Path(order["notebook"]).read_text())
        answer = _run(notebook, order_file, Path(order["notebook"]).parent)
    except NotAnotebook as error:
        answer = {"error": f"{order['path']}: {error}", "trace": ""}
    except DeadKernelError as error:
        answer = {"error": f"{order['path']}: the notebook's Python ended: {error}", "trace": ""}
    values = [json.dumps(secret.read_text())[1:-1] for secret in Path(order["secrets"]).glob("*/*")]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.from_dict(output) for output in json.loads(_redacted(cell.outputs, values))]
    text = nbformat.writes(notebook)
    page.with_suffix(".ipynb").write_text(text)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    embedded = text.replace("</", "<\\/")  # the same to a JSON parser
    page.write_text(_PAGE.format(title=page.stem, body=body, notebook=embedded))
    done = order_file.with_name(f"{order_file.name}.partial")
    done.write_text(_redacted(answer, values))
    done.rename(order_file.with_name(f"{order_file.name}.done"))


def _run(notebook: nbformat.NotebookNode, order_file: Path, folder: Path) -> dict[str, Any]:
    """Run the cells and store their output in them; return result or error. A temporary first cell runs `kernel.py`."""
    notebook.cells.insert(0, v4.new_code_cell(f'%run "{_KERNEL}" "{order_file}"'))
    client = NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--HistoryManager.enabled=False"],
    )
    try:
        client.execute()
        return {"error": None, "result": None}
    except CellExecutionError as failure:
        if failure.ename != "NotebookExit":
            trace = _ANSI.sub("", failure.traceback)
            return {"error": f"{failure.ename}: {failure.evalue}", "trace": trace}
        for cell in notebook.cells:
            if any(output.get("ename") == "NotebookExit" for output in cell.get("outputs", [])):
                cell.outputs[-1] = v4.new_output("stream", text=f"Notebook exited: {failure.evalue}\n")
        return {"error": None, "result": failure.evalue}
    finally:
        del notebook.cells[0]


def _redacted(shown: Any, secrets: list[str]) -> str:
    """The value as JSON, with each secret replaced, as Databricks does in all output."""
    text = json.dumps(shown)
    for secret in filter(None, secrets):
        text = text.replace(secret, "[REDACTED]")
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
