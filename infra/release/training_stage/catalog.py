"""Unity Catalog over the lake: credential, external locations, catalog, schema and one volume per container.

Databricks code reads and writes `/Volumes/<catalog>/<schema>/<container>/…`, without a key or a mount. All objects of
one environment are one resource; they are created in order, and existing ones are adopted.
Does not delete files: dropping an external volume leaves them in the lake.
"""

import contextlib
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from infra.cloud.clients import databricks_of
from infra.cloud.retry import retry_until_authorized
from infra.dynamic.ownership import WorkspaceProvider
from infra.dynamic.provider import gone

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


class _CatalogProvider(WorkspaceProvider):
    object_name = ("catalog",)
    identity = ("workspace_id", "workspace_uid", "catalog", "connector_id", "identity_id")
    inputs = ("workspace_url", "locations")

    def create(self, props: dict[str, Any]) -> CreateResult:
        self._ensure(props)
        return CreateResult(props["catalog"], {**props, "volumes": f"/Volumes/{props['catalog']}/{SCHEMA}"})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if one of its objects is: `create` adopts the others."""
        from databricks.sdk.errors import NotFound

        try:
            client, catalog = databricks_of(props), props["catalog"]
            client.storage_credentials.get(catalog)
            for container in props["locations"]:
                client.external_locations.get(_location(catalog, container))
            client.schemas.get(f"{catalog}.{SCHEMA}")
            for volume in VOLUMES:
                client.volumes.read(f"{catalog}.{SCHEMA}.{volume}")
        except NotFound:
            return gone()
        return ReadResult(id_, props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        self._ensure(news)
        return UpdateResult({**news, "volumes": f"/Volumes/{news['catalog']}/{SCHEMA}"})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound

        try:
            client, catalog = databricks_of(props), props["catalog"]
        except NotFound:
            return
        locations = [_location(catalog, container) for container in props["locations"]]
        for delete, names in (
            (client.catalogs.delete, [catalog]),
            (client.external_locations.delete, locations),
            (client.storage_credentials.delete, [catalog]),
        ):
            for name in names:
                with contextlib.suppress(NotFound):
                    delete(name, force=True)

    @staticmethod
    def _ensure(props: dict[str, Any]) -> None:
        from databricks.sdk.errors import NotFound, PermissionDenied
        from databricks.sdk.service.catalog import AzureManagedIdentityRequest, VolumeType

        client, catalog, locations = databricks_of(props), props["catalog"], props["locations"]

        def ensure(get: Any, create: Any, what: str) -> None:
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
            access_connector_id=props["connector_id"], managed_identity_id=props["identity_id"]
        )
        ensure(
            lambda: client.storage_credentials.get(catalog),
            lambda: client.storage_credentials.create(catalog, azure_managed_identity=identity),
            f"storage credential {catalog}",
        )
        for container, url in sorted(locations.items()):
            name = _location(catalog, container)
            ensure(
                lambda name=name: client.external_locations.get(name),
                lambda name=name, url=url: client.external_locations.create(name, url, catalog),
                f"external location {name}",
            )
        ensure(
            lambda: client.catalogs.get(catalog),
            lambda: client.catalogs.create(catalog, storage_root=locations["catalog"]),
            f"catalog {catalog}",
        )
        ensure(
            lambda: client.schemas.get(f"{catalog}.{SCHEMA}"),
            lambda: client.schemas.create(SCHEMA, catalog),
            f"schema {SCHEMA}",
        )
        for volume in VOLUMES:
            ensure(
                lambda volume=volume: client.volumes.read(f"{catalog}.{SCHEMA}.{volume}"),
                lambda volume=volume: client.volumes.create(
                    catalog, SCHEMA, volume, VolumeType.EXTERNAL, storage_location=locations[volume]
                ),
                f"volume {volume}",
            )


def _location(catalog: str, container: str) -> str:
    return f"{catalog}_{container}"


class Catalog(Resource, module="databricks", name="Catalog"):
    volumes: pulumi.Output[str]
    """`/Volumes/<catalog>/<schema>`: the folder of the volumes raw, features and models."""

    def __init__(
        self,
        name: str,
        *,
        workspace_url: pulumi.Input[str],
        workspace_id: pulumi.Input[str],
        workspace_uid: pulumi.Input[str],
        connector_id: pulumi.Input[str],
        identity_id: pulumi.Input[str],
        catalog: str,
        locations: pulumi.Input[dict[str, pulumi.Input[str]]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "workspace_url": workspace_url,
            "workspace_id": workspace_id,
            "workspace_uid": workspace_uid,
            "connector_id": connector_id,
            "identity_id": identity_id,
            "catalog": catalog,
            "locations": locations,
        }
        super().__init__(_CatalogProvider(), name, {**props, "volumes": None}, opts)
