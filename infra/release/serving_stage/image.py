"""The scoring image: built by the registry from the `scoring/` folder, or an existing one (`release:image`).

The image is named only by digest. The machine that runs `pulumi up` needs no container engine. Does not check that an
existing image is in the registry, which would need the registry's own protocol: Azure ML finds out when it deploys the
image, before any traffic. Does not delete images: a rollback needs them, and the registry has rules for retention.
"""

import io
import re
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from infra.cloud.clients import AzureClients
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces
from infra.dynamic.polling import PollInterval
from infra.dynamic.provider import Creation, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.release.training_stage.workload import sources_digest

if TYPE_CHECKING:
    from azure.mgmt.containerregistrytasks import ContainerRegistryTasksMgmtClient
    from azure.mgmt.containerregistrytasks.models import DockerBuildRequest, Run

_CONTEXT = Path(__file__).parents[3] / "scoring"
REPOSITORY = "personalization-scoring"
_BUILD_MINUTES = 30
_POLL = PollInterval(quick=0.5, quick_for=330, slow=5)
"""Most builds end within the first five minutes."""
# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/containerregistry/registry.py
_REGISTRY_API_VERSION = "2023-01-01-preview"


class ImageBuildFailed(Exception):
    """The registry could not build the image; the message holds the end of the log."""


def context_digest() -> str:
    """sha-256 of the build context, which determines the image's tag."""
    return sources_digest(_CONTEXT, suffixes=None)


def build_context() -> bytes:
    """The `scoring/` folder as tar.gz, in a fixed order and without times or owners."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in member.name:
            return None
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(_CONTEXT.iterdir()):
            archive.add(path, arcname=path.name, filter=plain)
    return buffer.getvalue()


def build_arguments(engine: str, digest: str) -> dict[str, str]:
    """Return the arguments of the Dockerfile, which writes them into labels of the image."""
    lock = (_CONTEXT / f"requirements-{engine}.txt").read_text()
    pins = re.findall(r"^((?:lightgbm|numpy|pyspark|synapseml)==\S+)", lock, re.MULTILINE)
    return {"ENGINE": engine, "CODE_DIGEST": digest, "VERSIONS": " ".join(pins)}


class ImageInputs(Inputs):
    """One of `digest` and `existing` is given."""

    registry_id: InputField[str] = replaces()
    registry_uid: InputField[str] = replaces()
    login_server: InputField[str] = not_compared()
    engine: InputField[str] = replaces()
    digest: InputField[str | None] = replaces()
    """Digest of the build context."""
    existing: InputField[str | None] = replaces()
    """The `sha256:…` of an image in the registry."""
    build_pool: InputField[str | None] = not_compared()


class ImageOutputs(Outputs):
    image: str
    image_digest: str


class _ImageProvider(ReleaseProvider[ImageInputs, ImageOutputs]):
    def create_object(self, inputs: ImageInputs) -> Creation[ImageOutputs]:
        digest = inputs.existing or self._build(inputs, str(inputs.digest))
        image = f"{inputs.login_server}/{REPOSITORY}@{digest}"
        return Creation(digest, ImageOutputs(image=image, image_digest=digest))

    @staticmethod
    def _build(inputs: ImageInputs, context: str) -> str:
        """Let the registry build the image from the build context with the digest `context`. Return its digest."""
        from azure.mgmt.containerregistrytasks.models import DockerBuildRequest, PlatformProperties
        from azure.storage.blob import BlobClient

        part = inputs.registry_id.split("/")
        registry = (part[4], part[8])  # resource group and name
        client = AzureClients.discover().registry_tasks(part[2])
        target = client.registries.get_build_source_upload_url(*registry)
        BlobClient.from_blob_url(target.upload_url).upload_blob(build_context(), overwrite=True)
        run = _schedule(
            client,
            registry,
            DockerBuildRequest(
                image_names=[f"{REPOSITORY}:{inputs.engine}-{context[:16]}"],
                is_push_enabled=True,
                source_location=target.relative_path,
                docker_file_path="Dockerfile",
                platform=PlatformProperties(os="Linux", architecture="amd64"),
                arguments=[
                    {"name": name, "value": value} for name, value in build_arguments(inputs.engine, context).items()
                ],
                timeout=_BUILD_MINUTES * 60,
                agent_pool_name=inputs.build_pool,
            ),
        )
        build = _wait(client, registry, run.run_id)
        return str(build.output_images[0].digest)

    def read_object(self, state: ResourceState[ImageInputs, ImageOutputs]) -> ImageInputs | None:
        """Gone if the registry is. A deleted image is not noticed, because that needs the registry's own API."""
        inputs, cloud = state.inputs, AzureClients.discover()
        registry, uid = inputs.registry_id, inputs.registry_uid
        return inputs if cloud.has(registry, _REGISTRY_API_VERSION, key="creationDate", uid=uid) else None


def _schedule(
    client: "ContainerRegistryTasksMgmtClient", registry: tuple[str, str], request: "DockerBuildRequest"
) -> "Run":
    """Start the build. Raises `ImageBuildFailed` if the subscription may not build.

    Registries of free and trial subscriptions, among others, refuse builds; their message only refers to support.
    Source: Azure-Samples/azure-search-openai-demo#2592; MicrosoftDocs/azure-aks-docs#112
    """
    from azure.core.exceptions import HttpResponseError

    try:
        return client.registries.schedule_run(*registry, request)
    except HttpResponseError as error:
        if error.error and error.error.code == "TasksOperationsNotAllowed":
            raise ImageBuildFailed(
                f"the subscription may not build in its registry {registry[1]}: {error.error.message} Or build the "
                f"image elsewhere, push it there as {REPOSITORY}, and set release:image to its digest."
            ) from None
        raise


def _wait(client: "ContainerRegistryTasksMgmtClient", registry: tuple[str, str], run_id: str) -> "Run":
    """Wait for the end of the build and return it. Raises `ImageBuildFailed`."""
    import requests

    began = time.monotonic()
    while time.monotonic() - began < (_BUILD_MINUTES + 5) * 60:
        run = client.runs.get(*registry, run_id)
        if run.status == "Succeeded":
            return run
        if run.status in ("Failed", "Canceled", "Error", "Timeout"):
            log = requests.get(client.runs.get_log_sas_url(*registry, run_id).log_link, timeout=60).text
            raise ImageBuildFailed(f"image build {run_id} ended as {run.status}:\n{log[-4000:]}")
        _POLL.pause(began)
    raise ImageBuildFailed(f"image build {run_id} did not end within {_BUILD_MINUTES + 5} minutes")


class ScoringImage(
    DynamicResource[ImageInputs], module="containerregistry", name="ScoringImage", provider=_ImageProvider
):
    image: pulumi.Output[str]
    """`<login server>/<repository>@sha256:…`"""
    image_digest: pulumi.Output[str]
