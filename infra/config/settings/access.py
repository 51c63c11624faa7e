"""Settings `access:`: principals with rights on the stack, and the key vault's purge protection."""

from typing import Literal

from pydantic import Field

from infra.config.settings.fields import Group


class AccessSettings(Group):
    # Source: azure-mgmt-authorization==4.0.0
    # azure/mgmt/authorization/v2022_04_01/models/_authorization_management_client_enums.py (`PrincipalType`)
    deployers: dict[str, Literal["ServicePrincipal", "User", "Group"]] = Field(
        default_factory=dict,
        description="Entra object ids that run releases, each with its kind. They get the role to write to the lake, "
        "because the lake's account keys are disabled.",
        examples=[{"22222222-2222-2222-2222-222222222222": "ServicePrincipal"}],
    )
    cluster_admins: list[str] = Field(
        default_factory=list,
        description="Object ids of Entra groups that administer the Kubernetes cluster.",
        examples=[["11111111-1111-1111-1111-111111111111"]],
    )
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/compute.py (`single_user_name`)
    team: str | None = Field(
        None,
        min_length=1,
        description="Databricks account group to which the interactive cluster is dedicated. Its members may also "
        "create clusters with the cluster's policy. Unset: the cluster is dedicated to the identity that runs `up`.",
        examples=["data-science"],
    )
    # Source: MicrosoftDocs/azure-docs articles/key-vault/general/soft-delete-overview.md ("Purge protection")
    purge_protection: bool = Field(
        True,
        description="Purge protection of the key vault. true: nobody can purge a deleted vault before its retention of "
        "30 days ends, and the protection cannot be switched off later. false: a deleted vault can be purged at once.",
        examples=["false"],
    )
