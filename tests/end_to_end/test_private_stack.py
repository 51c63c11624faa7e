"""The private production stack from its first `up` to its teardown, with callers outside and inside its network.

Uses the shipped stack file with a smaller model. Callers outside have the environment of every other test; callers
inside reach the network through `sandbox.caller_network`, with unmodified SDKs and the real engine.

The tests are one scenario and run in the order of the file. Each names the earlier step it needs with `require`, and is
skipped with that reason if the step is missing, as when it is run alone:

1. infrastructure deployed from outside; 2. rows uploaded, a release from outside refused; 3. release from inside;
4. second release and return to the first; 5. changed size; 6. teardown.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from cli import paths
from cli.errors import UserError
from cli.local_run import movielens
from cli.preflight import command
from cli.stacks import teardown
from infra.cloud.clients import AzureClients
from sandbox import caller_network
from testing.sandbox.process import in_environment
from testing.stack.infra_stack import ROOT, InfraStacks, infra_stacks

pytestmark = pytest.mark.stack
STACK = "prod-westeurope"
SMALL = {
    "training:dataset": "movielens",
    "training:snapshot": "first",
    "training:workers": "0",
    "training:node_type": "Standard_D4s_v5",
    "release:probe_seconds": "2",
    # The limits of the local stack, because the test machine may be busy.
    "release:p99_ms_max": "5000",
    "release:error_share_max": "0.5",
}


@dataclasses.dataclass
class Private:
    outside: InfraStacks
    deployer: str
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: set[str] = dataclasses.field(default_factory=set)
    """Steps of the scenario that have succeeded."""

    def require(self, step: str) -> None:
        """Skip the test if an earlier step of the scenario did not run or failed."""
        if step not in self.steps:
            pytest.skip(f"needs an earlier test of this file: {step}")

    @property
    def inside(self) -> InfraStacks:
        """The same stack for a caller inside its network."""
        (network,) = self.of_type("azure-native:network:VirtualNetwork")
        access = caller_network.environment(self.outside.folder / "sandbox", network["outputs"]["name"])
        return dataclasses.replace(self.outside, environment={**self.outside.environment, **access})

    def configure(self, **changed: Any) -> None:
        """Write the stack file with earlier changes and `changed`, whose keys have `__` for `:`."""
        self.changed |= {key.replace("__", ":"): value for key, value in changed.items()}
        deployers = {"access:deployers": {self.deployer: "ServicePrincipal"}}
        self.outside.configure(STACK, **{**SMALL, **deployers, **self.changed})

    def up(self, stacks: InfraStacks, *arguments: str, fails: bool = False) -> str:
        return stacks.pulumi(STACK, "up", "--yes", "--skip-preview", *arguments, fails=fails)

    def upload(self, snapshot: str) -> None:
        """Upload rows to the lake from inside the network."""
        with in_environment(self.inside.environment):
            container = AzureClients.discover().blobs(self.output("lake_blob_endpoint")).get_container_client("raw")
            for file in movielens.fetch(paths.folder() / "movielens", print).iterdir():
                container.upload_blob(f"movielens/{snapshot}/{file.name}", file.read_bytes(), overwrite=True)

    def teardown(self) -> list[str]:
        """Run `personalization teardown` outside the network and return the lines that it prints."""
        folder, lines = self.outside.folder / "project", list[str]()
        shutil.copyfile(self.outside.folder / f"Pulumi.{STACK}.yaml", folder / f"Pulumi.{STACK}.yaml")
        with in_environment(self.outside.environment):
            teardown.Teardown(folder, STACK, lines.append).run(lambda: None, destroy_protected=STACK)
        return lines

    def output(self, name: str) -> Any:
        return json.loads(self.outside.pulumi(STACK, "stack", "output", "--json"))[name]

    def of_type(self, prefix: str) -> list[dict[str, Any]]:
        return [resource for resource in self.outside.resources(STACK) if resource["type"].startswith(prefix)]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    with infra_stacks(tmp_path_factory.mktemp("private"), seconds=1800) as stacks:
        with in_environment(stacks.environment):
            cloud = AzureClients.discover()
            token = cloud.credential().get_token(cloud.scope).token
        yield Private(stacks, jwt.decode(token, options={"verify_signature": False})["oid"])


def test_infrastructure_is_deployed_from_outside_and_a_second_up_changes_nothing(private: Private) -> None:
    private.configure()
    private.outside.init(STACK)
    private.up(private.outside)
    private.up(private.outside, "--expect-no-changes")
    private.outside.pulumi(STACK, "preview", "--refresh", "--expect-no-changes")
    private.steps.add("infrastructure")


def test_preflight_reports_whether_a_release_can_run_from_here(private: Private) -> None:
    private.require("infrastructure")
    private.configure(release__enabled="true")
    with in_environment(private.outside.environment):
        refusals = command.run_checks(private.outside.folder, STACK, "reach")
    assert [command.stops([refusal]) for refusal in refusals] == [True, True]
    for refusal, host in zip(refusals, ("Databricks", "the lake"), strict=True):
        assert refusal.message.startswith(host)
        assert "refuses callers from outside the stack's network" in refusal.message
    with in_environment(private.inside.environment):
        (finding,) = command.run_checks(private.outside.folder, STACK, "reach")
    assert (command.stops([finding]), "admit this machine" in finding.message) == (False, True)


def test_release_from_outside_is_refused_with_the_place_to_run_it(private: Private) -> None:
    private.require("infrastructure")
    private.upload("first")
    private.configure(release__enabled="true")
    printed = private.up(private.outside, fails=True)
    assert "this machine is outside the stack's private network" in printed
    assert "docs/operations.md" in printed
    assert not private.of_type("pulumi-python:dynamic/machinelearning:Rollout")
    private.steps.add("rows uploaded")


def test_release_from_inside_trains_and_serves(private: Private) -> None:
    private.require("rows uploaded")
    private.up(private.inside)
    assert private.output("model_version") == "1"
    private.up(private.inside, "--expect-no-changes")
    private.steps.add("release")


def test_release_depends_on_private_endpoints_roles_and_nodes(private: Private) -> None:
    private.require("release")
    resources = {resource["urn"]: resource for resource in private.outside.resources(STACK)}

    @functools.cache
    def dependencies(urn: str) -> set[str]:
        resource = resources[urn]
        direct = {*resource.get("dependencies", ()), *([resource["parent"]] if "parent" in resource else [])}
        return direct.union(*map(dependencies, direct))

    prerequisites = {
        urn
        for urn, resource in resources.items()
        if resource["type"] in ("azure-native:network:PrivateDnsZoneGroup", "azure-native:containerservice:AgentPool")
        or "personalization:security:Access$azure-native:authorization:RoleAssignment" in urn
    }
    parts = private.of_type("pulumi-python:dynamic/")
    release = [part for part in parts if "personalization:release:Release" in part["urn"]]
    assert (len(prerequisites) > 15, len(release) > 10) == (True, True)
    for part in release:
        assert prerequisites <= dependencies(part["urn"]), part["urn"]


def test_second_release_replaces_the_model_and_the_first_can_be_restored(private: Private) -> None:
    private.require("release")
    private.upload("second")
    private.configure(training__snapshot="second")
    private.up(private.inside)
    assert private.output("model_version") == "2"
    private.configure(release__model="1")
    private.up(private.inside)
    assert str(private.output("deployment")).startswith("m1-")
    private.configure(release__model="trained")
    private.up(private.inside)
    assert str(private.output("deployment")).startswith("m2-")


def test_size_of_the_stack_is_changed_from_inside(private: Private) -> None:
    private.require("release")
    private.configure(serving__system_nodes="4", serving__nodes_max="5", serving__replicas_min="3")
    printed = private.up(private.inside)
    assert "updated" in printed
    private.up(private.inside, "--expect-no-changes")


def test_teardown_from_outside_is_refused_until_the_release_is_removed_from_inside(private: Private) -> None:
    private.require("release")
    (private.outside.folder / "project" / "infra").symlink_to(ROOT / "infra")
    with pytest.raises(UserError, match=r"nothing was destroyed: Databricks at (.|\n)*make up STACK=prod-westeurope"):
        private.teardown()
    private.configure(release__enabled="false")
    private.up(private.inside)
    assert f"Azure holds no resource of {STACK}" in private.teardown()[-1]
