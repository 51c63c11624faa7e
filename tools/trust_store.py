"""Writes a Java trust store: `python -m tools.trust_store BUNDLE.pem STORE.p12`, in the project's environment."""

import os
import re
import sys
from pathlib import Path

PASSWORD = "changeit"
"""Java's default password. A trust store has no secrets, but the format requires one."""


def certificates(bundle: bytes) -> list[bytes]:
    """PEM blocks of a bundle."""
    return re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", bundle, re.DOTALL)


def write(bundle: Path, store: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
    from cryptography.x509 import load_pem_x509_certificate

    trusted = []
    for number, block in enumerate(certificates(bundle.read_bytes())):
        try:
            trusted.append(PKCS12Certificate(load_pem_x509_certificate(block), b"%d" % number))
        except ValueError:
            continue  # Old bundles have certificates that break today's rules; Java would not accept them either.
    fresh = store.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(serialize_java_truststore(trusted, BestAvailableEncryption(PASSWORD.encode())))
    os.replace(fresh, store)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
