"""Facts that occur twice, compared: with lists copied from Microsoft's documentation into testing/data (roles, private
link names), with the SDK (error codes), or between the program and the sandbox (Databricks runtimes).
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.sdk.service.networking import ErrorCode

from infra.components.roles import Role
from sandbox.databricks import clusters
from testing.stack.infra_graph import Graph, graph

DATA = Path(__file__).parents[2] / "testing" / "data"
ROLES: dict[str, dict[str, Any]] = {
    name: role
    for page in yaml.safe_load((DATA / "built_in_roles.yaml").read_text()).values()
    for name, role in page["roles"].items()
}
PRIVATE_LINK: dict[str, list[str]] = yaml.safe_load((DATA / "private_link.yaml").read_text())
SANDBOX = Path(__file__).parents[2] / "sandbox"
INFRA = Path(__file__).parents[2] / "infra"
KNOWN: dict[str, dict[str, Any]] = yaml.safe_load((SANDBOX / "identity" / "roles.yaml").read_text())
ARM_TYPES = {
    "containerregistry:Registry": "Microsoft.ContainerRegistry/registries",
    "databricks:Workspace": "Microsoft.Databricks/workspaces",
    "keyvault:Vault": "Microsoft.KeyVault/vaults",
    "machinelearningservices:Workspace": "Microsoft.MachineLearningServices/workspaces",
    "storage:StorageAccount": "Microsoft.Storage/storageAccounts",
}


@pytest.mark.parametrize("role", list(Role))
def test_program_role_has_the_documented_id(role: Role) -> None:
    names = [name for name, documented in ROLES.items() if documented["id"] == role]
    assert [plain(name) for name in names] == [plain(role.name)]


@pytest.mark.parametrize("name", KNOWN)
def test_sandbox_role_equals_the_documented_one(name: str) -> None:
    known = {key: value for key, value in KNOWN[name].items() if key != "sources"}
    assert known == ROLES[name]


def test_databricks_runtimes_of_the_sandbox_agree_with_those_of_the_program() -> None:
    """The sandbox also has versions that the program refuses; each version that the program accepts must be there."""
    supported = yaml.safe_load((INFRA / "planning" / "compatibility.yaml").read_text())["runtimes"]
    assert len(supported) >= 5
    for version, runtime in supported.items():
        assert clusters.RUNTIMES[version] == runtime["spark"], version
        assert version.endswith(f"scala{runtime['scala']}")
    long_term = {version for version in clusters.RUNTIMES if version.startswith(clusters.LONG_TERM_SUPPORT)}
    assert long_term == supported.keys()


def test_databricks_answers_with_codes_that_its_sdk_lists() -> None:
    codes = {
        node.args[1].value
        for path in (SANDBOX / "databricks").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CloudError"
        if isinstance(node.args[1], ast.Constant)
    }
    assert len(codes) > 10
    assert codes - {code.value for code in ErrorCode} == set()


@pytest.fixture(scope="module")
def private() -> Graph:
    return graph(network__mode="private", personalization__production="true")


def test_each_private_endpoint_names_a_documented_sub_resource_and_its_zones(private: Graph) -> None:
    zones_of = {
        group.name: [config["privateDnsZoneId"].rpartition("/")[2] for config in group.inputs["privateDnsZoneConfigs"]]
        for group in private.of("network:PrivateDnsZoneGroup")
    }
    endpoints = private.of("network:PrivateEndpoint")
    assert len(endpoints) == 9
    for endpoint in endpoints:
        (connection,) = endpoint.inputs["privateLinkServiceConnections"]
        (group,) = connection["groupIds"]
        documented = PRIVATE_LINK[f"{arm_type(connection['privateLinkServiceId'])} {group}"]
        # A zone below another of the list is answered from that one, where no zone of its name is linked.
        needed = [zone for zone in documented if not any(zone.endswith(f".{other}") for other in documented)]
        assert [zone_name(private, zone) for zone in zones_of[endpoint.name]] == needed


def test_sandbox_connects_to_documented_sub_resources_by_their_zones() -> None:
    known = {
        f"{arm_type} {group}": zones
        for arm_type, rule in yaml.safe_load((SANDBOX / "arm" / "resource_types.yaml").read_text()).items()
        for group, zones in (rule.get("private_link") or {}).get("groups", {}).items()
    }
    assert len(known) == 11
    for name, zones in known.items():
        assert zones == [zone for zone in PRIVATE_LINK[name] if "{" not in zone], name


def arm_type(resource_id: str) -> str:
    token = resource_id.split("/")[-2].removeprefix("azure-native:")
    return ARM_TYPES[token]


def zone_name(program: Graph, logical: str) -> str:
    (zone,) = [found for found in program.of("privatedns:PrivateZone") if found.name == logical]
    return str(zone.inputs["privateZoneName"])


def plain(name: str) -> str:
    return "".join(letter for letter in name.partition(" (")[0].upper() if letter.isalnum())
