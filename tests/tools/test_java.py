"""The choice of a Java, and the trust store of the one from the wheel."""

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tools import java, trust_store

SPECIFICATION = {"8": "1.8", "11": "11", "17": "17", "21": "21"}


def _java_home(folder: Path, version: str) -> Path:
    """A home whose `java` prints its properties as real ones do, among others on its error stream."""
    home = folder / f"java-{version}"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "java"
    program.write_text(
        "#!/bin/sh\ncat >&2 <<'PROPERTIES'\nProperty settings:\n    file.encoding = UTF-8\n"
        f"    java.home = {home}\n    java.specification.version = {SPECIFICATION[version]}\n"
        f"    java.vm.specification.version = 99\n\nopenjdk version\nPROPERTIES\n"
    )
    program.chmod(0o755)
    return home


@pytest.mark.parametrize(("version", "taken"), [("8", False), ("11", True), ("17", True), ("21", False)])
@pytest.mark.parametrize("where", ["JAVA_HOME", "PATH"])
def test_only_java_17_and_11_are_taken(tmp_path: Path, version: str, taken: bool, where: str) -> None:
    home = _java_home(tmp_path, version)
    environment = {"JAVA_HOME": str(home), "PATH": ""} if where == "JAVA_HOME" else {"PATH": str(home / "bin")}
    found = java.find(environment, tmp_path / "cache")
    assert (found is not None) == taken
    if found:
        assert (found.home, found.detail, found.options) == (home, f"{version}, from {where}", "")


def test_java_17_on_the_path_replaces_an_unfit_java_home(tmp_path: Path) -> None:
    unfit, fit = _java_home(tmp_path, "21"), _java_home(tmp_path, "17")
    found = java.find({"JAVA_HOME": str(unfit), "PATH": str(fit / "bin")}, tmp_path / "cache")
    assert found is not None
    assert found.home == fit


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    named, on_path = _java_home(tmp_path, "11"), _java_home(tmp_path, "17")
    found = java.find({"JAVA_HOME": str(named), "PATH": str(on_path / "bin")}, tmp_path / "cache")
    assert found is not None
    assert found.home == named


def test_cached_java_in_java_home_is_not_taken_for_the_machines(tmp_path: Path) -> None:
    ours = _java_home(tmp_path / "cache", "17")
    assert java.find({"JAVA_HOME": str(ours), "PATH": ""}, tmp_path / "cache") is None


@pytest.mark.parametrize("home", ["/nowhere", "/dev/null"])
def test_java_home_without_java_is_ignored(home: str, tmp_path: Path) -> None:
    assert java.find({"JAVA_HOME": home, "PATH": ""}, tmp_path) is None


@pytest.fixture
def private_authority(tmp_path: Path) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Private Authority")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    bundle = tmp_path / "authorities.pem"
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle.write_bytes(b"# a comment\n" + broken + certificate.public_bytes(Encoding.PEM))
    return bundle


def test_java_reads_the_trust_store_without_its_invalid_certificates(private_authority: Path, tmp_path: Path) -> None:
    keytool = shutil.which("keytool")
    if not keytool:
        pytest.skip("no keytool here")
    store = tmp_path / "store.p12"
    trust_store.write(private_authority, store)
    listed = subprocess.run(
        [keytool, "-list", "-keystore", store, "-storepass", trust_store.PASSWORD], capture_output=True, text=True
    )
    assert listed.stdout.count("trustedCertEntry") == 1


@pytest.mark.stack
def test_java_of_the_wheel_runs_and_trusts_the_authorities_of_the_machine(
    private_authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = Path(sys.prefix)
    first = java.install(tmp_path / "cache", venv)
    again = java.install(tmp_path / "cache", venv)
    assert (first.changed, again.changed) == (True, False)
    # Requires the archive of its own classes, which the archive of Spark's classes extends.
    said = subprocess.run([first.home / "bin" / "java", *first.options.split(), "-Xshare:on", "-version"])
    assert said.returncode == 0

    monkeypatch.setenv("SSL_CERT_FILE", str(private_authority))
    other = java.install(tmp_path / "cache", venv)
    assert other.changed
    assert other.options != first.options
