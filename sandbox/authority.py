"""Who the sandbox is: its tenant, subscription and service principal, its certificate, and whom clients trust.

Made once, at the first start of a folder, and never again: stored resources and clients refer to it.
The certificate authority's private key is forgotten as soon as it has signed the server's certificate, so trusting
it trusts one loopback server and nothing else. Does not renew: the certificate outlives any sandbox folder.
"""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    tenant_id: str
    subscription_id: str
    client_id: str
    client_secret: str
    object_id: str
    """Of the service principal: the `oid` of its tokens, the `principalId` of its role assignments."""


@lru_cache
def identity(folder: Path) -> Identity:
    return Identity(**json.loads((folder / "identity" / "identity.json").read_text()))


@lru_cache
def signing_key(folder: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key((folder / "identity" / "token-key.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def certificate_files(folder: Path) -> tuple[Path, Path]:
    """The server's certificate and its key."""
    return folder / "identity" / "server.pem", folder / "identity" / "server-key.pem"


def ca_bundle(folder: Path) -> Path:
    return folder / "ca-bundle.pem"


def ensure(folder: Path) -> None:
    """Make the identity unless it is there; whole or not at all, so that a killed first start can be repeated."""
    whole, partial = folder / "identity", folder / "identity.partial"
    if whole.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    ids = [str(uuid.uuid4()) for _ in range(4)]
    made = Identity(ids[0], ids[1], ids[2], secrets.token_urlsafe(32), ids[3])
    authority, server, server_key = _certificates()
    token_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(partial / "identity.json", json.dumps(asdict(made), indent=2).encode())
    write_private(partial / "token-key.pem", _pem(token_key))
    write_private(partial / "server-key.pem", _pem(server_key))
    (partial / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (partial / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    partial.rename(whole)


def write_ca_bundle(folder: Path, environment: Mapping[str, str]) -> None:
    """What clients trust: what they trusted before (their environment's bundle, else certifi's), and this sandbox."""
    bundle = ca_bundle(folder)
    before = Path(environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE") or certifi.where())
    if bundle.exists() and (not before.exists() or before.samefile(bundle)):
        return  # the caller already wears this sandbox's environment
    trusted = before.read_bytes() if before.exists() else Path(certifi.where()).read_bytes()
    partial = bundle.with_suffix(".partial")
    partial.write_bytes(trusted.rstrip() + b"\n" + (folder / "identity" / "ca.pem").read_bytes())
    partial.replace(bundle)


def write_private(path: Path, content: bytes) -> None:
    """Write a file only its owner can read, from its first byte on."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)


def _certificates() -> tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]:
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # The serial makes the names of two sandboxes differ: some clients look an issuer up by name alone.
    authority_name = _name(f"Personalization sandbox CA {secrets.token_hex(4)}")
    authority = (
        _builder(authority_name, authority_name, authority_key, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        _builder(_name("localhost"), authority_name, server_key, authority_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return authority, server, server_key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{use: granted.get(use, False) for use in every.split()})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
