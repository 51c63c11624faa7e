"""A certificate in place of one whose key is a secret of the stack file, which nobody without a login can read.

Commands that judge a stack by its file alone need settings that are whole. Each host name has one such certificate in a
process, so that two readings of a file are the same. It is never sent to Azure.
"""

import datetime
from functools import cache


@cache
def pair(hostname: str) -> tuple[str, str]:
    """A certificate for the host name, signed by its own key, and that key; both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, now = (
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stand-in")]),
        datetime.datetime.now(datetime.UTC),
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), private.decode()
