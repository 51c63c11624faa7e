"""`pulumi destroy` with its output shown, repeated after errors of Azure that are temporary.

Does not check whether anything is left: `teardown.py` does.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cli import pulumi_cli

PAUSES = (30.0, 60.0, 120.0, 240.0)
"""Seconds before each repetition."""
# Azure's error codes while a deleted resource is still referenced, or while Azure is overloaded.
# Source: MicrosoftDocs/azure-docs articles/azure-resource-manager/troubleshooting/common-deployment-errors.md (of a
# subnet, of operations, InternalServerError); Azure/RDS-Templates#695 (of a security group);
# hashicorp/terraform-provider-azurerm#2566 (of an address); MicrosoftDocs/azure-docs#52282 (of a group);
# learntocloud/networking-lab#8 (CannotDeleteResource); hashicorp/terraform-provider-azurerm#21293 (RetryableError);
# hashicorp/terraform-provider-azurerm#8105 (NicInUse, of a VM); microsoft/azure-pipelines-tasks#12925 (GatewayTimeout)
_TEMPORARY = {
    "InUseSubnetCannotBeDeleted": "Azure releases a subnet minutes after the resources in it are deleted",
    "InUseNetworkSecurityGroupCannotBeDeleted": "Azure releases a security group after its subnets",
    "PublicIPAddressCannotBeDeleted": "Azure releases an address after its gateway",
    "NicInUse": "Azure releases a network interface after its private endpoint",
    "CannotDeleteResource": "nested resources are still being deleted",
    "ResourceGroupDeletionBlocked": "resources in the group are still being deleted",
    "AnotherOperationInProgress": "another operation on the resource has not ended",
    "OperationNotAllowed": "the cluster is still applying an earlier change",
    "RetryableError": "Azure requests a repetition",
    "TooManyRequests": "Azure throttles requests",
    "InternalServerError": "Azure had an internal error",
    "GatewayTimeout": "Azure did not answer in time",
}


def destroy(folder: Path, stack: str, arguments: Sequence[str], report: Callable[[str], None]) -> bool:
    """Destroy a stack and return whether it succeeded. `report` gets each line that Pulumi prints."""
    for pause in (*PAUSES, None):
        code, printed = pulumi_cli.follow(
            folder, "destroy", "--yes", "--skip-preview", "--stack", stack, *arguments, on_line=report
        )
        if code == 0:
            return True
        error = next((error for error in _TEMPORARY if error in printed), None)
        if error is None or pause is None:
            break
        report(f"{error}: {_TEMPORARY[error]}; next attempt in {pause:.0f} s")
        time.sleep(pause)
    return False
