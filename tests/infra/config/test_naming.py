"""Names obey Azure's rules for any environment and owner."""

import re

from hypothesis import given
from hypothesis import strategies as st

from infra.config.naming import Names

RULES = {
    "resource_group": r"[A-Za-z0-9-]{1,90}",
    "databricks_managed_group": r"[A-Za-z0-9-]{1,90}",
    "kubernetes_node_group": r"[A-Za-z0-9-]{1,63}",
    "lake": r"[a-z0-9]{3,24}",
    "machine_learning_storage": r"[a-z0-9]{3,24}",
    "key_vault": r"[a-z][a-z0-9-]{1,22}[a-z0-9]",
    "log_analytics": r"[a-z0-9][a-z0-9-]{2,61}[a-z0-9]",
    "application_insights": r"[A-Za-z0-9-]{1,255}",
    "container_registry": r"[a-z0-9]{5,50}",
    "access_connector": r"[a-z0-9-]{3,64}",
    "databricks_workspace": r"[a-z0-9-]{3,64}",
    "machine_learning_workspace": r"[a-z0-9][a-z0-9-]{2,32}",
    "kubernetes_cluster": r"[a-z0-9][a-z0-9-]{0,61}[a-z0-9]",
    "endpoint": r"[a-z][a-z0-9-]{1,30}[a-z0-9]",
    "catalog": r"[a-z0-9_]{1,255}",
}
environments = st.from_regex(r"[a-z][a-z0-9]{1,9}", fullmatch=True)


@given(environments, st.text())
def test_every_name_obeys_azure(environment: str, owner: str) -> None:
    names = Names(environment, owner)
    for attribute, rule in RULES.items():
        name = getattr(names, attribute)
        assert re.fullmatch(rule, name), (attribute, name)
        assert "--" not in name


@given(environments, st.text(), st.text())
def test_two_owners_never_share_a_name(environment: str, one: str, other: str) -> None:
    if one != other:
        assert all(
            getattr(Names(environment, one), attribute) != getattr(Names(environment, other), attribute)
            for attribute in RULES
        )
