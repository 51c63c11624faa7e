"""The inference router: checks the key, and chooses a deployment, by header or by traffic, and a replica of it.

Its errors are those of Azure's router for Kubernetes: 401 for a wrong key, 404 if no deployment gets traffic, 503 if
all replicas are busy for longer than `maxQueueWait`, 504 for a request that takes too long, 502 if replicas are lost.
If a replica is lost, the request is sent to another one once, because scoring has no side effects.
The service's own answers are returned unchanged (Azure documents this for Kubernetes endpoints; a managed endpoint
replaces them by 424). The body has no limit: Azure documents none for Kubernetes endpoints, only a time-out of at most
300 s. With an internal load balancer, a caller outside the network gets no answer. Has no Swagger document and no
mirrored traffic.
"""

import random
import uuid

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import caller_network
from sandbox.context import Sandbox
from sandbox.faults import abort
from sandbox.machine_learning.endpoints import Endpoint, fleet
from sandbox.machine_learning.replicas import Deployment, NoReplica, Overloaded

# No source: send a request with many headers to a Kubernetes endpoint on Azure, and log those that arrive.
_FORWARDED = ("content-type", "content-encoding", "accept", "traceparent", "tracestate")
_RETURNED = ("content-type", "retry-after", "traceparent", "x-request-id")


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md (401, 404,
    # as for managed endpoints); MicrosoftDocs/azure-ai-docs articles/machine-learning/concept-endpoints-online.md
    # (traffic, and the header `azureml-model-deployment`)
    async def score(request: Request) -> Response:
        endpoint = fleet(sandbox).endpoints.get(request.path_params["name"].lower())
        if endpoint and endpoint.network not in (None, caller_network.network_of(sandbox, request)):
            # The address is private to another network. On Azure the caller gets no answer until its own time-out.
            await abort(request.receive)
            return Response()
        marks = {"x-request-id": request.headers.get("x-request-id") or str(uuid.uuid4())}
        marks["x-ms-client-request-id"] = request.headers.get("x-ms-client-request-id") or marks["x-request-id"]
        if endpoint is None:
            return _error(
                404, "EndpointNotFound", f"The endpoint '{request.path_params['name']}' does not exist.", marks
            )
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not endpoint.admits(credential.strip()):
            message = "The Authorization header is missing, or its key or token is wrong or expired."
            return _error(401, "Unauthorized", message, {**marks, "www-authenticate": "Bearer"})
        # Read before the deployment is chosen: an update may replace it while the body arrives.
        body = await request.body()
        name = request.headers.get("azureml-model-deployment") or _by_traffic(endpoint)
        if name is None:
            return _error(404, "NoTraffic", "The endpoint has no deployment with positive traffic.", marks)
        deployment = endpoint.deployments.get(name.lower())
        if deployment is None:
            return _error(404, "DeploymentNotFound", f"The endpoint has no deployment '{name}'.", marks)
        marks["azureml-model-deployment"] = name
        return await _forward(deployment, request, body, marks)

    async def metrics(_request: Request) -> Response:
        """Addresses of the replicas' metrics, in the format of Prometheus' HTTP service discovery."""
        groups = [
            {"targets": deployment.addresses, "labels": {"endpoint": endpoint.name, "deployment": name}}
            for endpoint in fleet(sandbox).endpoints.values()
            for name, deployment in endpoint.deployments.items()
        ]
        return JSONResponse(groups)

    return [
        Route("/api/v1/endpoint/{name}/score", score, methods=["POST"]),
        Route("/sandbox/metrics", metrics),
    ]


def _by_traffic(endpoint: Endpoint) -> str | None:
    names, shares = list(endpoint.traffic), list(endpoint.traffic.values())
    return random.choices(names, shares)[0] if sum(shares) else None


# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-online-endpoints.md ("Common error
# codes for Kubernetes online endpoints": 502, 503, 504); MicrosoftDocs/azure-ai-docs
# articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md (what the service answers passes through)
async def _forward(deployment: Deployment, request: Request, body: bytes, marks: dict[str, str]) -> Response:
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    headers |= {"accept-encoding": "identity", "x-request-id": marks["x-request-id"]}
    spec, lost = deployment.spec, None
    for _ in range(2):
        try:
            replica = await deployment.acquire(avoid=lost)
        except Overloaded:
            message = "All replicas are busy; the request waited as long as maxQueueWait allows."
            return _error(503, "TooManyRequests", message, {**marks, "retry-after": "1"})
        except NoReplica:
            return _error(503, "NoReadyReplica", "No replica is ready.", {**marks, "retry-after": "5"})
        try:
            answer = await replica.send("POST", spec.scoring_path, headers, body, spec.request_timeout)
        except TimeoutError:
            message = f"Scoring took longer than requestTimeout, {spec.request_timeout:g} s."
            return _error(504, "RequestTimeout", message, marks)
        except httpx.TransportError:
            lost = replica
        else:
            returned = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
            return Response(answer.content, answer.status_code, {**marks, **returned})
        finally:
            deployment.release(replica)
    return _error(502, "ReplicaLost", "The connection to the scoring service was lost, twice.", marks)


def _error(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
