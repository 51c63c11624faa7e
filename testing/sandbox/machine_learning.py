"""A sandbox in a separate process, with the resources of a Kubernetes online endpoint and a tiny scoring service."""

import io
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from azure.ai.ml import MLClient
from azure.identity import ClientSecretCredential
from azure.mgmt.containerregistrytasks import ContainerRegistryTasksMgmtClient
from azure.storage.blob import BlobClient

from testing.sandbox.process import RunningSandbox, running_sandbox

GROUP, WORKSPACE, REGISTRY, CLUSTER, COMPUTE = "rg", "mlw-test", "crtest", "aks-test", "serving"
ML = "Microsoft.MachineLearningServices/workspaces"
ROLE = "Microsoft.MachineLearningServices/workspaces/mlworkload"
EXTENSION = "Microsoft.KubernetesConfiguration/extensions"
CONTRIBUTOR = "b24988ac-6180-42a0-ab88-20f7382dd24c"
ROUTER = {
    "enableInference": "True",
    "allowInsecureConnections": "True",
    "inferenceRouterServiceType": "LoadBalancer",
    "inferenceRouterHA": "False",
}
"""Settings of the extension for a router of one replica that speaks plain HTTP."""

SERVICE = """
import json, os, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if os.environ.get("FAIL_AT_START"):
    sys.exit("cannot load the model: " + os.environ["FAIL_AT_START"])
if os.path.exists(os.environ.get("FAIL_WHERE_EXISTS", "")):
    sys.exit("cannot load the model any more")
held = []
model = next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("model.txt"))

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def answer(self, status, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        hung = pathlib.Path(os.environ["HOME"], "hung").exists() or "NEVER_READY" in os.environ
        self.answer(200 if self.path in ("/live", "/ready") and not hung else 500, {})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "hold" in asked:
            held.append(b"x" * asked["hold"])
        if "die" in asked:
            os._exit(9)
        if "hang" in asked:
            pathlib.Path(os.environ["HOME"], "hung").touch()
        time.sleep(asked.get("sleep", 0))
        while "until" in asked and not pathlib.Path(asked["until"]).exists():
            time.sleep(0.01)
        if "status" in asked:
            return self.answer(asked["status"], {"title": "refused"}, retry_after=7)
        self.answer(200, {"model": model.read_text(), "at": str(model), "pid": os.getpid(), "env": dict(os.environ),
                          "headers": dict(self.headers)})
    def log_message(self, *args): pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128

print("serving", flush=True)
Server((os.environ["SCORING_HOST"], int(os.environ["SCORING_PORT"])), Handler).serve_forever()
"""
INSTALL = """#!/bin/sh
set -eu
mkdir -p "$1/bin"
cp service.py "$1/service.py"
printf '#!/bin/sh\\nexec %s %s\\n' "$PYTHON" "$1/service.py" > "$1/bin/serve"
chmod +x "$1/bin/serve"
echo "installed engine $2 into $1"
echo built >> "${BUILDS:-/dev/null}"
"""
DOCKERFILE = 'FROM python:3.11-slim\nARG ENGINE=native\nCOPY . .\nRUN ./install.sh /opt/scoring "$ENGINE"\n'
CONTEXT = {"Dockerfile": DOCKERFILE, "install.sh": INSTALL, "service.py": SERVICE}


