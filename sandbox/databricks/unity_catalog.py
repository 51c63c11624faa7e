"""The part of Unity Catalog that a lake needs: storage credentials, external locations, catalogs, schemas, volumes.

Refuses, as Azure does, parents and credentials that do not exist, an access connector without a role on the storage
account, overlapping locations, a catalog without a storage root (a metastore that was created with a workspace has
none), a caller without the metastore's privilege (`metastore.py`), and the deletion of an object in use.
Stores other grants without enforcing them. Has no tables, functions, managed volumes or renaming, and does not check
roles again when a volume is used.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from sandbox import blob
from sandbox.caller_network import is_public, trusts_services
from sandbox.context import CloudError, Sandbox
from sandbox.databricks import metastore
from sandbox.databricks.workspace import Handler, Json, Workspace, body_of, now
from sandbox.resource_rules.private_endpoints import reaches

# Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (CatalogsAPI.create: path)
_PREFIX = "/api/2.1/unity-catalog"


@dataclass(frozen=True)
class _Kind:
    path: str
    label: str
    complete: Callable[[Workspace, Json, Json], None]
    """`(workspace, object, request)`: check a new or changed object and fill in what the service computes."""
    parents: tuple[str, ...] = ()
    """Fields with the names of the objects that contain it, outermost first."""

    @property
    def code(self) -> str:
        return self.label.upper().replace(" ", "_")

    @property
    def holds(self) -> bool:
        return self.path in ("catalogs", "schemas")


def handlers() -> Iterator[tuple[str, str, Handler]]:
    """`(method, path, handler)` of every route."""
    for kind in _KINDS.values():
        yield "POST", f"{_PREFIX}/{kind.path}", _creator(kind)
        yield "GET", f"{_PREFIX}/{kind.path}", _lister(kind)
        for method in ("GET", "PATCH", "DELETE"):
            yield method, f"{_PREFIX}/{kind.path}/{{name}}", _item(kind)
    for method in ("GET", "PATCH"):
        yield method, f"{_PREFIX}/permissions/{{kind}}/{{name}}", _grants
    yield "GET", f"{_PREFIX}/effective-permissions/METASTORE/{{name}}", metastore.effective
    yield "GET", f"{_PREFIX}/metastore_summary", metastore.summary
    yield "GET", f"{_PREFIX}/current-metastore-assignment", metastore.summary


def real_path(workspace: Workspace, path: str) -> Path:
    """The file or folder on this machine that `/Volumes/<catalog>/<schema>/<volume>/…` means."""
    parts = path.removeprefix("dbfs:").strip("/").split("/")
    if len(parts) < 4 or parts[0] != "Volumes":
        # No source: read a file below /Volumes with fewer than three names and read the error.
        raise ValueError(f"The path {path!r} is not of the form /Volumes/<catalog>/<schema>/<volume>/….")
    volume = _get(workspace, _KINDS["volumes"], ".".join(parts[1:4]))
    root = _Location.parse(workspace.sandbox, volume["storage_location"]).folder(workspace.sandbox)
    return blob.safe_path(root, "/".join(parts[4:])) if parts[4:] else root


def volumes(workspace: Workspace) -> dict[str, Path]:
    """Every volume's path and the folder that it means."""
    paths = (f"/Volumes/{volume['full_name'].replace('.', '/')}" for volume in _all(workspace, "volumes"))
    return {path: real_path(workspace, path) for path in paths}


@dataclass(frozen=True)
class _Location:
    """`abfss://<container>@<host>/<path>`; the host is this sandbox's blob endpoint or `<account>.dfs.…`."""

    account: str
    container: str
    path: str

    @classmethod
    def parse(cls, sandbox: Sandbox, url: str) -> "_Location":
        parts = urlsplit(url)
        container, _, host = parts.netloc.partition("@")
        path = parts.path.strip("/")
        if host == sandbox.authority:
            _, _, rest = path.partition("/")  # behind the endpoint's own path, /blob/
            account, _, path = rest.partition("/")
        else:
            account = host.partition(".dfs.")[0]
        if parts.scheme != "abfss" or not container or not account:
            # Source: databricks/terraform-provider-databricks docs/guides/unity-catalog-azure.md
            # (abfss://<container>@<account>.dfs.core.windows.net)
            raise ValueError(f"The url {url!r} is not of the form abfss://<container>@<dfs endpoint>/<path>.")
        found = blob.find_account(sandbox.store, account)
        if found is None or sandbox.store.get(blob.container_id(found[0], container)) is None:
            # No source: create an external location on a container that does not exist and read the error.
            raise ValueError(f"The url {url!r} names a storage account or container that does not exist.")
        if path:
            blob.safe_path(Path(), path)
        return cls(account.lower(), container.lower(), path)

    def folder(self, sandbox: Sandbox) -> Path:
        return sandbox.container_folder(self.account, self.container) / self.path

    def lies_in(self, other: "_Location") -> bool:
        return f"{self}/".startswith(f"{other}/".replace("//", "/"))

    def overlaps(self, other: "_Location") -> bool:
        return self.lies_in(other) or other.lies_in(self)

    def __str__(self) -> str:
        return f"{self.account}/{self.container}/{self.path}".rstrip("/")


