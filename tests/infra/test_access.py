"""Role assignments: the whole table, as docs/access.md shows it, and the roles that must never be in it."""

from pathlib import Path

import pytest

from infra.aks.attachment import AttachmentInputs, attach_body
from infra.components.roles import Role
from testing.stack.infra_graph import Declared, Graph, graph

DOCUMENT = Path(__file__).parents[2] / "docs" / "access.md"
OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph(network__mode="private", personalization__production="true")


def assignments(program: Graph) -> list[Declared]:
    return program.of("authorization:RoleAssignment")


def row(assignment: Declared) -> str:
    role = Role(assignment.inputs["roleDefinitionId"].rpartition("/")[2])
    slug = role.name.lower().replace("_", "-")
    actor, _, on = assignment.name.partition(f"-{slug}-on-")
    return f"| {actor} | {role.name.replace('_', ' ').title()} | {on} | {assignment.inputs['principalType']} |"


def test_document_shows_exactly_the_roles_that_are_assigned(program: Graph) -> None:
    rows = sorted(row(assignment) for assignment in assignments(program))
    print("\n".join(rows))
    shown = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][2:]
    assert shown == rows


def test_owner_and_contributor_are_assigned_only_on_single_resources(program: Graph) -> None:
    for assignment in assignments(program):
        role, scope = assignment.inputs["roleDefinitionId"].rpartition("/")[2], assignment.inputs["scope"]
        assert role != OWNER
        assert scope.startswith("/id/of/azure-native:"), "a scope that is not a single resource"
        assert ":ResourceGroup/" not in scope


def test_every_reader_of_models_is_kept_to_their_container(program: Graph) -> None:
    readers = [a for a in assignments(program) if a.inputs["roleDefinitionId"].endswith(Role.STORAGE_BLOB_DATA_READER)]
    assert len(readers) == 3
    assert all(reader.inputs["scope"].endswith("/blobServices/default/containers/lake-models") for reader in readers)


def test_each_actor_has_a_separate_identity(program: Graph) -> None:
    principals = {row(a).split(" | ")[0]: a.inputs["principalId"] for a in assignments(program)}
    assert len(set(principals.values())) == len(principals)


def test_no_service_accepts_keys(program: Graph) -> None:
    for account in program.of("storage:StorageAccount"):
        assert account.inputs["allowSharedKeyAccess"] is False
        assert account.inputs["isLocalUserEnabled"] is False
    (registry,) = program.of("containerregistry:Registry")
    assert (registry.inputs["adminUserEnabled"], registry.inputs["anonymousPullEnabled"]) == (False, False)
    (vault,) = program.of("keyvault:Vault")
    assert vault.inputs["properties"]["enableRbacAuthorization"] is True
    (cluster,) = program.of("containerservice:ManagedCluster")
    assert cluster.inputs["disableLocalAccounts"] is True
    assert cluster.inputs["addonProfiles"]["omsagent"]["config"]["useAADAuth"] == "true"
    (logs,) = program.of("operationalinsights:Workspace")
    assert logs.inputs["features"]["disableLocalAuth"] is True
    (attachment,) = program.of(":KubernetesCompute")
    assert attach_body(AttachmentInputs.of(attachment.inputs))["properties"]["disableLocalAuth"] is True
    (workspace,) = program.of("machinelearningservices:Workspace")
    assert workspace.inputs["systemDatastoresAuthMode"] == "Identity"
    (datastore,) = program.of("machinelearningservices:Datastore")
    assert datastore.inputs["properties"]["credentials"]["credentialsType"] == "None"


@pytest.mark.parametrize("mode", ["Key", "AMLToken"])
def test_callers_of_the_endpoint_authenticate_as_configured(mode: str) -> None:
    (endpoint,) = graph(serving__auth=mode).of("machinelearningservices:OnlineEndpoint")
    assert endpoint.inputs["properties"]["authMode"] == mode


def test_cluster_logins_use_entra_with_the_configured_groups() -> None:
    (cluster,) = graph(access__cluster_admins='["11111111-2222-3333-4444-555555555555"]').of(":ManagedCluster")
    profile = cluster.inputs["aadProfile"]
    assert (profile["managed"], profile["enableAzureRBAC"]) == (True, True)
    assert profile["adminGroupObjectIDs"] == ["11111111-2222-3333-4444-555555555555"]