@dataclass
class Cloud(RunningSandbox):
    """A running sandbox with the clients of Azure ML and of the registry."""

    @property
    def group(self) -> str:
        return f"{self.subscription}/resourceGroups/{GROUP}"

    @property
    def workspace(self) -> str:
        return f"{self.group}/providers/{ML}/{WORKSPACE}"

    @property
    def registry(self) -> str:
        return f"{self.group}/providers/Microsoft.ContainerRegistry/registries/{REGISTRY}"

    @property
    def cluster(self) -> str:
        return f"{self.group}/providers/Microsoft.ContainerService/managedClusters/{CLUSTER}"

    @cached_property
    def credential(self) -> ClientSecretCredential:
        return ClientSecretCredential(
            self.environment["AZURE_TENANT_ID"],
            self.environment["AZURE_CLIENT_ID"],
            self.environment["AZURE_CLIENT_SECRET"],
            authority=self.url,
            disable_instance_discovery=True,
            connection_verify=self.ca_bundle,
        )

    @cached_property
    def ml(self) -> MLClient:
        names = "azure_portal resource_manager active_directory aml_resource_id storage_endpoint"
        return MLClient(
            self.credential,
            self.environment["ARM_SUBSCRIPTION_ID"],
            GROUP,
            WORKSPACE,
            cloud=f"Sandbox {self.url}",
            cloud_metadata=dict.fromkeys([*names.split(), "registry_discovery_endpoint"], self.url),
            enable_telemetry=False,
            show_progress=False,
            connection_verify=self.ca_bundle,
        )

    @cached_property
    def tasks(self) -> ContainerRegistryTasksMgmtClient:
        return ContainerRegistryTasksMgmtClient(
            self.credential,
            self.environment["ARM_SUBSCRIPTION_ID"],
            base_url=self.url,
            credential_scopes=[f"{self.url}/.default"],
            connection_verify=self.ca_bundle,
        )

    def change(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The error, empty if there is none, once the operation has ended."""
        answer = self.arm(method, path, body)
        if "azure-asyncoperation" in answer.headers:
            return dict(self.settle(answer).get("error", {}))
        return {} if answer.is_success else dict(answer.json()["error"])

    def put(self, path: str, **body: Any) -> dict[str, Any]:
        error = self.change("PUT", path, {"location": "westeurope", **body})
        assert not error, error
        resource: dict[str, Any] = self.arm("GET", path).json()
        return resource

    def refused(self, path: str, **body: Any) -> str:
        """Error of a refused PUT."""
        return str(self.change("PUT", path, {"location": "westeurope", **body})["message"])

    def delete(self, path: str) -> str:
        """Error of the deletion; empty if it succeeds."""
        return str(self.change("DELETE", path).get("message", ""))

    def contribute(self, scope: str) -> None:
        """Give the workspace's identity the role Contributor."""
        principal = self.arm("GET", self.workspace).json()["identity"]["principalId"]
        role = f"{self.subscription}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR}"
        name = uuid.uuid5(uuid.NAMESPACE_URL, scope)
        assigned = {"principalId": principal, "roleDefinitionId": role, "principalType": "ServicePrincipal"}
        self.put(f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}", properties=assigned)

    def build(self, files: Mapping[str, str], *, mtime: int = 0, wait: bool = True, **changed: Any) -> Any:
        """Upload a context with the SDKs, schedule its build and wait for the end of the run."""
        source = self.tasks.registries.get_build_source_upload_url(GROUP, REGISTRY)
        client = BlobClient.from_blob_url(source.upload_url, connection_verify=self.ca_bundle)
        client.upload_blob(archive(files, mtime=mtime))
        return self.schedule(source.relative_path, wait=wait, **changed)

    def schedule(self, source: str, *, wait: bool = True, **changed: Any) -> Any:
        request = {
            "type": "DockerBuildRequest",
            "imageNames": ["scoring:{{.Run.ID}}", "scoring:latest"],
            "isPushEnabled": True,
            "sourceLocation": source,
            "dockerFilePath": "Dockerfile",
            "platform": {"os": "Linux"},
            "arguments": [{"name": "ENGINE", "value": "native"}],
            **changed,
        }
        run = self.tasks.registries.schedule_run(GROUP, REGISTRY, request)
        while wait and run.status in ("Queued", "Started", "Running"):
            time.sleep(0.05)
            run = self.tasks.runs.get(GROUP, REGISTRY, run.run_id)
        return run

    def log(self, run: Any) -> str:
        return self.http.get(self.tasks.runs.get_log_sas_url(GROUP, REGISTRY, run.run_id).log_link).text

    def endpoint(self, name: str, traffic: dict[str, int] | None = None, **properties: Any) -> dict[str, Any]:
        return self.put(f"{self.workspace}/onlineEndpoints/{name}", **self.endpoint_body(traffic, **properties))

    def endpoint_body(self, traffic: dict[str, int] | None = None, **properties: Any) -> dict[str, Any]:
        compute = f"{self.workspace}/computes/{COMPUTE}"
        return {"properties": {"authMode": "Key", "compute": compute, "traffic": traffic or {}, **properties}}

    def deploy(self, endpoint: str, name: str, **changed: Any) -> dict[str, Any]:
        path = f"{self.workspace}/onlineEndpoints/{endpoint}/deployments/{name}"
        return self.put(path, **self.deployment_body(**changed))

    def deployment_body(
        self, *, model: str = "1", replicas: int = 1, variables: dict[str, str] | None = None, **properties: Any
    ) -> dict[str, Any]:
        return {
            "sku": {"name": "Default", "capacity": replicas},
            "properties": {
                "endpointComputeType": "Kubernetes",
                "model": f"{self.workspace}/models/clicks/versions/{model}",
                "environmentId": f"{self.workspace}/environments/scoring/versions/1",
                "environmentVariables": variables or {},
                "instanceType": "defaultinstancetype",
                "scaleSettings": {"scaleType": "Default"},
                **properties,
            },
        }

    def key(self, endpoint: str) -> str:
        answer = self.arm("POST", f"{self.workspace}/onlineEndpoints/{endpoint}/listKeys")
        return str(answer.json()["primaryKey"])

    def score(
        self, endpoint: str, body: Any = None, *, key: str | None = None, deployment: str | None = None
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key(endpoint)}"}
        if deployment:
            headers["azureml-model-deployment"] = deployment
        return self.http.post(f"/api/v1/endpoint/{endpoint}/score", json=body or {}, headers=headers)

    def model(self, version: str, text: str) -> str:
        """A model's files in the lake and its version in the workspace."""
        folder = self.folder / "accounts" / "lake" / "models" / f"run-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.txt").write_text(text)
        uri = f"azureml://datastores/lake/paths/run-{version}"
        self.put(f"{self.workspace}/models/clicks/versions/{version}", properties={"modelUri": uri})
        return uri