def _record(workspace: Workspace, kind: _Kind, full_name: str) -> str:
    return workspace.record("unity", kind.path, full_name)


def _all(workspace: Workspace, kind: str) -> list[Json]:
    return [body for _, body in workspace.records.below(workspace.record("unity", kind))]


def _get(workspace: Workspace, kind: _Kind, full_name: str) -> Json:
    found = workspace.records.get(_record(workspace, kind, full_name))
    if found is None:
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/networking.py (ErrorCode)
        # No source: the code for volumes, which is not in that list: read an unknown volume.
        raise CloudError(404, f"{kind.code}_DOES_NOT_EXIST", f"{kind.label} '{full_name}' does not exist.")
    return found


def _creator(kind: _Kind) -> Handler:
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (CatalogsAPI.create; SchemasAPI.create;
    # VolumesAPI.create; ExternalLocationsAPI.create; StorageCredentialsAPI.create)
    async def create(workspace: Workspace, request: Request) -> Json:
        body = await body_of(request)
        name = str(body.get("name", ""))
        metastore.require_privilege(workspace, kind.path)
        if not re.fullmatch(r"[^\s./\x00-\x1f]{1,255}", name):
            # Source: databricks/cli libs/testserver/catalogs.go (INVALID_PARAMETER_VALUE, "Valid names cannot contain
            # spaces, periods, forward slashes, or control characters.")
            raise ValueError(f"{name!r} is not a valid name: no spaces, dots or slashes, 1 to 255 characters.")
        above = [str(body.get(field, "")) for field in kind.parents]
        if above:
            parent = _KINDS["catalogs" if len(above) == 1 else "schemas"]
            _get(workspace, parent, ".".join(above))
        full_name = ".".join((*above, name))
        if workspace.records.get(_record(workspace, kind, full_name)) is not None:
            # Source: databricks-sdk==0.156.0 databricks/sdk/service/networking.py (ErrorCode)
            raise CloudError(400, f"{kind.code}_ALREADY_EXISTS", f"{kind.label} '{full_name}' already exists")
        made = {key: value for key, value in body.items() if key != "skip_validation"}
        made |= {"full_name": full_name, "owner": workspace.caller, "metastore_id": metastore.id_of(workspace)}
        made |= {"created_at": now(), "created_by": workspace.caller, "id": str(uuid.uuid4())}
        kind.complete(workspace, made, body)
        return _shown(kind, _store(workspace, kind, made))

    return create


def _store(workspace: Workspace, kind: _Kind, made: Json) -> Json:
    made |= {"updated_at": now(), "updated_by": workspace.caller}
    workspace.records.put(_record(workspace, kind, made["full_name"]), made)
    return made


def _shown(kind: _Kind, found: Json) -> Json:
    """The object with the fields that `databricks.sdk.service.catalog` knows."""
    hidden = {"grants"} if kind.path == "storage-credentials" else {"grants", "id"}
    hidden |= {"full_name"} if kind.path == "external-locations" else set()
    return {key: value for key, value in found.items() if key not in hidden}


def _lister(kind: _Kind) -> Handler:
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (CatalogsAPI.list; SchemasAPI.list;
    # VolumesAPI.list)
    async def listing(workspace: Workspace, request: Request) -> Json:
        wanted = {field: request.query_params[field] for field in kind.parents}
        found = (body for body in _all(workspace, kind.path) if wanted.items() <= body.items())
        return {kind.path.replace("-", "_"): [_shown(kind, body) for body in found]}

    return listing


def _item(kind: _Kind) -> Handler:
    # Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (CatalogsAPI.get; CatalogsAPI.update;
    # CatalogsAPI.delete; and of the other kinds)
    async def item(workspace: Workspace, request: Request) -> Json:
        found = _get(workspace, kind, request.path_params["name"])
        if request.method == "GET":
            return _shown(kind, found)
        if request.method == "DELETE":
            _delete(workspace, kind, found, force=request.query_params.get("force") == "true")
            return {}
        change = await body_of(request)
        if change.get("new_name", found["name"]) != found["name"]:
            raise ValueError(f"The sandbox does not rename: {kind.label} '{found['full_name']}' keeps its name.")
        changed = found | change
        kind.complete(workspace, changed, change)
        return _shown(kind, _store(workspace, kind, changed))

    return item


def _delete(workspace: Workspace, kind: _Kind, found: Json, *, force: bool) -> None:
    below = [(inner, body) for inner in _KINDS.values() if inner.parents for body in _all(workspace, inner.path)]
    inside = [pair for pair in below if kind.holds and pair[1]["full_name"].startswith(f"{found['full_name']}.")]
    users = [body["full_name"] for _, body in inside] + _users(workspace, kind, found)
    if users and not force:
        message = f"{kind.label} '{found['full_name']}' is not empty or still in use by: {', '.join(sorted(users))}."
        # Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (CatalogsAPI.delete, SchemasAPI.delete,
        # ExternalLocationsAPI.delete, StorageCredentialsAPI.delete: force); databricks-sdk==0.156.0
        # databricks/sdk/service/networking.py (ErrorCode)
        raise CloudError(400, f"{kind.code}_NOT_EMPTY" if inside else "INVALID_STATE", message)
    for inner, body in inside:
        workspace.records.delete(_record(workspace, inner, body["full_name"]))
    workspace.records.delete(_record(workspace, kind, found["full_name"]))


# Source: databricks-sdk==0.156.0 databricks/sdk/service/catalog.py (GrantsAPI.get; update)
async def _grants(workspace: Workspace, request: Request) -> Json:
    """Privileges by principal. They are deleted with the object."""
    kind, name = request.path_params["kind"].lower(), request.path_params["name"]
    of = _KINDS.get(f"{kind.replace('_', '-')}s")
    if of is None and kind != "metastore":
        raise ValueError(f"The sandbox has grants on metastore, {', '.join(_KINDS)} only.")
    found = _get(workspace, of, name) if of else metastore.record(workspace)
    grants = found.get("grants", {})
    granted = {principal: set(privileges) for principal, privileges in grants.items()}
    if request.method == "PATCH":
        for change in (await body_of(request)).get("changes", []):
            mine = granted.setdefault(change["principal"], set())
            mine |= set(change.get("add", []))
            mine -= set(change.get("remove", []))
        changed = found | {"grants": {principal: sorted(held) for principal, held in granted.items() if held}}
        if of:
            _store(workspace, of, changed)
        else:
            workspace.records.put(metastore.key(workspace), changed)
    assigned = [{"principal": principal, "privileges": sorted(held)} for principal, held in granted.items() if held]
    return {"privilege_assignments": assigned}


def _users(workspace: Workspace, kind: _Kind, found: Json) -> list[str]:
    """Objects that use a credential or an external location."""
    if kind.path == "storage-credentials":
        locations = _all(workspace, "external-locations")
        return [body["name"] for body in locations if body["credential_name"] == found["name"]]
    if kind.path == "external-locations":
        root = _Location.parse(workspace.sandbox, found["url"])
        return [name for name, location in _in_use(workspace) if location.lies_in(root)]
    return []


def _in_use(workspace: Workspace) -> list[tuple[str, _Location]]:
    """Full names and locations of volumes and of the managed storage of catalogs."""
    named = [(body["full_name"], body["storage_location"]) for body in _all(workspace, "volumes")]
    named += [(body["full_name"], body["storage_root"]) for body in _all(workspace, "catalogs")]
    return [(name, _Location.parse(workspace.sandbox, url)) for name, url in named]


def _covered(workspace: Workspace, url: str, own_name: str) -> None:
    """Require that the url is in an external location and overlaps no volume or managed storage."""
    location = _Location.parse(workspace.sandbox, url)
    roots = [_Location.parse(workspace.sandbox, body["url"]) for body in _all(workspace, "external-locations")]
    if not any(location.lies_in(root) for root in roots):
        message = f"No parent external location was found for path {url!r}. Please create an external location first."
        # No source: the error class NO_PARENT_EXTERNAL_LOCATION_FOR_PATH and its text are quoted by users of SQL;
        # create a catalog through the API with a storage_root outside of every external location and read the code.
        raise CloudError(404, "EXTERNAL_LOCATION_DOES_NOT_EXIST", message)
    _no_overlap(url, location, [(name, other) for name, other in _in_use(workspace) if name != own_name])


def _no_overlap(url: str, location: _Location, others: list[tuple[str, _Location]]) -> None:
    for name, other in others:
        if location.overlaps(other):
            # No source: the class INVALID_PARAMETER_VALUE.LOCATION_OVERLAP is quoted by users; create an external
            # location below another and read the answer.
            raise ValueError(f"LOCATION_OVERLAP: Input path url '{url}' overlaps with the storage of '{name}'.")


def _complete_credential(workspace: Workspace, made: Json, request: Json) -> None:
    _principal(workspace.sandbox, made)
    made["azure_managed_identity"].setdefault("credential_id", made["id"])


def _principal(sandbox: Sandbox, credential: Json) -> str:
    """Object id of the managed identity behind a storage credential."""
    identity = credential.get("azure_managed_identity") or {}
    connector_id = identity.get("access_connector_id", "")
    connector = sandbox.store.get(connector_id) if connector_id else None
    if connector is None:
        # No source: create a storage credential with an access connector that does not exist and read the error.
        raise ValueError(f"azure_managed_identity.access_connector_id {connector_id!r} is not an access connector.")
    if user_assigned := identity.get("managed_identity_id"):
        body = sandbox.store.get(user_assigned) or {}
        principal = body.get("properties", {}).get("principalId")
    else:
        principal = (connector.get("identity") or {}).get("principalId")
    if not principal:
        # No source: create a storage credential with an access connector without identity and read the error.
        raise ValueError(f"Access connector {connector_id} has no managed identity: make its identity SystemAssigned.")
    return str(principal)


def _complete_location(workspace: Workspace, made: Json, request: Json) -> None:
    credential = _get(workspace, _KINDS["storage-credentials"], made.get("credential_name", ""))
    made["credential_id"] = credential["id"]
    location = _Location.parse(workspace.sandbox, made.get("url", ""))
    others = [
        (body["name"], _Location.parse(workspace.sandbox, body["url"]))
        for body in _all(workspace, "external-locations")
    ]
    _no_overlap(made["url"], location, [(name, other) for name, other in others if name != made["name"]])
    account = blob.find_account(workspace.sandbox.store, location.account)
    assert account is not None
    _require_reach(workspace, *account)
    scope = blob.container_id(account[0], location.container)
    principal = _principal(workspace.sandbox, credential)
    allowed = blob.may_access(workspace.sandbox, principal, scope, write=not made.get("read_only"))
    if not allowed and not request.get("skip_validation"):
        connector = credential["azure_managed_identity"]["access_connector_id"]
        message = (
            f"The Azure Managed Identity of {connector} (principal {principal}) does not have permissions on url "
            f"{made['url']}: it has no role 'Storage Blob Data Contributor' on {account[0]}."
        )
        # No source: create an external location before the connector has a role and read code and message.
        raise CloudError(403, "PERMISSION_DENIED", message)


def _require_reach(workspace: Workspace, account_id: str, account: Json) -> None:
    """The connector is a trusted service; else the workspace's own network must lead to the account.

    Source: MicrosoftDocs/azure-docs articles/storage/common/storage-network-security-trusted-azure-services.md
    """
    reached = reaches(workspace.sandbox, workspace.network, account_id, "dfs")
    if not (is_public(account) or trusts_services(account) or reached):
        message = f"{account_id}: This request is not authorized to perform this operation."
        # No source: the wording of Databricks around storage's refusal; an external location on Azure shows it.
        raise CloudError(403, "PERMISSION_DENIED", message)


def _complete_catalog(workspace: Workspace, made: Json, request: Json) -> None:
    if not made.get("storage_root"):
        message = "Metastore storage root URL does not exist. Please provide a storage location for the catalog."
        # Source: databricks/cli#4513
        raise CloudError(400, "INVALID_STATE", f"{message} Send storage_root, a url in an external location.")
    _covered(workspace, made["storage_root"], made["full_name"])
    made.setdefault("storage_location", f"{made['storage_root'].rstrip('/')}/__unitystorage/catalogs/{made['id']}")
    made["catalog_type"] = "MANAGED_CATALOG"
    if workspace.records.get(_record(workspace, _KINDS["catalogs"], made["name"])) is None:
        default = {"name": "default", "catalog_name": made["name"], "full_name": f"{made['name']}.default"}
        _store(workspace, _KINDS["schemas"], default | {"owner": workspace.caller})  # every new catalog has it


def _complete_schema(workspace: Workspace, made: Json, request: Json) -> None:
    if made.get("storage_root"):
        raise ValueError("The sandbox keeps managed data in the catalog's storage: send no storage_root with a schema.")
    made["schema_id"] = made["id"]


def _complete_volume(workspace: Workspace, made: Json, request: Json) -> None:
    made["volume_id"] = made["id"]
    if made.get("volume_type") != "EXTERNAL":
        raise ValueError(f"The sandbox has volumes of type EXTERNAL only, not {made.get('volume_type')}.")
    _covered(workspace, made.get("storage_location", ""), made["full_name"])


_KINDS = {
    kind.path: kind
    for kind in (
        _Kind("storage-credentials", "Storage Credential", _complete_credential),
        _Kind("external-locations", "External Location", _complete_location),
        _Kind("catalogs", "Catalog", _complete_catalog),
        _Kind("schemas", "Schema", _complete_schema, ("catalog_name",)),
        _Kind("volumes", "Volume", _complete_volume, ("catalog_name", "schema_name")),
    )
}
