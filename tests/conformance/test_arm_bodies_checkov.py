"""checkov's rules for ARM templates, applied to all requests of the program: one template for each stack.

checkov's dependencies conflict with this project's, so it is installed into the user's cache. Uses the rules of the
pinned version and downloads none from the vendor's service.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testing.arm.answers import DEVELOPMENT, PRODUCTION
from testing.arm.bodies import Put, puts
from testing.sandbox.process import ROOT
from tools.commands import Unavailable
from tools.package_index import uv
from tools.steps import cache_folder

__all__ = ["puts"]

pytestmark = pytest.mark.stack

VERSION = "3.3.30"
_TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
}

ACCEPTED_EVERYWHERE = {
    "CKV2_AZURE_48": "Microsoft's keys encrypt the workspace's own storage, which holds no data of the program.",
    "CKV_AZURE_6": "Production's API server has no public address; development's ranges are a setting.",
    "CKV_AZURE_8": "The dashboard left AKS with Kubernetes 1.19, and its add-on with it.",
    "CKV_AZURE_166": "Quarantine lets nothing be pulled before a scanner has marked it, and there is none.",
    "CKV_AZURE_168": "Unset it is 250 with the overlay network; the rule takes 30.",
    "CKV_AZURE_172": "The secrets store driver is not installed: nothing here authenticates by secret.",
    "CKV_AZURE_206": "Production's Standard_ZRS is not in the rule's list; development's copies are in one zone.",
    "CKV_AZURE_226": "Standard_D4s_v5 has no local disk that could hold the system.",
    "CKV_AZURE_227": "Encryption at host must be registered in each subscription before.",
    "CKV_AZURE_243": "The rule looks for Azure ML's managed network; the private endpoint is a separate resource.",
}
ACCEPTED_IN_PRODUCTION = {
    "CKV_AZURE_95": "An automatic upgrade of the image replaces the runner's machine while it runs a job.",
    "CKV_AZURE_97": "Encryption at host must be registered in each subscription before.",
}
ACCEPTED_IN_DEVELOPMENT = {
    "CKV2_AZURE_49": "The network is public.",
    "CKV_AZURE_35": "The network is public; access is by identity.",
    "CKV_AZURE_42": "A deleted development stack must free its vault's name.",
    "CKV_AZURE_59": "The network is public; anonymous access is off.",
    "CKV_AZURE_109": "The network is public; access is by identity.",
    "CKV_AZURE_110": "A deleted development stack must free its vault's name.",
    "CKV_AZURE_139": "The network is public; access is by identity.",
    "CKV_AZURE_158": "The network is public.",
    "CKV_AZURE_163": "The Basic registry is not scanned.",
    "CKV_AZURE_189": "The network is public; access is by identity.",
    "CKV_AZURE_233": "Copies are in one zone.",
}


@pytest.fixture(scope="module")
def checkov() -> Path:
    """Path of checkov, installed once into the user's cache."""
    home = cache_folder(os.environ) / f"checkov-{VERSION}"
    program = home / "bin" / "checkov"
    if not program.exists():
        try:
            install = ["pip", "install", "--python", str(home), f"checkov=={VERSION}"]
            for step in (["venv", "--allow-existing", str(home)], install):
                uv(ROOT / ".venv", step, f"checkov {VERSION} could not be installed into {home}")
        except Unavailable as missing:
            pytest.skip(str(missing))
    return program


@pytest.fixture(scope="module")
def report(checkov: Path, puts: list[Put], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("templates")
    for stack in (PRODUCTION, DEVELOPMENT):
        template = _TEMPLATE | {"resources": [as_resource(put) for put in puts if put.stack == stack]}
        (folder / f"{stack}.json").write_text(json.dumps(template, indent=1))
    options = ["--framework", "arm", "--output", "json", "--skip-download", "--quiet", "--directory", str(folder)]
    done = subprocess.run([str(checkov), *options], capture_output=True, text=True, timeout=120)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def as_resource(put: Put) -> dict[str, Any]:
    """A body has the form of a template's resource already."""
    return {"type": put.type, "apiVersion": put.api_version, "name": put.name, **put.body}


def test_checkov_findings_equal_the_accepted_ones(report: dict[str, Any]) -> None:
    failed: dict[str, set[str]] = {PRODUCTION: set(), DEVELOPMENT: set()}
    shown = {}
    for check in report["results"]["failed_checks"]:
        failed[Path(check["file_path"]).stem].add(check["check_id"])
        shown[check["check_id"]] = f"{check['check_id']} {check['check_name']}: {check['resource']}"
    accepted = {
        PRODUCTION: ACCEPTED_EVERYWHERE | ACCEPTED_IN_PRODUCTION,
        DEVELOPMENT: ACCEPTED_EVERYWHERE | ACCEPTED_IN_DEVELOPMENT,
    }
    for stack, found in failed.items():
        assert not (new := found - accepted[stack].keys()), "\n".join(sorted(shown[check] for check in new))
        assert not (gone := accepted[stack].keys() - found), f"checkov accepts {sorted(gone)} of {stack} by now"


def test_checkov_checks_every_resource(report: dict[str, Any], puts: list[Put]) -> None:
    summary = report["summary"]
    assert summary["parsing_errors"] == 0
    # Settings on other resources share their name.
    assert summary["resource_count"] == len({(put.stack, put.type, put.name) for put in puts})
