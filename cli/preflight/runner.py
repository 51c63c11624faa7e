"""Runner: whether the vault contains the key for its registration. Without it `up` succeeds, but no job runs.

Azure Resource Manager returns the secret without its value. Does not check with GitHub that the key belongs to the App.
Source: Azure/azure-rest-api-specs
specification/keyvault/resource-manager/Microsoft.KeyVault/stable/2024-11-01/secrets.json
"""

from collections.abc import Iterator
from functools import partial

from cli.preflight.arm_models import Anything
from cli.preflight.check import Check, Finding, Level, Target
from infra.config.naming import RUNNER_SECRET

_VAULT, _VERSION = "Microsoft.KeyVault/vaults", "2024-11-01"


def checks(target: Target) -> Iterator[Check]:
    if target.settings.runners:
        yield Check("runner", "its key", partial(_key, target))


def _key(target: Target) -> Iterator[Finding]:
    secret = f"{target.resource(_VAULT, target.names.key_vault)}/secrets/{RUNNER_SECRET}"
    if target.arm.get(Anything, secret, _VERSION):
        yield Finding("runner", Level.OK, "its key is in the vault")
    else:
        message = f"the vault holds no secret {RUNNER_SECRET}, so no machine can register as a runner"
        remedy = (
            "jq --raw-input --slurp '{properties: {value: .}}' github-app.pem > secret.json\n"
            f"az rest --method put --url '{secret}?api-version={_VERSION}' --body @secret.json"
            "  # docs/operations.md, A private stack"
        )
        yield Finding("runner", Level.WARNING, message, remedy)
