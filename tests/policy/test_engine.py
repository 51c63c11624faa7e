"""The policy pack as the real CLI runs it: `pulumi preview --policy-pack policy`."""

import json
import re
from pathlib import Path

import pytest

from policy.stack import PRODUCTION
from testing.arm.azure_native import Engine, engine
from testing.sandbox.process import ROOT, running_sandbox

__all__ = ["engine"]

PACK = ["preview", "--policy-pack", str(ROOT / "policy")]
PROGRAM = """
import pulumi
from pulumi_azure_native import storage

storage.StorageAccount(
    "lake", account_name="lake", resource_group_name="g", kind="StorageV2", sku={{"name": "Standard_LRS"}},
    minimum_tls_version="TLS1_2", allow_shared_key_access={keys}, tags={{"environment": "dev", "stack": "dev"}},
)
"""


def configure(engine: Engine, stack: str, values: dict[str, str]) -> None:
    engine("stack", "init", stack)
    for key, value in {"azure-native:location": "westeurope", PRODUCTION: "false", **values}.items():
        engine("config", "set", key, value)


def test_engine_refuses_account_keys_and_names_the_rule(engine: Engine, tmp_path: Path) -> None:
    # A preview of a resource that does not exist asks no cloud.
    configure(engine, "dev", {"azure-native:subscriptionId": "s", "azure-native:metadataHost": "127.0.0.1:1"})
    engine.program(PROGRAM.format(keys=True))
    refused = engine.run(*PACK)
    assert refused.returncode != 0
    assert "[mandatory]  storage-shared-keys  (azure-native:storage:StorageAccount: lake)" in refused.stdout
    assert "allowSharedKeyAccess is true; set it to false." in refused.stdout
    assert refused.stdout.count("[mandatory]") == 1

    engine("config", "set", PRODUCTION, "true")
    assert "[mandatory]  protected-in-production" in engine.run(*PACK).stdout
    engine("config", "set", PRODUCTION, "false")
    engine.program(PROGRAM.format(keys=False))
    passed = engine(*PACK)
    assert "[advisory]  public-network-access  (azure-native:storage:StorageAccount: lake)" in passed
    assert "[mandatory]" not in passed

    elsewhere = tmp_path / "policies.json"
    elsewhere.write_text(json.dumps({"allowed-regions": {"regions": ["eastus"]}}))
    assert "[mandatory]  allowed-regions" in engine.run(*PACK, "--policy-pack-config", str(elsewhere)).stdout


@pytest.mark.stack
def test_public_production_stack_violates_only_the_certificate_rule(engine: Engine, tmp_path: Path) -> None:
    (engine.folder / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    (engine.folder / "infra").symlink_to(ROOT / "infra")
    with running_sandbox(tmp_path / "sandbox") as cloud:
        engine.environment = {**engine.environment, **cloud.environment}
        configure(engine, "westeurope", {"environment": "live", PRODUCTION: "true", "release:enabled": "false"})
        shown = engine.run(*PACK).stdout
    assert "[mandatory]  endpoint-tls" in shown
    assert shown.count("[mandatory]") == 1
    assert "[advisory]  public-network-access" in shown
    assert "can't run policy" not in shown
    assert set(re.findall(r"@v(\d+\.\d+\.\d+)", shown)) == {"0.0.1"}
