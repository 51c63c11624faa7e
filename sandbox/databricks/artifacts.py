"""MLflow artefacts as a workspace shows them: addresses of Databricks' own storage, and the files behind them.

A client whose tracking URI is `databricks` reads and writes them through the Files API, below `/WorkspaceInternal`
(`DatabricksRunArtifactRepository` and `DatabricksLoggedModelArtifactRepository` of mlflow). The server keeps its own
addresses, which clusters use. Hands out no signed addresses, the older way.
"""

import re
from pathlib import Path

from sandbox import blob
from sandbox.databricks.workspace import Workspace

ROOT = "/WorkspaceInternal/Mlflow/Artifacts/"
_OWN = re.compile(rb'"mlflow-artifacts:/([^/"]+)(/models)?')
_PATH = re.compile(rf"{ROOT}([^/]+)/(Runs|LoggedModels)/(.+)")


def folder(workspace: Workspace) -> Path:
    """Where the server keeps them: `<experiment>/<run>/artifacts`, `<experiment>/models/<model>/artifacts`."""
    return workspace.folder / "tracking" / "artifacts"


def shown(answer: bytes) -> bytes:
    """The server's answer with the addresses that Databricks gives."""
    return _OWN.sub(lambda own: _address(own[1], own[2]), answer)


def real_path(workspace: Workspace, path: str) -> Path:
    match = _PATH.fullmatch(path.rstrip("/"))
    if match is None:
        raise ValueError(f"The path {path!r} is not of the form {ROOT}<experiment>/Runs/<run>/….")
    experiment, kind, rest = match.groups()
    return blob.safe_path(folder(workspace), "/".join((experiment, *(["models"] if kind != "Runs" else []), rest)))


def _address(experiment: bytes, models: bytes | None) -> bytes:
    return b'"dbfs:/databricks/mlflow-tracking/' + experiment + (b"/logged_models" if models else b"")
