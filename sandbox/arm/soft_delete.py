"""Names that stay taken after a deletion: of a vault or Azure ML workspace until it is purged or recovered, of a blob
container until its deletion ends."""

import datetime
import time
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.arm.resource_body import dig
from sandbox.arm.resource_id import ResourceId
from sandbox.arm.resource_types import TypeRule
from sandbox.arm.store import Body, ResourceStore
from sandbox.arm.subscriptions import PATH, admit
from sandbox.context import CloudError, Sandbox

# Source: MicrosoftDocs/azure-docs articles/key-vault/general/soft-delete-overview.md (where the vault sets no period)
_RETENTION_DAYS = 90


class SoftDeleted:
    def __init__(self, sandbox: Sandbox, records: ResourceStore) -> None:
        self._sandbox, self._records = sandbox, records
        self._lingering: dict[str, float] = {}

    def routes(self) -> list[BaseRoute]:
        purge = PATH + "/providers/{namespace}/locations/{location}/deleted{kind}/{name}/purge"
        return [
            Route(purge, self._purge, methods=["POST"]),
            Route(PATH + "/providers/{namespace}/deleted{kind}", self._list),
        ]

    def keep(self, body: Body, rule: TypeRule, *, purged: bool) -> None:
        if rule.soft_delete and not purged:
            deleted = {**body["systemData"], "lastModifiedAt": datetime.datetime.now(datetime.UTC).isoformat()}
            self._records.put(f"/deleted{body['id']}", {**body, "systemData": deleted})
        if rule.lingers:
            self._lingering[body["id"].lower()] = time.monotonic() + self._sandbox.settings.container_deletion

    def purge(self, resource_id: str) -> None:
        self._records.delete(f"/deleted{resource_id}")

    def of_type(self, resource_type: str) -> Iterator[Body]:
        deleted = (body for _, body in self._records.below("/deleted"))
        return (body for body in deleted if body["type"].lower() == resource_type.lower())

    def require_free(self, found: ResourceId, rule: TypeRule, sent: Body) -> None:
        """Refuse to create a resource with the name of a soft-deleted one, unless the request recovers that one."""
        if time.monotonic() < self._lingering.get(found.id.lower(), 0):
            # Source: Azure/Azurite src/blob/errors/StorageErrorFactory.ts (the status)
            raise CloudError(409, rule.lingers, f"'{found.id}' is being deleted. Try operation later.")
        for body in self.of_type(rule.type) if rule.soft_delete else ():
            same_id, same_name = body["id"].lower() == found.id.lower(), body["name"].lower() == found.name.lower()
            if same_id and _recovers(sent):
                self.purge(body["id"])
            elif same_id or (rule.unique and same_name):
                message = f"Soft-deleted {rule.type} '{found.name}' exists. Please purge or recover it."
                status, code = (rule.soft_delete["status"], rule.soft_delete["code"]) if same_id else (409, rule.unique)
                # Source: microsoft/azure_arc#3378 (of another group, the code of a taken name)
                raise CloudError(status, code, message)

    # Source: azure-mgmt-keyvault==14.1.0 azure/mgmt/keyvault/operations/_operations.py (`vaults.list_deleted`)
    async def _list(self, request: Request) -> Response:
        admit(self._sandbox, request)
        return JSONResponse({"value": [_shown(request, body) for body in self.of_type(_type(request))]})

    # Source: azure-mgmt-keyvault==14.1.0 azure/mgmt/keyvault/operations/_operations.py (`vaults.begin_purge_deleted`)
    async def _purge(self, request: Request) -> Response:
        admit(self._sandbox, request)
        for body in self.of_type(_type(request)):
            if body["name"].lower() == request.path_params["name"].lower():
                if body["properties"].get("enablePurgeProtection"):
                    # Source: microsoft/AzureTRE#1446 (code and message); MicrosoftDocs/azure-docs#55427 (the message)
                    raise CloudError(405, "MethodNotAllowed", "Operation 'DeletedVaultPurge' is not allowed.")
                self.purge(body["id"])
                return Response(status_code=200)
        # No source: purge a vault that is not there on Azure, and read the code.
        raise CloudError(404, "ResourceNotFound", f"A soft-deleted '{request.path_params['name']}' does not exist.")


# Source: azure-mgmt-keyvault==14.1.0 azure/mgmt/keyvault/operations/_operations.py
def _type(request: Request) -> str:
    return "{namespace}/{kind}".format_map(request.path_params)


def _shown(request: Request, body: Body) -> Body:
    """Return the deleted resource as `Microsoft.KeyVault/deletedVaults` lists it.

    Source: azure-mgmt-keyvault==14.1.0 azure/mgmt/keyvault/models/_models.py (`DeletedVault`);
    Azure/azure-rest-api-specs
    specification/keyvault/resource-manager/Microsoft.KeyVault/stable/2024-11-01/examples/getDeletedVault.json
    """
    subscription, namespace, kind = (request.path_params[part] for part in ("subscription", "namespace", "kind"))
    scope = f"/subscriptions/{subscription}/providers/{namespace}/locations/{body['location']}"
    deleted = body["systemData"]["lastModifiedAt"]
    days = body["properties"].get("softDeleteRetentionInDays", _RETENTION_DAYS)
    purge = datetime.datetime.fromisoformat(deleted) + datetime.timedelta(days=days)
    properties = {
        "vaultId": body["id"],
        "location": body["location"],
        "tags": body.get("tags", {}),
        "deletionDate": deleted,
        "scheduledPurgeDate": purge.isoformat(),
        "purgeProtectionEnabled": bool(body["properties"].get("enablePurgeProtection")),
    }
    shown = {"name": body["name"], "type": f"{namespace}/deleted{kind}", "properties": properties}
    return {"id": f"{scope}/deleted{kind}/{body['name']}", **shown}


def _recovers(sent: Body) -> bool:
    recovers_vault = dig(sent, "properties.createMode") == "recover"
    return recovers_vault or dig(sent, "properties.allowRecoverSoftDeletedWorkspace") is True
