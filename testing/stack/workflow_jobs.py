"""The scripts of this repository's workflows, run as GitHub runs them: step by step, by `bash -e`, in one folder.

Only scripts of the workflow itself are run; actions (checkout, the artifacts, `./.github/actions/…`) are not.
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
    """Where a step's expressions come from, too: STACK, GITHUB_TOKEN, …"""

    def run(self, workflow: str, job: str) -> tuple[int, str]:
        """Exit code of the first step that fails, or 0, and what all of them printed.

        After a failure the steps follow whose condition asks for one, and no others.
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
