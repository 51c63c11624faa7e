"""The private production stack from its first `up` to its teardown, by callers outside and inside its network.

The shipped stack file with a smaller model. Outside is the environment of every other test; inside is the same with the
network's way in (`sandbox.caller_network`), through which unmodified SDKs and the real engine go.
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
from infra.cloud.clients import Cloud
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
    # The limits of the local stack: a busy machine answers late.
    "release:p99_ms_max": "5000",
    "release:error_share_max": "0.5",
}


@dataclasses.dataclass
class Private:
    outside: InfraStacks
    deployer: str
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def inside(self) -> InfraStacks:
        """The same stack for a caller in its network."""
        (network,) = self.of_type("azure-native:network:VirtualNetwork")
        way_in = caller_network.environment(self.outside.folder / "sandbox", network["outputs"]["name"])
        return dataclasses.replace(self.outside, environment={**self.outside.environment, **way_in})

    def configure(self, **changed: Any) -> None:
        """`changed` with `__` for `:`, on top of earlier changes."""
        self.changed |= {key.replace("__", ":"): value for key, value in changed.items()}
        deployers = {"access:deployers": {self.deployer: "ServicePrincipal"}}
        self.outside.configure(STACK, **{**SMALL, **deployers, **self.changed})

    def up(self, stacks: InfraStacks, *arguments: str, fails: bool = False) -> str:
        return stacks.pulumi(STACK, "up", "--yes", "--skip-preview", *arguments, fails=fails)

    def upload(self, snapshot: str) -> None:
        """Rows into the lake, as somebody inside the network does."""
        with in_environment(self.inside.environment):
            container = Cloud.discover().blobs(self.output("lake_blob_endpoint")).get_container_client("raw")
            for file in movielens.fetch(paths.folder() / "movielens", print).iterdir():
                container.upload_blob(f"movielens/{snapshot}/{file.name}", file.read_bytes(), overwrite=True)

    def teardown(self) -> list[str]:
        """What `personalization teardown` prints, by a caller outside."""
        folder, said = self.outside.folder / "project", list[str]()
        shutil.copyfile(self.outside.folder / f"Pulumi.{STACK}.yaml", folder / f"Pulumi.{STACK}.yaml")
        with in_environment(self.outside.environment):
            teardown.Teardown(folder, STACK, said.append).run(lambda: None, destroy_protected=STACK)
        return said

    def output(self, name: str) -> Any:
        return json.loads(self.outside.pulumi(STACK, "stack", "output", "--json"))[name]

    def of_type(self, prefix: str) -> list[dict[str, Any]]:
        return [found for found in self.outside.resources(STACK) if found["type"].startswith(prefix)]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    with infra_stacks(tmp_path_factory.mktemp("private"), seconds=1800) as stacks:
        with in_environment(stacks.environment):
            cloud = Cloud.discover()
            token = cloud.credential().get_token(cloud.scope).token
        yield Private(stacks, jwt.decode(token, options={"verify_signature": False})["oid"])


def test_the_infrastructure_is_deployed_from_outside_and_a_second_time_without_a_change(private: Private) -> None:
    private.configure()
    private.outside.init(STACK)
    private.up(private.outside)
    private.up(private.outside, "--expect-no-changes")
    private.outside.pulumi(STACK, "preview", "--refresh", "--expect-no-changes")


def test_preflight_says_from_where_a_release_can_run(private: Private) -> None:
    private.configure(release__enabled="true")
    with in_environment(private.outside.environment):
        refused = command.run_checks(private.outside.folder, STACK, "reach")
    assert [command.stops([found]) for found in refused] == [True, True]
    for found, host in zip(refused, ("Databricks", "the lake"), strict=True):
        assert found.message.startswith(host)
        assert "refuses callers from outside the stack's network" in found.message
    with in_environment(private.inside.environment):
        (found,) = command.run_checks(private.outside.folder, STACK, "reach")
    assert (command.stops([found]), "admit this machine" in found.message) == (False, True)


def test_a_release_from_outside_is_refused_and_says_where_to_run_it(private: Private) -> None:
    private.upload("first")
    private.configure(release__enabled="true")
    said = private.up(private.outside, fails=True)
    assert "this machine is outside the stack's private network" in said
    assert "docs/operations.md" in said
    assert not private.of_type("pulumi-python:dynamic/machinelearning:Rollout")


def test_a_release_from_inside_trains_and_serves(private: Private) -> None:
    private.up(private.inside)
    assert private.output("model_version") == "1"
    private.up(private.inside, "--expect-no-changes")


def test_everything_of_a_release_waits_for_endpoints_roles_and_nodes(private: Private) -> None:
    known = {found["urn"]: found for found in private.outside.resources(STACK)}

    @functools.cache
    def behind(urn: str) -> set[str]:
        found = known[urn]
        near = {*found.get("dependencies", ()), *([found["parent"]] if "parent" in found else [])}
        return near.union(*map(behind, near))

    ready = {
        urn
        for urn, found in known.items()
        if found["type"] in ("azure-native:network:PrivateDnsZoneGroup", "azure-native:containerservice:AgentPool")
        or "personalization:security:Access$azure-native:authorization:RoleAssignment" in urn
    }
    parts = private.of_type("pulumi-python:dynamic/")
    waiting = [part for part in parts if "personalization:release:Release" in part["urn"]]
    assert (len(ready) > 15, len(waiting) > 10) == (True, True)
    for part in waiting:
        assert ready <= behind(part["urn"]), part["urn"]


def test_a_second_release_replaces_the_model_and_the_first_comes_back(private: Private) -> None:
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


def test_the_size_of_the_stack_is_changed_from_inside(private: Private) -> None:
    private.configure(serving__system_nodes="4", serving__nodes_max="5", serving__replicas_min="3")
    said = private.up(private.inside)
    assert "updated" in said
    private.up(private.inside, "--expect-no-changes")


def test_a_teardown_is_refused_outside_until_the_release_was_removed_inside(private: Private) -> None:
    (private.outside.folder / "project" / "infra").symlink_to(ROOT / "infra")
    with pytest.raises(UserError, match=r"nothing was destroyed: Databricks at (.|\n)*make up STACK=prod-westeurope"):
        private.teardown()
    private.configure(release__enabled="false")
    private.up(private.inside)
    assert f"nothing of {STACK} stands" in private.teardown()[-1]
