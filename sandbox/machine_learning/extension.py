"""The Azure ML extension of a cluster: the errors of its health check, and the address of its router.

Its Helm chart is not public; the meaning of its settings is taken from Microsoft's template and CLI. Does not install
anything: a cluster of the sandbox has no Kubernetes objects, and so no secret for `scoringFe.sslSecret`.

Source: Azure/AML-Kubernetes files/deployextension.json; Azure/azure-cli-extensions
src/k8s-extension/azext_k8s_extension/partner_extensions/AzureMLKubernetes.py; MicrosoftDocs/azure-ai-docs
articles/machine-learning/how-to-troubleshoot-kubernetes-extension.md ("Error Code of HealthCheck")
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sandbox.arm.store import Body
from sandbox.context import Behaviour, CloudError, Sandbox

TYPE = "microsoft.kubernetesconfiguration/extensions"
NAME = "microsoft.azureml.kubernetes"
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-kubernetes-inference-routing-azureml-fe.md
_ROUTERS = 3
# Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md
_SERVICE_TYPES = ("loadbalancer", "nodeport", "clusterip")
_SELECTOR = "nodeSelector."
_PUBLIC = "192.0.2.10"
"""A public address, from the range for documentation (RFC 5737), so nothing listens there."""


def behaviours() -> dict[str, Behaviour]:
    return {TYPE: Behaviour(before_put=_check_certificate, on_put=_check_router)}


def settings_of(sandbox: Sandbox, cluster_id: str) -> Mapping[str, Any]:
    """The configuration settings of the cluster's Azure ML extension; empty without one."""
    for _, body in sandbox.store.below(cluster_id):
        properties = body.get("properties") or {}
        if _is_ours(properties) and properties.get("provisioningState") not in ("Creating", "Failed"):
            return properties.get("configurationSettings") or {}
    return {}


def is_true(settings: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    return str(settings.get(name, default)).lower() == "true"


def is_internal(sandbox: Sandbox, cluster_id: str) -> bool:
    """Whether the router has a private address. Only the raw setting counts, not the name of the provider.

    Source: Azure/AML-Kubernetes files/deployextension.json (`isInternalLoadBalancer`); Azure/azure-cli-extensions
    src/k8s-extension/azext_k8s_extension/partner_extensions/AzureMLKubernetes.py (`__normalize_config`)
    """
    return is_true(settings_of(sandbox, cluster_id), "scoringFe.serviceType.internalLoadBalancer")


def router_url(sandbox: Sandbox, cluster_id: str) -> str:
    """Scheme, host and port of the router of the cluster.

    With a certificate, the host is its name. Without an internal load balancer the address is public, which is useless
    inside a virtual network: there the sandbox returns an unreachable address. Otherwise it returns its own.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-online-endpoint.md ("it
    replaces the IP address in the scoring URI")
    """
    settings = settings_of(sandbox, cluster_id)
    if settings and not is_true(settings, "allowInsecureConnections"):
        return f"https://{settings.get('sslCname')}:{sandbox.port}"
    if not is_internal(sandbox, cluster_id) and any(pool.get("vnetSubnetID") for pool in _pools(sandbox, cluster_id)):
        return f"http://{_PUBLIC}"
    return sandbox.url


def _check_certificate(sandbox: Sandbox, extension_id: str, sent: Body, existing: Body | None) -> None:
    """Check the certificate and its key. Azure reads them during the installation; the sandbox does not store them.

    Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md (RSA)
    """
    properties = sent.get("properties") or {}
    settings = properties.get("configurationSettings") or {}
    if not _has_router(properties) or is_true(settings, "allowInsecureConnections"):
        return
    if secret := settings.get("scoringFe.sslSecret"):
        raise _unhealthy("E40007", f"the namespace azureml has no secret '{secret}'")
    protected = properties.get("configurationProtectedSettings") or {}
    try:
        pem, key_pem = (
            base64.b64decode(str(protected.get(key) or ""), validate=True)
            for key in ("scoringFe.sslCert", "scoringFe.sslKey")
        )
        certificate, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(key_pem, password=None)
    except (binascii.Error, TypeError, ValueError) as error:
        raise _unhealthy("E40007", f"the certificate or its key cannot be read: {error}") from error
    if not isinstance(key, RSAPrivateKey):
        raise _unhealthy("E40007", "the key is not an RSA key")
    if key.public_key() != certificate.public_key():
        raise _unhealthy("E40007", "the key is not the certificate's")
    name = str(settings.get("sslCname") or "")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = names.get_values_for_type(x509.DNSName)
    if name not in known and f"*.{name.partition('.')[2]}" not in known:
        raise _unhealthy("E40007", f"sslCname '{name}' is not among the certificate's names {', '.join(known)}")


async def _check_router(sandbox: Sandbox, extension_id: str, body: Body) -> None:
    """Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-extension.md"""
    properties = body["properties"]
    settings = properties.get("configurationSettings") or {}
    if not _has_router(properties):
        return
    service_type = str(settings.get("inferenceRouterServiceType") or "")
    if service_type.lower() not in _SERVICE_TYPES:
        allowed = ", ".join(_SERVICE_TYPES)
        raise _unhealthy("E40001", f"inferenceRouterServiceType is '{service_type}', not one of {allowed}")
    if (provider := settings.get("internalLoadBalancerProvider", "azure")) != "azure":
        raise _unhealthy("E40003", f"internalLoadBalancerProvider is '{provider}', and only 'azure' is supported")
    _check_nodes(sandbox, extension_id.lower().partition("/providers/microsoft.kubernetesconfiguration/")[0], settings)


def _check_nodes(sandbox: Sandbox, cluster_id: str, settings: Mapping[str, Any]) -> None:
    """Source: Azure/AML-Kubernetes#271 (E40002 counts the nodes that match the extension's node selector)."""
    selector = {key.removeprefix(_SELECTOR): value for key, value in settings.items() if key.startswith(_SELECTOR)}
    nodes = sum(
        pool.get("count") or 0
        for pool in _pools(sandbox, cluster_id)
        if selector.items() <= (pool.get("nodeLabels") or {}).items()
    )
    needed = _ROUTERS if is_true(settings, "inferenceRouterHA", default=True) else 1
    if nodes < needed:
        raise _unhealthy("E40002", f"{nodes} nodes match the selector {selector}, and the router needs {needed}")


def _has_router(properties: Mapping[str, Any]) -> bool:
    return _is_ours(properties) and is_true(properties.get("configurationSettings") or {}, "enableInference")


def _is_ours(properties: Mapping[str, Any]) -> bool:
    return str(properties.get("extensionType")).lower() == NAME


def _pools(sandbox: Sandbox, cluster_id: str) -> list[Mapping[str, Any]]:
    cluster = sandbox.store.get(cluster_id) or {}
    return list((cluster.get("properties") or {}).get("agentPoolProfiles") or [])


def _unhealthy(code: str, reason: str) -> CloudError:
    """No source: the code of a failed installation in ARM's answer; the number is the health check's."""
    return CloudError(400, "ExtensionOperationFailed", f"The extension's health check failed: {code}, {reason}.")
