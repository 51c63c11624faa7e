"""Settings of Azure ML's extension: its inference router, the nodes it and all replicas run on, its certificate.

Also checks the address that Azure ML returns for the router. Does not declare resources: `inference.py` does.

Source: Azure/AML-Kubernetes files/deployextension.json (names as ARM takes them, which are case-sensitive and differ
from the CLI's; booleans are the strings 'True' and 'False')
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from urllib.parse import urlsplit

import pulumi

from infra.aks.cluster import SCORING_LABEL
from infra.config import tls
from infra.config.settings import ServingSettings
from infra.planning.capacity import ROUTERS, routers


@dataclass(frozen=True)
class Certificate:
    hostname: str
    chain: str
    """PEM, the server's certificate first."""
    key: str

    @classmethod
    def of(cls, serving: ServingSettings) -> "Certificate | None":
        if not (serving.hostname and serving.tls_certificate and serving.tls_key):
            return None
        return cls(serving.hostname, serving.tls_certificate, serving.tls_key.get_secret_value())


def extension_settings(
    *,
    location: str,
    cluster_id: pulumi.Input[str],
    cluster_name: pulumi.Input[str],
    scoring_nodes: int,
    private: bool,
    certificate: Certificate | None,
) -> dict[str, pulumi.Input[str]]:
    """Settings of the extension. Only the id and name of a new cluster are unknown in a preview, so the policy pack can
    check the others.

    `scoring_nodes`: minimum number of nodes of the scoring pool.
    """
    settings: dict[str, pulumi.Input[str]] = {
        "enableInference": "True",
        "enableTraining": "False",
        "inferenceRouterServiceType": "LoadBalancer",
        "inferenceRouterHA": str(routers(scoring_nodes) == ROUTERS),
        "allowInsecureConnections": str(certificate is None),
        "clusterPurpose": "FastProd",
        "cluster_name": cluster_id,
        "clusterId": cluster_id,
        "cluster_name_friendly": cluster_name,
        "prometheus.prometheusSpec.externalLabels.cluster_name": cluster_id,
        "domain": location,
        # Source: microsoft/edge-ai
        # src/000-cloud/080-azureml/terraform/modules/inference-cluster-integration/main.tf ("breaks without setting
        # these"); Azure/azure-cli-extensions
        # src/k8s-extension/azext_k8s_extension/partner_extensions/AzureMLKubernetes.py
        "location": location,
        "jobSchedulerLocation": location,
        "servicebus.enabled": "false",
        "relayserver.enabled": "false",
        "nginxIngress.enabled": "true",
        # Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-deploy-kubernetes-extension.md
        # (nodeSelector: the extension's pods and all replicas); Azure/AML-Kubernetes#210
        **{f"nodeSelector.{label}": value for label, value in SCORING_LABEL.items()},
    }
    if private:
        # The Helm chart compares the second setting with true: with the provider's name instead, as in the first, the
        # router gets a public address.
        settings |= {"internalLoadBalancerProvider": "azure", "scoringFe.serviceType.internalLoadBalancer": "True"}
    if certificate:
        settings["sslCname"] = certificate.hostname
    return settings


def protected_settings(certificate: Certificate | None) -> dict[str, pulumi.Output[str]] | None:
    if certificate is None:
        return None
    pairs = (("scoringFe.sslCert", certificate.chain), ("scoringFe.sslKey", certificate.key))
    return {name: pulumi.Output.secret(tls.encoded(pem)) for name, pem in pairs}


def require_inside(scoring_uri: str, space: IPv4Network) -> str:
    """Return the URI. Raises `pulumi.RunError` if the router of a private stack has an address outside its network.

    A host name is resolved; if that fails, there is only a warning.
    """
    host = urlsplit(scoring_uri).hostname or ""
    addresses = _addresses(host)
    if not addresses:
        pulumi.warn(
            f"{host}, the name in the endpoint's certificate, has no address yet. Create the DNS record that leads to "
            "the inference router (docs/operations.md, 'A certificate for the endpoint')."
        )
    if public := [address for address in addresses if not (ip_address(address).is_loopback or _within(address, space))]:
        raise pulumi.RunError(
            f"the inference router of this private stack is at {', '.join(public)} ({scoring_uri}), which is not in "
            f"its network {space}. Check the load balancer of the service azureml-fe: it must be internal. If a DNS "
            "record leads there, correct it."
        )
    return scoring_uri


def _within(address: str, space: IPv4Network) -> bool:
    return ip_address(address) in space


def _addresses(host: str) -> Sequence[str]:
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)})
    except OSError:
        return []
