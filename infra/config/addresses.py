"""Address ranges of an environment, computed from its one address space by pure functions."""

from collections.abc import Mapping
from ipaddress import IPv4Network

NODES, ENDPOINTS, DATABRICKS_HOSTS, DATABRICKS_CONTAINERS = "nodes", "endpoints", "databricks-hosts", "databricks-pods"

# AKS's defaults. These ranges exist inside the cluster only, so every cluster may use the same ones. Pods cannot reach
# other addresses in them.
# Source: MicrosoftDocs/azure-aks-docs articles/aks/azure-cni-overlay.md (pods);
# MicrosoftDocs/azure-aks-docs articles/aks/configure-dual-stack.md (services)
POD_RANGE, SERVICE_RANGE, DNS_SERVICE = IPv4Network("10.244.0.0/16"), IPv4Network("10.0.0.0/16"), "10.0.0.10"

# Addresses that Azure reserves in each subnet.
# Source: MicrosoftDocs/azure-docs articles/virtual-network/virtual-networks-faq.md
_RESERVED = 5
# Prefix lengths of the smallest and the largest network that Databricks accepts. A quarter of the smallest is a /26,
# which is Databricks' smallest subnet.
# Source: https://learn.microsoft.com/azure/databricks/security/network/classic/vnet-inject
_SMALLEST_SPACE, _LARGEST_SPACE = 24, 16
# Nodes that an upgrade adds while it runs: one in each pool.
# Source: MicrosoftDocs/azure-aks-docs articles/aks/tutorial-kubernetes-upgrade-cluster.md
_UPGRADE_SURGE = 2


def subnets_of(address_space: str) -> dict[str, IPv4Network]:
    """Split the address space into equal quarters, by purpose.

    Raises `ValueError` if it is not a range, is public, too small or too large, or overlaps a range of the cluster.
    """
    try:
        space = IPv4Network(address_space)
    except ValueError as error:
        raise ValueError(f"{error}. Give an IPv4 range such as 10.40.0.0/20.") from None
    if space.prefixlen > _SMALLEST_SPACE:
        raise ValueError(
            f"{space} is too small: a quarter of it must be a /26, which Databricks requires. "
            f"Give a /{_SMALLEST_SPACE} or larger, such as 10.40.0.0/20."
        )
    if not space.is_private:
        raise ValueError(f"{space} is public. Give a private range, such as 10.40.0.0/20.")
    for purpose, taken in (("pods", POD_RANGE), ("services", SERVICE_RANGE)):
        if space.overlaps(taken):
            raise ValueError(
                f"{space} overlaps {taken}, the range of the cluster's {purpose}. Give another, such as 10.40.0.0/20."
            )
    if space.prefixlen < _LARGEST_SPACE:
        raise ValueError(
            f"{space} is too large: Databricks takes a network of at most a /{_LARGEST_SPACE}. "
            "Give a smaller range, such as 10.40.0.0/20."
        )
    quarters = space.subnets(prefixlen_diff=2)
    return dict(zip((NODES, DATABRICKS_HOSTS, DATABRICKS_CONTAINERS, ENDPOINTS), quarters, strict=True))


def require_room(address_space: str, machines: Mapping[str, int]) -> None:
    """Raise `ValueError` unless each subnet named has an address for each of its machines.

    A Databricks machine takes one address in each of its two subnets. A Kubernetes node takes one (its pods live in an
    overlay), and an upgrade adds nodes for a while.

    Source: https://learn.microsoft.com/azure/databricks/security/network/classic/vnet-inject;
    MicrosoftDocs/azure-aks-docs articles/aks/concepts-network-azure-cni-overlay.md
    """
    for purpose, subnet in subnets_of(address_space).items():
        free = subnet.num_addresses - _RESERVED
        wanted = machines.get(purpose, 0) + (_UPGRADE_SURGE if purpose == NODES else 0)
        if wanted > free:
            larger = 30 - (wanted + _RESERVED - 1).bit_length()  # of the space, whose quarter is two bits smaller
            raise ValueError(
                f"its subnet {purpose}, {subnet}, has {free} addresses, and {wanted} machines want one. "
                f"Give a /{larger} or fewer machines."
            )
