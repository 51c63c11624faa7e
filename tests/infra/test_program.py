"""Invariants of the whole resource graph."""

import ast
import base64
import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pulumi
import pulumi_azure_native
import pytest
from pulumi.runtime import rpc
from pulumi_azure_native import (
    containerservice,
    databricks,
    keyvault,
    machinelearningservices,
    resources,
    storage,
)

from cli.changes.mock_program import PROGRAM, run
from infra.release.serving_stage.rollout import RolloutInputs, _deployment
from testing.certificates import pem
from testing.stack.infra_graph import RELEASE, STACK, Graph, graph


@pytest.fixture(scope="module")
def program() -> Graph:
    return graph()


def test_no_storage_account_has_keys_or_public_blobs(program: Graph) -> None:
    accounts = program.of("storage:StorageAccount")
    assert len(accounts) == 2
    for account in accounts:
        assert account.inputs["allowSharedKeyAccess"] is False
        assert account.inputs["allowBlobPublicAccess"] is False
        assert account.inputs["minimumTlsVersion"] == "TLS1_2"


def test_only_the_lake_is_hierarchical(program: Graph) -> None:
    hierarchical = {account.name: account.inputs["isHnsEnabled"] for account in program.of("storage:StorageAccount")}
    assert hierarchical == {"lake": True, "machine-learning-storage": False}


def test_lake_has_the_containers_of_the_release(program: Graph) -> None:
    names = {container.inputs["containerName"] for container in program.of("storage:BlobContainer")}
    assert names == {"raw", "features", "models", "catalog"}


def test_role_assignments_name_their_principal_type_and_never_own(program: Graph) -> None:
    owner = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
    assignments = program.of("authorization:RoleAssignment")
    assert assignments
    for assignment in assignments:
        assert assignment.inputs["principalType"] in ("ServicePrincipal", "User", "Group")
        assert not assignment.inputs["roleDefinitionId"].endswith(owner)
        assert assignment.inputs["scope"].startswith("/id/of/azure-native:"), "a scope above a single resource"


def test_role_assignment_names_are_the_same_on_every_run(program: Graph) -> None:
    names = {found.name: found.inputs["roleAssignmentName"] for found in program.of("authorization:RoleAssignment")}
    again = {found.name: found.inputs["roleAssignmentName"] for found in graph().of("authorization:RoleAssignment")}
    assert names == again
    assert len(set(names.values())) == len(names)


def test_no_traffic_is_named_where_the_endpoint_is_declared(program: Graph) -> None:
    (endpoint,) = program.of("machinelearningservices:OnlineEndpoint")
    assert "traffic" not in endpoint.inputs["properties"]


def test_scoring_pool_is_not_inline(program: Graph) -> None:
    (cluster,) = program.of("containerservice:ManagedCluster")
    (pool,) = program.of("containerservice:AgentPool")
    (system,) = program.of("containerservice:SystemPool")
    assert [inline["name"] for inline in cluster.inputs["agentPoolProfiles"]] == [system.inputs["pool"]]
    assert (pool.inputs["enableAutoScaling"], pool.inputs["minCount"], pool.inputs["maxCount"]) == (True, 1, 3)


def test_cluster_has_no_local_accounts(program: Graph) -> None:
    (cluster,) = program.of("containerservice:ManagedCluster")
    assert cluster.inputs["disableLocalAccounts"] is True
    assert cluster.inputs["aadProfile"]["enableAzureRBAC"] is True
    assert cluster.inputs["securityProfile"]["workloadIdentity"]["enabled"] is True


def test_all_resources_with_tags_are_tagged(program: Graph) -> None:
    modules = [containerservice, databricks, keyvault, machinelearningservices, resources, storage]
    taggable = {
        f"azure-native:{module.__name__.rpartition('.')[2]}:{found.type.rpartition(':')[2]}"
        for module in modules
        for found in program.resources
        if found.type.startswith(f"azure-native:{module.__name__.rpartition('.')[2]}:")
        and "tags" in inspect.signature(getattr(module, found.type.rpartition(":")[2])._internal_init).parameters
    }
    assert "azure-native:storage:StorageAccount" in taggable
    for found in program.resources:
        if found.type in taggable:
            assert found.inputs["tags"]["environment"] == "test", found


def test_stack_deploys_without_a_model() -> None:
    infrastructure = graph(release__enabled="false")
    released = "dynamic/(databricks|lake|machinelearning|containerregistry):"
    assert not [found for found in infrastructure.resources if re.search(released, found.type)]
    assert infrastructure.of("machinelearningservices:OnlineEndpoint")


def test_changed_scale_changes_a_single_resource(program: Graph) -> None:
    changed = graph(serving__nodes_max="5")
    before = {(found.type, found.name): found.inputs for found in program.resources}
    differs = [found.type for found in changed.resources if before[found.type, found.name] != found.inputs]
    assert differs == ["azure-native:containerservice:AgentPool"]


