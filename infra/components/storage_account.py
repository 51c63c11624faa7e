"""Storage accounts of this program: access by identity only, no public blobs, and every default set explicitly.

Does not create containers and does not grant access.
"""

import pulumi
from pulumi_azure_native import storage


def storage_account(
    name: str,
    *,
    account_name: str,
    resource_group_name: pulumi.Input[str],
    zone_redundant: bool,
    hierarchical: bool,
    private: bool,
    opts: pulumi.ResourceOptions,
) -> storage.StorageAccount:
    access = storage.PublicNetworkAccess
    action = storage.DefaultAction
    return storage.StorageAccount(
        name,
        account_name=account_name,
        resource_group_name=resource_group_name,
        kind=storage.Kind.STORAGE_V2,
        sku=storage.SkuArgs(name=storage.SkuName.STANDARD_ZRS if zone_redundant else storage.SkuName.STANDARD_LRS),
        access_tier=storage.AccessTier.HOT,
        is_hns_enabled=hierarchical,
        # Access is by identity only; a leaked key must not exist.
        allow_shared_key_access=False,
        default_to_o_auth_authentication=True,
        allow_blob_public_access=False,
        allow_cross_tenant_replication=False,
        is_local_user_enabled=False,
        is_sftp_enabled=False,
        minimum_tls_version=storage.MinimumTlsVersion.TLS1_2,
        enable_https_traffic_only=True,
        public_network_access=access.DISABLED if private else access.ENABLED,
        network_rule_set=storage.NetworkRuleSetArgs(
            default_action=action.DENY if private else action.ALLOW, bypass=storage.Bypass.AZURE_SERVICES
        ),
        opts=opts,
    )
