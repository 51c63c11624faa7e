"""Whether the vault holds the key with which a runner registers. Without it `up` succeeds, but no machine takes a job.

Azure Resource Manager returns the secret without its value. Does not ask GitHub whether the key belongs to the App.
Source: Azure/azure-rest-api-specs
specification/keyvault/resource-manager/Microsoft.KeyVault/stable/2024-11-01/secrets.json
"""

from collections.abc import Iterator
from functools import partial

from cli.preflight.arm_models import Anything
from cli.preflight.check import Finding, Level, Question, Target
from infra.config.naming import RUNNER_SECRET

_VAULT, _VERSION = "Microsoft.KeyVault/vaults", "2024-11-01"


def questions(target: Target) -> Iterator[Question]:
    if target.settings.runners:
        yield Question("runner", "of its key", partial(_key, target))


def _key(target: Target) -> Iterator[Finding]:
    secret = f"{target.resource(_VAULT, target.names.key_vault)}/secrets/{RUNNER_SECRET}"
    if target.arm.get(Anything, secret, _VERSION):
        yield Finding("runner", Level.OK, "its key is in the vault")
    else:
        says = f"the vault holds no secret {RUNNER_SECRET}, so no machine can register as a runner"
        remedy = (
            "jq --raw-input --slurp '{properties: {value: .}}' github-app.pem > secret.json\n"
            f"az rest --method put --url '{secret}?api-version={_VERSION}' --body @secret.json"
            "  # docs/operations.md, A private stack"
        )
        yield Finding("runner", Level.WARNING, says, remedy)
