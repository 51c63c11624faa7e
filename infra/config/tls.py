"""Checks of the endpoint's certificate and key: they belong together and to the host name; and the days until the end.

Does not fetch, sign or renew certificates. They come from the stack's configuration, the key as a secret.

Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-secure-kubernetes-online-endpoint.md (PEM, the
whole chain, a key without passphrase); MicrosoftDocs/azure-ai-docs
articles/machine-learning/how-to-troubleshoot-kubernetes-compute.md ("How to check sslCertPemFile and sslKeyPemFile is
correct": an RSA key, the server's certificate first)
"""

import base64
import datetime

NOTICE_DAYS = 30
"""Previews warn from this number of days before the certificate ends."""


def require(certificate: str, key: str, hostname: str) -> None:
    """Raise `ValueError` unless the certificate belongs to the key and the host name. No message contains the key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        first = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        raise ValueError("serving:tls_certificate is not a PEM certificate. Set it to the file's text.") from None
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (TypeError, ValueError):
        raise ValueError(
            "serving:tls_key is not a PEM private key without a passphrase. Set it to the file's text."
        ) from None
    if not isinstance(private, RSAPrivateKey):
        raise ValueError("serving:tls_key is not an RSA key, the kind that Azure ML documents. Get an RSA certificate.")
    if private.public_key() != first.public_key():
        raise ValueError(
            "serving:tls_key is not the key of the first certificate in serving:tls_certificate. Put the server's "
            "certificate first, then those that signed it."
        )
    try:
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = names.get_values_for_type(x509.DNSName)
    if hostname not in known and f"*.{hostname.partition('.')[2]}" not in known:
        raise ValueError(
            f"serving:hostname {hostname} is not a name of serving:tls_certificate, which has "
            f"{', '.join(known) or 'none'}. Set serving:hostname to one of them, or get another certificate."
        )


def days_left(certificate: str) -> int:
    """Whole days until the certificate ends; negative once it has ended."""
    from cryptography import x509

    ends = x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
    return (ends - datetime.datetime.now(datetime.UTC)).days


def encoded(pem: str) -> str:
    """Encode PEM text as the extension requires it.

    Source: Azure/azure-cli-extensions src/k8s-extension/azext_k8s_extension/partner_extensions/AzureMLKubernetes.py
    (`__set_inference_ssl_from_file`); Azure/AML-Kubernetes files/deployextension.json ("base64 encoded")
    """
    return base64.b64encode(pem.encode("ascii")).decode()
