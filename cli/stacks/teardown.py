"""`personalization teardown`: destroys a stack, then checks that Azure holds no resource of it.

The engine deletes in reverse order of dependencies: traffic and deployments, then the training job (Databricks ends its
runs), then endpoint, compute, cluster and workspaces. This module adds no other order. Retained resources (storage and
vault of production) are deleted with their resource group, like everything else in it. Does not remove the stack's
configuration and history. Does not find Unity Catalog objects that a killed `up` created without recording them: run
`up` to its end first.
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
_AGAIN = "Run the same command again: it continues from here."
_GROUPS, _VAULTS, _WORKSPACES, _BUDGETS = "2021-04-01", "2024-11-01", "2025-12-01", "2024-08-01"  # API versions
_PURGE_SECONDS, _PURGE_PAUSE = 900.0, 5.0


class Teardown:
    def __init__(self, folder: Path, stack: str, report: Callable[[str], None]) -> None:
        """Read the stack's state. `report` gets one line at a time.

        Raises `UserError` if the stack does not exist, or the cloud or a login is missing.
        """
        self._folder, self._stack, self._report = folder, stack, report
        self._resources = state.resources(folder, stack)
        self._target = command.target(folder, stack)
        self._arm, self._names = self._target.arm, self._target.names

    def run(self, confirm: Callable[[], None], *, purge: bool = False, destroy_protected: str = "") -> None:
        """Destroy the stack. Raises `UserError` with the remaining resources if it cannot be destroyed completely.

        confirm: called after everything that will be deleted was reported; raises `UserError` to stop.
        purge: also delete soft-deleted resources. destroy_protected: the stack's name, to delete protected resources.
        """
        try:
            self._run(confirm, purge, destroy_protected)
        except NotAnswered as error:
            raise UserError(f"Azure did not answer: {error}. {_AGAIN}") from None

    def _run(self, confirm: Callable[[], None], purge: bool, destroy_protected: str) -> None:
        if self._resources:
            self._report_deletions()
        self._require_unprotected(destroy_protected)
        self._require_reach()
        if self._resources or purge:
            confirm()
        # A switch instead of a change of the state: after an error, the remaining resources are still protected.
        unprotected = ["--ignore-protect"] if destroy_protected else []
        if purge:
            self._purge_workspaces(unprotected)
        if self._resources:
            self._destroy(unprotected)
        self._handle_soft_deleted_vaults(purge)
        if left := list(self._remaining()):
            raise UserError(
                f"Azure still holds resources of {self._stack}:" + "".join(f"\n  {resource_id}" for resource_id in left)
            )
        for group in self._tagged_groups():
            self._report(f"resource group {group} has the tags of {self._stack}, but is not in its state: check it")
        self._report(
            f"Azure holds no resource of {self._stack}" + ("" if self._resources else "; there was nothing to destroy")
        )

    # --- before the deletion

    def _report_deletions(self) -> None:
        by_kind: dict[str, list[str]] = defaultdict(list)
        for resource in self._resources:
            by_kind[resource.kind].append(resource.name + (" (protected)" if resource.protected else ""))
        self._report(f"to be destroyed, {len(self._resources)} resources of {self._stack}:")
        for kind, names in sorted(by_kind.items()):
            self._report(f"  {kind}: {', '.join(names)}")
        for resource_id in self._foreign_resources():
            self._report(f"  together with the resource group, not part of the stack: {resource_id}")
        self._report("kept for a while, or lost:")
        for line in remains(self._resources):
            self._report(f"  {line}")

    def _foreign_resources(self) -> Iterator[str]:
        """Yield ids of resources in the stack's groups that are not in its state."""
        own = own_groups(self._resources)
        known = [resource.id for resource in self._resources if resource.id and resource.id not in own]
        for group in own:
            if not self._is_gone(group, _GROUPS):
                listed = self._arm.list(Listed, f"{group}/resources", _GROUPS)
                yield from (resource.id for resource in listed if not within(resource.id, known))

    def _require_unprotected(self, destroy_protected: str) -> None:
        if destroy_protected not in ("", self._stack):
            raise UserError(f"--destroy-protected {destroy_protected} does not name this stack, {self._stack}")
        protected = [resource for resource in self._resources if resource.protected]
        if protected and not destroy_protected:
            shown = "".join(f"\n  {resource.kind} {resource.name}" for resource in protected)
            raise UserError(
                f"nothing was destroyed: {self._stack} has protected resources:{shown}\n"
                f"To delete them too: personalization teardown {self._stack} --destroy-protected {self._stack}"
            )

    def _require_reach(self) -> None:
        """Refuse if this machine cannot delete the release, whose services answer only inside a private network."""
        if not any(_RELEASE in resource.urn for resource in self._resources):
            return
        if refusals := reach.refusals(self._target):
            off = self._target.set("release:enabled", "false")
            raise UserError(
                f"nothing was destroyed: {'; '.join(refusals)}. First remove the release, from a machine inside the "
                f"network:\n  {off}\n  make up STACK={self._stack}\nThen destroy the rest from any machine."
            )

    def _destroy(self, arguments: list[str]) -> None:
        if not destroy(self._folder, self._stack, arguments, self._report):
            resources = state.resources(self._folder, self._stack)
            left = "".join(f"\n  {resource.kind} {resource.name}" for resource in resources)
            raise UserError(f"{self._stack} was not destroyed (see the error above). Remaining:{left}\n{_AGAIN}")

    # --- soft-deleted resources

    def _purge_workspaces(self, arguments: list[str]) -> None:
        """Purge Azure ML workspaces while their group exists: without the group, Azure may not find them."""
        live = [resource for resource in self._resources if resource.kind == WORKSPACE]
        if live:
            self._destroy([*arguments, *(part for workspace in live for part in ("--exclude", workspace.urn))])
        kind, name = "Microsoft.MachineLearningServices/workspaces", self._names.machine_learning_workspace
        for workspace in [resource.id for resource in live] or [self._target.resource(kind, name)]:
            self._arm.delete(workspace, _WORKSPACES, {"forceToPurge": "true"})
            self._wait(
                f"Azure ML workspace {workspace.rpartition('/')[2]}", partial(self._is_gone, workspace, _WORKSPACES)
            )

    def _handle_soft_deleted_vaults(self, purge: bool) -> None:
        """Purge the stack's soft-deleted vaults, or report why they are kept."""
        names = {self._names.key_vault, *(resource.name for resource in self._resources if resource.kind == VAULT)}
        for vault in [deleted for name in names for deleted in self._deleted_vaults(name)]:
            if vault.properties.purge_protection_enabled:
                until = vault.properties.scheduled_purge_date or "its retention ends"
                self._report(f"key vault {vault.name} keeps its name until {until}: purge protection forbids purging")
            elif purge:
                region = f"{self._target.scope}/providers/Microsoft.KeyVault/locations/{vault.properties.location}"
                self._arm.post(Anything, f"{region}/deletedVaults/{vault.name}/purge", _VAULTS, {})
                self._wait(f"key vault {vault.name}", partial(self._is_purged, vault.name))
            else:
                self._report(f"key vault {vault.name} is soft-deleted and keeps its name; --purge frees it")

    def _deleted_vaults(self, name: str) -> list[Deleted]:
        listed = self._arm.list(Deleted, f"{self._target.scope}/providers/Microsoft.KeyVault/deletedVaults", _VAULTS)
        return [vault for vault in listed if vault.name.lower() == name.lower()]

    def _is_purged(self, name: str) -> bool:
        return not self._deleted_vaults(name)

    def _wait(self, resource: str, is_gone: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PURGE_SECONDS
        while not is_gone():
            if time.monotonic() > deadline:
                raise UserError(f"{resource} is not purged after {_PURGE_SECONDS:.0f} s. {_AGAIN}")
            time.sleep(_PURGE_PAUSE)
        self._report(f"{resource} is purged")

    # --- after the deletion

    def _remaining(self) -> Iterator[str]:
        """Yield ids of the stack's resources that Azure still holds, found by computed names and by the old state."""
        names = self._names
        computed = (names.resource_group, names.databricks_managed_group, names.kubernetes_node_group)
        groups = [f"{self._target.scope}/resourceGroups/{name}" for name in computed]
        groups += own_groups(self._resources)
        for resource in self._resources:
            groups += managed_groups(resource)
        for group in {group.lower(): group for group in groups}.values():
            if not self._is_gone(group, _GROUPS):
                yield group
                yield from (resource.id for resource in self._arm.list(Listed, f"{group}/resources", _GROUPS))
        outside = {resource.id: resource.api_version for resource in self._resources if resource.api_version}
        outside[f"{self._target.scope}/providers/Microsoft.Consumption/budgets/{names.budget}"] = _BUDGETS
        for resource_id, version in outside.items():
            if not within(resource_id, groups) and not self._is_gone(resource_id, version):
                yield resource_id

    def _tagged_groups(self) -> Iterator[str]:
        """Yield resource groups with the stack's tags and another name: from a lost state, or another team's stack."""
        settings, own = self._target.settings, self._names.resource_group
        tags = {"environment": settings.environment, "stack": self._stack.rpartition("/")[2]}
        for group in self._arm.list(Listed, f"{self._target.scope}/resourcegroups", _GROUPS):
            if (
                group.name.startswith(own.rpartition("-")[0])
                and group.name != own
                and tags.items() <= group.tags.items()
            ):
                yield group.name

    def _is_gone(self, resource_id: str, version: str) -> bool:
        return self._arm.get(Anything, resource_id, version) is None
