"""`personalization teardown`: a stack taken down, with nothing of it left that nobody knows of.

The engine deletes in reverse order of what depends on what, so a release goes before what it runs on: traffic and
deployments, then the training job, with which Databricks ends its runs, then endpoint, compute, cluster and workspaces;
nothing here orders it again. What a state retains (production's storage and vault) goes with its resource group, as
does everything else in that group. Does not remove the stack's configuration and history, and does not know of Unity
Catalog objects that a killed `up` made and did not record: run `up` to its end first.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cli.azure_resource_manager import NotAnswered
from cli.errors import UserError
from cli.preflight import command, reach
from cli.preflight.arm_models import Anything, Deleted, Listed
from cli.stacks import state
from cli.stacks.destroy import destroy
from cli.stacks.retained_resources import VAULT, WORKSPACE, managed_groups, own_groups, remains, within

_RELEASE = "personalization:release:Release"
_AGAIN = "Run the same command again: it goes on from here."
_GROUPS, _VAULTS, _WORKSPACES, _BUDGETS = "2021-04-01", "2024-11-01", "2025-12-01", "2024-08-01"  # API versions
_PURGE_SECONDS, _PURGE_PAUSE = 900.0, 5.0


class Teardown:
    def __init__(self, folder: Path, stack: str, say: Callable[[str], None]) -> None:
        """Raises `UserError` if there is no such stack, no cloud or no login."""
        self._folder, self._stack, self._say = folder, stack, say
        self._standing = state.resources(folder, stack)
        self._target = command.target(folder, stack)
        self._arm, self._names = self._target.arm, self._target.names

    def run(self, confirm: Callable[[], None], *, purge: bool = False, destroy_protected: str = "") -> None:
        """`confirm` is asked once all that goes was said, and raises `UserError` where nobody wants it.

        Raises `UserError`, naming what still stands, wherever it does not come to its end.
        """
        try:
            self._run(confirm, purge, destroy_protected)
        except NotAnswered as error:
            raise UserError(f"Azure did not answer: {error}. {_AGAIN}") from None

    def _run(self, confirm: Callable[[], None], purge: bool, destroy_protected: str) -> None:
        if self._standing:
            self._tell()
        self._require_named(destroy_protected)
        self._require_reach()
        if self._standing or purge:
            confirm()
        # By a switch, not by changing the state: what still stands after an error half-way is protected as before.
        unprotected = ["--ignore-protect"] if destroy_protected else []
        if purge:
            self._purge_workspaces(unprotected)
        if self._standing:
            self._destroy(unprotected)
        self._vaults(purge)
        if left := list(self._left()):
            raise UserError(f"in Azure there still stand of {self._stack}:" + "".join(f"\n  {one}" for one in left))
        for group in self._tagged():
            self._say(
                f"resource group {group} has the tags of {self._stack}, and is not known to its state: look at it"
            )
        self._say(f"nothing of {self._stack} stands" + ("" if self._standing else ": there was nothing to destroy"))

    # --- before

    def _tell(self) -> None:
        by_kind: dict[str, list[str]] = defaultdict(list)
        for resource in self._standing:
            by_kind[resource.kind].append(resource.name + (" (protected)" if resource.protected else ""))
        self._say(f"to be destroyed, {len(self._standing)} resources of {self._stack}:")
        for kind, names in sorted(by_kind.items()):
            self._say(f"  {kind}: {', '.join(names)}")
        for stranger in self._strangers():
            self._say(f"  with the resource group, though not of the stack: {stranger}")
        self._say("what stays for a while, or is gone for good:")
        for line in remains(self._standing):
            self._say(f"  {line}")

    def _strangers(self) -> Iterator[str]:
        own = own_groups(self._standing)
        known = [resource.id for resource in self._standing if resource.id and resource.id not in own]
        for group in own:
            if not self._gone(group, _GROUPS):
                listed = self._arm.list(Listed, f"{group}/resources", _GROUPS)
                yield from (found.id for found in listed if not within(found.id, known))

    def _require_named(self, destroy_protected: str) -> None:
        if destroy_protected not in ("", self._stack):
            raise UserError(f"--destroy-protected {destroy_protected} does not name this stack, {self._stack}")
        protected = [resource for resource in self._standing if resource.protected]
        if protected and not destroy_protected:
            shown = "".join(f"\n  {resource.kind} {resource.name}" for resource in protected)
            raise UserError(
                f"nothing was destroyed: in {self._stack} these are protected:{shown}\n"
                f"If they are to go for good: personalization teardown {self._stack} --destroy-protected {self._stack}"
            )

    def _require_reach(self) -> None:
        """The release of a private stack is deleted by calls that are admitted from inside its network alone."""
        if not any(_RELEASE in resource.urn for resource in self._standing):
            return
        if refusals := reach.refusals(self._target):
            off = self._target.set("release:enabled", "false")
            raise UserError(
                f"nothing was destroyed: {'; '.join(refusals)}. From a machine inside the network remove the release "
                f"first:\n  {off}\n  make up STACK={self._stack}\nThe rest is then destroyed from anywhere."
            )

    def _destroy(self, arguments: list[str]) -> None:
        if not destroy(self._folder, self._stack, arguments, self._say):
            stand = "".join(f"\n  {it.kind} {it.name}" for it in state.resources(self._folder, self._stack))
            raise UserError(f"{self._stack} was not destroyed; why is told above. There still stand:{stand}\n{_AGAIN}")

    # --- what Azure keeps

    def _purge_workspaces(self, arguments: list[str]) -> None:
        """Delete Azure ML workspaces for good while their group stands: without it, Azure may not find them again."""
        live = [resource for resource in self._standing if resource.kind == WORKSPACE]
        if live:
            self._destroy([*arguments, *(part for found in live for part in ("--exclude", found.urn))])
        kind, name = "Microsoft.MachineLearningServices/workspaces", self._names.machine_learning_workspace
        for workspace in [resource.id for resource in live] or [self._target.resource(kind, name)]:
            self._arm.delete(workspace, _WORKSPACES, {"forceToPurge": "true"})
            self._wait(
                f"Azure ML workspace {workspace.rpartition('/')[2]}", partial(self._gone, workspace, _WORKSPACES)
            )

    def _vaults(self, purge: bool) -> None:
        names = {self._names.key_vault, *(found.name for found in self._standing if found.kind == VAULT)}
        for vault in [deleted for name in names for deleted in self._deleted_vaults(name)]:
            if vault.properties.purge_protection_enabled:
                until = vault.properties.scheduled_purge_date or "its retention ends"
                self._say(f"key vault {vault.name} keeps its name until {until}: purge protection forbids to purge it")
            elif purge:
                place = f"{self._target.scope}/providers/Microsoft.KeyVault/locations/{vault.properties.location}"
                self._arm.post(Anything, f"{place}/deletedVaults/{vault.name}/purge", _VAULTS, {})
                self._wait(f"key vault {vault.name}", partial(self._none_deleted, vault.name))
            else:
                self._say(f"key vault {vault.name} is soft-deleted and keeps its name; --purge frees it")

    def _deleted_vaults(self, name: str) -> list[Deleted]:
        listed = self._arm.list(Deleted, f"{self._target.scope}/providers/Microsoft.KeyVault/deletedVaults", _VAULTS)
        return [vault for vault in listed if vault.name.lower() == name.lower()]

    def _none_deleted(self, name: str) -> bool:
        return not self._deleted_vaults(name)

    def _wait(self, what: str, gone: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PURGE_SECONDS
        while not gone():
            if time.monotonic() > deadline:
                raise UserError(f"{what} is not purged after {_PURGE_SECONDS:.0f} s. {_AGAIN}")
            time.sleep(_PURGE_PAUSE)
        self._say(f"{what} is not kept any more")

    # --- afterwards

    def _left(self) -> Iterator[str]:
        """Ids of what Azure still has of the stack: by the names it has, and by what its state said."""
        names = self._names
        computed = (names.resource_group, names.databricks_managed_group, names.kubernetes_node_group)
        groups = [f"{self._target.scope}/resourceGroups/{name}" for name in computed]
        groups += [*own_groups(self._standing), *(group for one in self._standing for group in managed_groups(one))]
        for group in {group.lower(): group for group in groups}.values():
            if not self._gone(group, _GROUPS):
                yield group
                yield from (found.id for found in self._arm.list(Listed, f"{group}/resources", _GROUPS))
        outside = {one.id: one.api_version for one in self._standing if one.api_version}
        outside[f"{self._target.scope}/providers/Microsoft.Consumption/budgets/{names.budget}"] = _BUDGETS
        for found, version in outside.items():
            if not within(found, groups) and not self._gone(found, version):
                yield found

    def _tagged(self) -> Iterator[str]:
        """Resource groups with the stack's tags and another name: of a lost state, or of another team's stack."""
        settings, own = self._target.settings, self._names.resource_group
        tags = {"environment": settings.environment, "stack": self._stack.rpartition("/")[2]}
        for group in self._arm.list(Listed, f"{self._target.scope}/resourcegroups", _GROUPS):
            if (
                group.name.startswith(own.rpartition("-")[0])
                and group.name != own
                and tags.items() <= group.tags.items()
            ):
                yield group.name

    def _gone(self, resource_id: str, version: str) -> bool:
        return self._arm.get(Anything, resource_id, version) is None
