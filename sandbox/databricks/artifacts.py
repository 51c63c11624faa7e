"""MLflow artefacts of a workspace: Databricks' addresses of them, and their files on this machine.

A client whose tracking URI is `databricks` reads and writes them through the Files API, below `/WorkspaceInternal`
(`DatabricksRunArtifactRepository` and `DatabricksLoggedModelArtifactRepository` of mlflow). Clusters use the
MLflow server's own addresses. Has no signed addresses, which older clients use.
"""

import re
from pathlib import Path

from sandbox import blob
from sandbox.databricks.workspace import Workspace

# Source: mlflow==3.17.2 mlflow/store/artifact/databricks_run_artifact_repo.py
ROOT = "/WorkspaceInternal/Mlflow/Artifacts/"
# Source: mlflow==3.17.2 mlflow/store/artifact/databricks_artifact_repo.py (dbfs:/databricks/mlflow-tracking)
_OWN = re.compile(rb'"mlflow-artifacts:/([^/"]+)(/models)?')
# Source: mlflow==3.17.2 mlflow/store/artifact/databricks_run_artifact_repo.py; mlflow==3.17.2
# mlflow/store/artifact/databricks_logged_model_artifact_repo.py
_PATH = re.compile(rf"{ROOT}([^/]+)/(Runs|LoggedModels)/(.+)")


def folder(workspace: Workspace) -> Path:
    """Folder of the server's artefacts: `<experiment>/<run>/artifacts`, `<experiment>/models/<model>/artifacts`."""
    return workspace.folder / "tracking" / "artifacts"


def shown(answer: bytes) -> bytes:
    """The server's answer with the addresses that Databricks gives."""
    return _OWN.sub(lambda own: _address(own[1], own[2]), answer)


def real_path(workspace: Workspace, path: str) -> Path:
    match = _PATH.fullmatch(path.rstrip("/"))
    if match is None:
        # No source: read a file below /WorkspaceInternal that is not an artefact, and read the error.
        raise ValueError(f"The path {path!r} is not of the form {ROOT}<experiment>/Runs/<run>/….")
    experiment, kind, rest = match.groups()
    return blob.safe_path(folder(workspace), "/".join((experiment, *(["models"] if kind != "Runs" else []), rest)))


def _address(experiment: bytes, models: bytes | None) -> bytes:
    return b'"dbfs:/databricks/mlflow-tracking/' + experiment + (b"/logged_models" if models else b"")