def archive(files: Mapping[str, str], *, mtime: int = 0) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), mtime, 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def key_vault(cloud: Cloud) -> str:
    path = f"{cloud.group}/providers/Microsoft.KeyVault/vaults/kv-{uuid.uuid4().hex[:8]}"
    tenant = "00000000-0000-0000-0000-000000000001"
    cloud.put(path, properties={"tenantId": tenant, "sku": {"family": "A", "name": "standard"}})
    return path


def stand_up(cloud: Cloud) -> None:
    """A sandbox with all resources up to the attached compute, one model version and one environment version."""
    provider = f"{cloud.group}/providers"
    cloud.put(cloud.group)
    for name, hierarchical in (("lake", True), ("mlstorage", False)):
        path = f"{provider}/Microsoft.Storage/storageAccounts/{name}"
        cloud.put(path, kind="StorageV2", sku={"name": "Standard_LRS"}, properties={"isHnsEnabled": hierarchical})
    lake = f"{provider}/Microsoft.Storage/storageAccounts/lake/blobServices/default/containers/models"
    cloud.put(lake, properties={})
    cloud.put(cloud.registry, sku={"name": "Basic"})
    storage, vault = f"{provider}/Microsoft.Storage/storageAccounts/mlstorage", key_vault(cloud)
    cloud.put(
        cloud.workspace,
        identity={"type": "SystemAssigned"},
        properties={"storageAccount": storage, "keyVault": vault, "containerRegistry": cloud.registry},
    )
    cloud.put(cloud.cluster, properties=cluster_properties("aks"))
    cloud.contribute(cloud.cluster)
    cloud.put(f"{cloud.cluster}/providers/{EXTENSION}/azureml", properties=extension_properties())
    binding = f"{cloud.cluster}/trustedAccessRoleBindings/ml"
    cloud.put(binding, properties={"roles": [ROLE], "sourceResourceId": cloud.workspace})
    cloud.put(f"{cloud.workspace}/computes/{COMPUTE}", properties=compute_properties(cloud.cluster))
    cloud.put(
        f"{cloud.workspace}/datastores/lake",
        properties={
            "datastoreType": "AzureBlob",
            "accountName": "lake",
            "containerName": "models",
            "credentials": {"credentialsType": "None"},
        },
    )
    cloud.model("1", "first")
    cloud.model("2", "second")
    run = cloud.build(CONTEXT)
    assert run.status == "Succeeded", cloud.log(run)
    environment(cloud, "1", run.output_images[0].digest)


def environment(cloud: Cloud, version: str, digest: str) -> None:
    paths = {"livenessRoute": "/live", "readinessRoute": "/ready", "scoringRoute": "/score"}
    routes = {route: {"path": route_path, "port": 5001} for route, route_path in paths.items()}
    image = f"{cloud.authority}/{REGISTRY}/scoring@{digest}"
    path = f"{cloud.workspace}/environments/scoring/versions/{version}"
    cloud.put(path, properties={"image": image, "inferenceConfig": routes})


def cluster_properties(prefix: str) -> dict[str, Any]:
    pool = {"name": "system", "mode": "System", "count": 2, "vmSize": "Standard_D4s_v5"}
    return {"dnsPrefix": prefix, "disableLocalAccounts": True, "agentPoolProfiles": [pool]}


def extension_properties(**settings: str) -> dict[str, Any]:
    return {"extensionType": "Microsoft.AzureML.Kubernetes", "configurationSettings": {**ROUTER, **settings}}


def compute_properties(cluster: str, **settings: Any) -> dict[str, Any]:
    return {"computeType": "Kubernetes", "resourceId": cluster, "properties": {"namespace": "azureml", **settings}}


@contextmanager
def ml_sandbox(folder: Path) -> Iterator[Cloud]:
    folder.mkdir(parents=True, exist_ok=True)
    with running_sandbox(folder) as sandbox:
        cloud = Cloud(sandbox.folder, sandbox.variables)
        cloud.settings(role_propagation=0)
        stand_up(cloud)
        yield cloud
        cloud.http.close()
