"""Built-in roles by name, and one function that assigns them."""

import uuid
from dataclasses import dataclass
from enum import StrEnum

import pulumi
from pulumi_azure_native import authorization


class Role(StrEnum):
    """Ids of built-in roles; tests/conformance/test_documented_lists.py compares them with Microsoft's page.

    Source: MicrosoftDocs/azure-docs articles/role-based-access-control/built-in-roles.md
    """

    ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
    AZUREML_DATA_SCIENTIST = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
    AZUREML_METRICS_WRITER = "635dd51f-9968-44d3-b7fb-6d9a6bd613ae"
    CONTRIBUTOR = "b24988ac-6180-42a0-ab88-20f7382dd24c"
    KEY_VAULT_SECRETS_USER = "4633458b-17de-408a-b874-0445c86b69e6"
    MANAGED_IDENTITY_OPERATOR = "f1a07417-d97a-45cb-824c-7a7467783830"
    NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7"
    STORAGE_BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
    STORAGE_BLOB_DATA_READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"


@dataclass(frozen=True)
class Grant:
    """One role assignment: `actor` gets `role` on `on`.

    `actor` and `on` are short labels, used only in Pulumi's name of the resource; `principal_id` and `scope` are ids of
    Azure. `infra/access.py` has the table of assignments.
    """

    actor: str
    role: Role
    on: str
    principal_id: pulumi.Input[str]
    scope: pulumi.Input[str]
    principal_type: str = "ServicePrincipal"


def assign(grant: Grant, subscription_id: str, parent: pulumi.Resource) -> authorization.RoleAssignment:
    """Assign `grant` under a name that is the same in every run, so that a repeated creation finds the assignment."""
    return authorization.RoleAssignment(
        f"{grant.actor}-{grant.role.name.lower().replace('_', '-')}-on-{grant.on}",
        role_assignment_name=pulumi.Output.all(grant.scope, grant.principal_id).apply(
            lambda ids: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{ids[0]}|{ids[1]}|{grant.role}"))
        ),
        principal_id=grant.principal_id,
        # Without the type Azure looks up the principal, and may not find a new identity yet (PrincipalNotFound).
        principal_type=grant.principal_type,
        role_definition_id=f"/subscriptions/{subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{grant.role}",
        scope=grant.scope,
        opts=pulumi.ResourceOptions(parent=parent),
    )
