"""The sandbox's identity: tenant, subscription, service principal, certificate, and the CA bundle for clients.

It is created once, at the first start of a folder, because stored resources and clients refer to it.
The certificate authority's private key is not stored after it has signed the server's certificate, so a client that
trusts the authority trusts only this server. Does not renew the certificate, which is valid for ten years.
"""

import datetime
import ipaddress
import json
import secrets
import shutil
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox import state_files
from sandbox.instance_lock import FRESH, CannotServe, Damaged
from sandbox.state_files import Unreadable

_LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    tenant_id: str
    subscription_id: str
    client_id: str
    client_secret: str
    object_id: str
    """The service principal's: `oid` in its tokens, `principalId` in its role assignments."""


@lru_cache
def identity(folder: Path) -> Identity:
    names = [field.name for field in fields(Identity)]
    content = state_files.read_json(folder / "identity" / "identity.json", *names)
    return Identity(**{name: content[name] for name in names})


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
    """Create the identity unless it exists. It is complete or absent, so a killed first start can be repeated."""
    complete, partial = folder / "identity", folder / "identity.partial"
    if complete.exists():
        return
    if (folder / "environment.json").exists():  # written after it
        raise Damaged(Unreadable(complete, "the folder is missing"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    ids = [str(uuid.uuid4()) for _ in range(4)]
    made = Identity(ids[0], ids[1], ids[2], secrets.token_urlsafe(32), ids[3])
    authority, server, server_key = _certificates()
    token_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    state_files.write(partial / "identity.json", json.dumps(asdict(made), indent=2))
    state_files.write(partial / "token-key.pem", _pem(token_key))
    state_files.write(partial / "server-key.pem", _pem(server_key))
    (partial / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (partial / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    partial.rename(complete)


def write_ca_bundle(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the clients' CA bundle: that of their environment, else certifi's, plus this sandbox's authority."""
    bundle = ca_bundle(folder)
    before = Path(environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE") or certifi.where())
    own = (folder / "identity" / "ca.pem").read_bytes()
    if not before.exists() or (bundle.exists() and before.samefile(bundle)):
        # The caller already uses this sandbox's environment.
        if bundle.exists() and bundle.read_bytes().endswith(own):
            return
        before = Path(certifi.where())
    state_files.write(bundle, before.read_bytes().rstrip() + b"\n" + own)


def require_usable(folder: Path) -> None:
    """Read every file of the identity.

    Raises `Damaged` with the name of a damaged file, and `CannotServe` if the clock is outside the certificate's
    validity, because every client would refuse the certificate.
    """
    certificate, key = certificate_files(folder)
    trusted = folder / "identity" / "ca.pem"
    with _reading(folder / "identity" / "identity.json"):
        identity(folder)
    with _reading(folder / "identity" / "token-key.pem"):
        signing_key(folder)
    with _reading(key):
        serialization.load_pem_private_key(key.read_bytes(), None)
    with _reading(trusted):
        x509.load_pem_x509_certificate(trusted.read_bytes())
    with _reading(certificate):
        x509.load_pem_x509_certificate(certificate.read_bytes())
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    require_valid_today(folder)


def require_valid_today(folder: Path) -> None:
    certificate = x509.load_pem_x509_certificate(certificate_files(folder)[0].read_bytes())
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    if not first <= now <= last:
        message = f"the certificate of the sandbox in {folder} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d}"
        raise CannotServe(
            f"{message}, and this machine's clock shows {now:%Y-%m-%d %H:%M} (UTC). "
            f"Correct the clock; if it is right: {FRESH}."
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        raise Damaged(error) from error
    except FileNotFoundError as error:
        raise Damaged(Unreadable(path, "the file is missing")) from error
    except (OSError, ValueError, AssertionError) as error:  # ssl.SSLError is an OSError
        raise Damaged(Unreadable(path, str(error) or type(error).__name__)) from error


def _certificates() -> tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]:
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # The suffix distinguishes sandboxes, because some clients look an issuer up by its name alone.
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