def test_deployment_scale_follows_the_capacity_plan_and_the_router() -> None:
    program = graph(
        serving__replicas_min="2", serving__latency_ms="9", serving__target_rps="1000", serving__nodes_max="4"
    )
    (release,) = program.of("machinelearning:Rollout")
    props = {**release.inputs, "model_version": "7", "environment": "scoring-native:1"}
    sent = _deployment(RolloutInputs.of(props), "m7", model_tags={}).scale_settings
    plan = program.outputs["capacity"]
    assert (sent.type, sent.polling_interval) == ("target_utilization", 10)
    assert (sent.min_instances, sent.max_instances) == (plan["replicas_min"], plan["replicas_max"]) == (2, 4)
    assert sent.target_utilization_percentage == plan["utilisation"] == 49
    assert not [found for found in program.resources if "autoscal" in found.type.lower()]


def test_insecure_connections_are_allowed_only_without_a_certificate(program: Graph) -> None:
    (plain,) = program.of("kubernetesconfiguration:Extension")
    chain, key = pem("score.example.com")
    tls = {"serving__tls_certificate": chain, "serving__tls_key": key}
    (secured,) = graph(serving__hostname="score.example.com", **tls).of(":Extension")
    assert plain.inputs["configurationSettings"]["allowInsecureConnections"] == "True"
    assert "configurationProtectedSettings" not in plain.inputs
    assert secured.inputs["configurationSettings"]["allowInsecureConnections"] == "False"
    assert secured.inputs["configurationSettings"]["sslCname"] == "score.example.com"
    sent = secured.inputs["configurationProtectedSettings"]
    assert sent[rpc._special_sig_key] == rpc._special_secret_sig
    assert {name: base64.b64decode(value).decode() for name, value in sent["value"].items()} == {
        "scoringFe.sslCert": chain,
        "scoringFe.sslKey": key,
    }


def test_certificate_end_is_warned_of_thirty_days_before(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(pulumi, "warn", said.append)
    for days in (60, 20):
        chain, key = pem("score.example.com", days=days)
        tls = {"serving__tls_certificate": chain, "serving__tls_key": key}
        graph(serving__hostname="score.example.com", release__enabled="false", **tls)
    assert [line for line in said if "certificate of score.example.com expires in 19 days" in line] == said[-1:]
    assert len([line for line in said if "certificate" in line]) == 1


def test_router_is_highly_available_only_with_three_nodes(program: Graph) -> None:
    (one,) = program.of("kubernetesconfiguration:Extension")
    (three,) = graph(serving__nodes_min="3", serving__nodes_max="4").of("kubernetesconfiguration:Extension")
    assert one.inputs["configurationSettings"]["inferenceRouterHA"] == "False"
    assert three.inputs["configurationSettings"]["inferenceRouterHA"] == "True"


def test_node_selector_keeps_azure_ml_pods_and_replicas_on_the_scoring_pool(program: Graph) -> None:
    (extension,) = program.of("kubernetesconfiguration:Extension")
    (pool,) = program.of("containerservice:AgentPool")
    settings = extension.inputs["configurationSettings"]
    selector = {key.removeprefix("nodeSelector."): value for key, value in settings.items() if "Selector." in key}
    assert selector == pool.inputs["nodeLabels"]


def test_attach_body_has_no_property_that_a_setting_changes(program: Graph) -> None:
    """Source: Azure/azureml-examples#3030"""
    (before,) = program.of("machinelearningservices:KubernetesCompute")
    larger = graph(serving__cpu="500m", serving__memory="512Mi", serving__nodes_max="5", tags__owner="somebody")
    (after,) = larger.of("machinelearningservices:KubernetesCompute")
    assert after.inputs == before.inputs


def test_run_is_identified_by_rows_and_code_and_not_by_machines(program: Graph) -> None:
    def digest(**config: str) -> str:
        (run,) = graph(**config).of("databricks:TrainingRun")
        return run.inputs["input_digest"]

    (run,) = program.of("databricks:TrainingRun")
    assert digest(training__workers="3", training__node_type="Standard_D8s_v5") == run.inputs["input_digest"]
    assert digest(training__snapshot="2026-11-02") != run.inputs["input_digest"]


def test_no_machine_path_reaches_the_state(program: Graph) -> None:
    for found in program.resources:
        assert str(pulumi_azure_native.__path__[0]).partition(".venv")[0] not in json.dumps(found.inputs, default=str)


def test_local_rows_are_read_once_to_name_their_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").write_text("rows")
    read: list[str] = []
    file_digest = hashlib.file_digest

    def counted(file: Any, algorithm: str) -> Any:
        read.append(Path(file.name).name)
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    config = {**STACK, **RELEASE}
    del config["training:snapshot"]
    rows = run({**config, "training:local_data": str(tmp_path)}, "test")
    (snapshot,), (training,) = rows.of("lake:Snapshot"), rows.of("databricks:TrainingRun")
    assert snapshot.inputs["snapshot"] == training.inputs["snapshot"]
    assert read == ["train.txt"]


def test_program_passes_flags_by_keyword_and_unpacks_no_tuple() -> None:
    source = PROGRAM.read_text()
    assert len(source.splitlines()) < 100
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert len(calls) > 40
    flag = re.compile(r"\b(is_\w+|production|private|zone_redundant|purge_\w+)$")
    for call in calls:
        assert not any(isinstance(given, ast.Starred) for given in call.args), ast.unparse(call)
        assert not any(flag.search(ast.unparse(argument)) for argument in call.args), ast.unparse(call)
