"""Unity Catalog over the lake: credential, external locations, catalog, schema and one volume per container.

Databricks code reads and writes `/Volumes/<catalog>/<schema>/<container>/…`, without a key or a mount. All objects of
one environment are one resource; they are created in order, and existing ones are adopted.
Does not delete files: dropping an external volume leaves them in the lake.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial

import pulumi

from infra.cloud.retry import retry_until_authorized
from infra.dynamic.inputs import InputField, Outputs, replaces, updates
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import Creation, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.dynamic.workspace import WorkspaceInputs, databricks_of

VOLUMES = ("raw", "features", "models")
SCHEMA = "personalization"
PRIVILEGES = ("CREATE_CATALOG", "CREATE_EXTERNAL_LOCATION", "CREATE_STORAGE_CREDENTIAL")
"""Privileges that the deployer needs on the metastore. The workspace's admins have them if Databricks assigned the
metastore automatically. If an account admin assigned it, nobody has them.

Source: https://learn.microsoft.com/azure/databricks/data-governance/unity-catalog/manage-privileges/admin-privileges;
databricks/terraform-provider-databricks#2828
"""
_REMEDY = (
    f"The deployer needs {', '.join(PRIVILEGES)} on the metastore, which its admin grants, and the role Contributor or "
    "Owner on the access connector. `personalization preflight` checks the privileges."
)


class CatalogInputs(WorkspaceInputs):
    catalog: InputField[str] = replaces()
    connector_id: InputField[str] = replaces()
    identity_id: InputField[str] = replaces()
    locations: InputField[Mapping[str, str]] = updates()
    """URL of each container in the lake, by its name."""


class CatalogOutputs(Outputs):
    volumes: str


class _CatalogProvider(WorkspaceProvider[CatalogInputs, CatalogOutputs]):
    object_name = ("catalog",)

    def create_object(self, inputs: CatalogInputs) -> Creation[CatalogOutputs]:
        return Creation(inputs.catalog, self._ensure(inputs))

    def read_object(self, state: ResourceState[CatalogInputs, CatalogOutputs]) -> CatalogInputs | None:
        """Gone if one of its objects is: `create` adopts the others."""
        from databricks.sdk.errors import NotFound

        inputs, catalog = state.inputs, state.inputs.catalog
        try:
            client = databricks_of(inputs)
            client.storage_credentials.get(catalog)
            for container in inputs.locations:
                client.external_locations.get(_location(catalog, container))
            client.schemas.get(f"{catalog}.{SCHEMA}")
            for volume in VOLUMES:
                client.volumes.read(f"{catalog}.{SCHEMA}.{volume}")
        except NotFound:
            return None
        return inputs

    def update_object(
        self, _state: ResourceState[CatalogInputs, CatalogOutputs], inputs: CatalogInputs
    ) -> CatalogOutputs:
        return self._ensure(inputs)

    def delete_object(self, state: ResourceState[CatalogInputs, CatalogOutputs]) -> None:
        from databricks.sdk.errors import NotFound

        inputs, catalog = state.inputs, state.inputs.catalog
        try:
            client = databricks_of(inputs)
        except NotFound:
            return
        locations = [_location(catalog, container) for container in inputs.locations]
        for delete, names in (
            (client.catalogs.delete, [catalog]),
            (client.external_locations.delete, locations),
            (client.storage_credentials.delete, [catalog]),
        ):
            for name in names:
                with contextlib.suppress(NotFound):
                    delete(name, force=True)

    @staticmethod
    def _ensure(inputs: CatalogInputs) -> CatalogOutputs:
        from databricks.sdk.errors import NotFound, PermissionDenied
        from databricks.sdk.service.catalog import AzureManagedIdentityRequest, VolumeType

        client, catalog, locations = databricks_of(inputs), inputs.catalog, inputs.locations

        def ensure(get: Callable[[], object], create: Callable[[], object], what: str) -> None:
            """Create the object if it does not exist, as soon as Databricks allows it.

            The connector's role on the storage and the deployer's rights on the metastore of a new workspace take
            effect some minutes late. A storage credential requires the built-in role Contributor or Owner on the access
            connector, by the id of the role (databricks/cli#1486).
            """
            try:
                get()
            except NotFound:
                try:
                    retry_until_authorized(create, (PermissionDenied,), what=what)
                except PermissionDenied as error:
                    raise PermissionDenied(f"{error} {_REMEDY}") from error

        identity = AzureManagedIdentityRequest(
            access_connector_id=inputs.connector_id, managed_identity_id=inputs.identity_id
        )
        credentials, external = client.storage_credentials, client.external_locations
        ensure(
            partial(credentials.get, catalog),
            partial(credentials.create, catalog, azure_managed_identity=identity),
            f"storage credential {catalog}",
        )
        for container, url in sorted(locations.items()):
            name = _location(catalog, container)
            ensure(
                partial(external.get, name), partial(external.create, name, url, catalog), f"external location {name}"
            )
        ensure(
            partial(client.catalogs.get, catalog),
            partial(client.catalogs.create, catalog, storage_root=locations["catalog"]),
            f"catalog {catalog}",
        )
        ensure(
            partial(client.schemas.get, f"{catalog}.{SCHEMA}"),
            partial(client.schemas.create, SCHEMA, catalog),
            f"schema {SCHEMA}",
        )
        for volume in VOLUMES:
            create = partial(client.volumes.create, catalog, SCHEMA, volume, VolumeType.EXTERNAL)
            ensure(
                partial(client.volumes.read, f"{catalog}.{SCHEMA}.{volume}"),
                partial(create, storage_location=locations[volume]),
                f"volume {volume}",
            )
        return CatalogOutputs(volumes=f"/Volumes/{catalog}/{SCHEMA}")


def _location(catalog: str, container: str) -> str:
    return f"{catalog}_{container}"


class Catalog(DynamicResource[CatalogInputs], module="databricks", name="Catalog", provider=_CatalogProvider):
    volumes: pulumi.Output[str]
    """`/Volumes/<catalog>/<schema>`: the folder of the volumes raw, features and models."""
