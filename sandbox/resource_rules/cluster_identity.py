"""AKS's check before it creates a cluster: the cluster's identity must be allowed to assign the kubelet identity.

Does not check rights on the subnet. No source: the code and the text of that refusal, which
hashicorp/terraform-provider-azurerm#24064 reports without them.
"""

from sandbox.arm.resource_body import dig
from sandbox.arm.store import Body
from sandbox.context import CloudError, Sandbox
from sandbox.identity import access_checks

# Source: aztfmod/terraform-azurerm-caf#928
_ASSIGN = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"


def require_kubelet_permission(sandbox: Sandbox, sent: Body) -> None:
    """Source: aztfmod/terraform-azurerm-caf#928; pulumi/pulumi-azure-native#2020"""
    kubelet = dig(sent, "properties.identityProfile.kubeletidentity.resourceId")
    identities = dig(sent, "identity.userAssignedIdentities") or {}
    if not kubelet:
        return
    for identity in identities:
        known = sandbox.store.get(identity)
        principal = dig(known, "properties.principalId") if known else None
        if not principal or not access_checks.allowed(sandbox, str(principal), _ASSIGN, str(kubelet)):
            message = (
                f"The cluster user assigned identity must be given permission to assign kubelet identity {kubelet}. "
                f"Check access result not allowed for action {_ASSIGN}."
            )
            raise CloudError(400, "CustomKubeletIdentityMissingPermissionError", message)
