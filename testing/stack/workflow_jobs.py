"""Run the scripts of this repository's workflows as GitHub does: step by step, with `bash -e`, in one folder.

Runs only the scripts of the workflow, not actions (checkout, artifacts, `./.github/actions/…`).
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class WorkflowJobs:
    folder: Path
    environment: Mapping[str, str]
    """Environment of every step. It replaces the expressions of the step's `env` too: STACK, GITHUB_TOKEN, …"""

    def run(self, workflow: str, job: str) -> tuple[int, str]:
        """Return the exit code of the first step that fails, or 0, and the output of all steps.

        After a failure, only steps with the condition `failure()` run.
        """
        text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text()
        code, printed = 0, ""
        for step in yaml.safe_load(text)["jobs"][job]["steps"]:
            if "run" not in step or bool(code) != ("failure()" in str(step.get("if"))):
                continue
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=self.folder,
                env=dict(self.environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=900,
                check=False,
            )
            printed += done.stdout
            code = code or done.returncode
        return code, printed
