"""Names that every notebook has: `spark`, `dbutils`, `display` and `displayHTML`. Runs in the kernel before the cells.

The process attaches to the JVM of the cluster's driver, so a notebook finds the tables that an earlier one cached.
Notebooks share one session, where Databricks gives each notebook its own. `dbutils` has widgets, secrets and
`notebook.exit` only. A widget's value that is a path in a volume becomes the path of the lake's folder, because volumes
are not mounted here.
"""

import html
import json
import sys
from pathlib import Path
from typing import Any

import IPython.display
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, SparkSession

# Source: https://docs.databricks.com/aws/en/notebooks/notebook-outputs (display shows at most 10,000 rows or 2 MB;
# fewer here)
_ROWS = 1000  # the most that `display` shows


class NotebookExit(Exception):
    """Ends the notebook and its run successfully; the message is the result."""


class InputWidgetNotDefined(Exception):
    """Neither the notebook defined a widget of that name nor the job a parameter."""


class _Widgets:
    def __init__(self, given: dict[str, str], volumes: dict[str, str]) -> None:
        self._given, self._volumes, self._made = given, volumes, dict[str, str]()

    def text(self, name: str, defaultValue: str, label: str | None = None) -> None:
        self._made[name] = defaultValue

    def dropdown(self, name: str, defaultValue: str, choices: list[str], label: str | None = None) -> None:
        if self._given.get(name, defaultValue) not in choices:
            # No source: call dbutils.widgets.dropdown with a default that is not a choice, and read the error.
            raise ValueError(f"widget {name!r}: {self._given.get(name, defaultValue)!r} is not one of {choices}")
        self._made[name] = defaultValue

    def get(self, name: str) -> str:
        values = self.getAll()
        if name not in values:
            raise InputWidgetNotDefined(f"No input widget named {name} is defined.")
        return values[name]

    def getAll(self) -> dict[str, str]:
        return {name: self._mapped(value) for name, value in (self._made | self._given).items()}

    def _mapped(self, value: str) -> str:
        for volume, folder in self._volumes.items():
            if f"{value}/".startswith(f"{volume}/"):
                return folder + value.removeprefix(volume)
        return value


class _Secrets:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, scope: str, key: str) -> str:
        secret = self._folder / scope / key
        if not secret.is_file():
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/workspace.py (SecretsAPI.get_secret:
            # RESOURCE_DOES_NOT_EXIST)
            raise ValueError(f"Secret does not exist with scope: {scope} and key: {key}")
        return secret.read_text()


class _Notebook:
    def exit(self, value: str) -> None:
        raise NotebookExit(value)


class _Utilities:
    def __init__(self, order: dict[str, Any]) -> None:
        self.widgets = _Widgets(order["widgets"], order["volumes"])
        self.secrets = _Secrets(Path(order["secrets"]))
        self.notebook = _Notebook()


def displayHTML(markup: str) -> None:
    IPython.display.display(IPython.display.HTML(markup))


def display(shown: Any) -> None:
    """Show the first rows of a Spark table; anything else as IPython does."""
    if not isinstance(shown, DataFrame):
        return IPython.display.display(shown)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in shown.columns)
    rows = (
        "".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in shown.limit(_ROWS).toLocalIterator()
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    displayHTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _attach() -> SparkSession:
    """The session on the JVM whose port and secret are in the environment, as pyspark's gateway takes them."""
    gateway = launch_gateway()
    jvm = gateway.jvm
    context = jvm.org.apache.spark.SparkContext.getOrCreate()
    java = jvm.org.apache.spark.api.java.JavaSparkContext.fromSparkContext(context)
    SparkContext(conf=SparkConf(_jvm=jvm, _jconf=context.getConf()), gateway=gateway, jsc=java)
    return SparkSession.builder.getOrCreate()


spark = _attach()
sc = spark.sparkContext
dbutils = _Utilities(json.loads(Path(sys.argv[1]).read_text()))
