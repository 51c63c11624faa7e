"""`pulumi destroy` in sight of the user, again where Azure refuses only for a while. Does not judge what is left."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PAUSES = (30.0, 60.0, 120.0, 240.0)  # seconds before each new try
# What Azure answers while it has not yet let go of something that is gone, or has too much to do.
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md (of a
# subnet, of operations, InternalServerError); Azure/RDS-Templates#695 (of a security group);
# hashicorp/terraform-provider-azurerm#2566 (of an address); MicrosoftDocs/azure-docs#52282 (of a group);
# learntocloud/networking-lab#8 (CannotDeleteResource); hashicorp/terraform-provider-azurerm#21293 (RetryableError);
# hashicorp/terraform-provider-azurerm#8105 (NicInUse, of a VM); microsoft/azure-pipelines-tasks#12925 (GatewayTimeout)
_PASSING = {
    "InUseSubnetCannotBeDeleted": "a subnet is let go minutes after what was in it",
    "InUseNetworkSecurityGroupCannotBeDeleted": "a security group is let go after its subnets",
    "PublicIPAddressCannotBeDeleted": "an address is let go after its gateway",
    "NicInUse": "a network card is let go after its private endpoint",
    "CannotDeleteResource": "what is nested in it is still going",
    "ResourceGroupDeletionBlocked": "what is in the group is still going",
    "AnotherOperationInProgress": "an operation on it has not ended",
    "OperationNotAllowed": "a cluster is still at work on an earlier change",
    "RetryableError": "Azure asks to try again",
    "TooManyRequests": "Azure throttles",
    "InternalServerError": "Azure failed",
    "GatewayTimeout": "Azure did not answer in time",
}


def destroy(folder: Path, stack: str, arguments: Sequence[str], say: Callable[[str], None]) -> bool:
    """Whether it came to its end; what it printed has been said."""
    for pause in (*PAUSES, None):
        code, printed = _run(folder, stack, arguments, say)
        if code == 0:
            return True
        passing = next((error for error in _PASSING if error in printed), None)
        if passing is None or pause is None:
            break
        say(f"{passing}: {_PASSING[passing]}; again in {pause:.0f} s")
        time.sleep(pause)
    return False


def _run(folder: Path, stack: str, arguments: Sequence[str], say: Callable[[str], None]) -> tuple[int, str]:
    command = ["pulumi", "destroy", "--yes", "--skip-preview", "--stack", stack, *arguments]
    command += ["--non-interactive", "--color", "never"]
    printed = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            say(line.rstrip())
    return process.returncode, "".join(printed)
