"""What is in the image, as CycloneDX 1.5: `python -m scoring.sbom FILE`, run in the image while it is built.

Read from what is installed, not from what was asked for: Debian's packages from dpkg, Python's from their metadata,
jars from their own file, each with its sha-256. A jar that does not tell its Maven coordinate is named by its file.
"""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]
_JAR = re.compile(r"(?P<name>.+?)-(?P<version>\d[^/]*)\.jar")
_RESOLVED = re.compile(rf"(?P<group>[^_]+)_{_JAR.pattern}")
"""How Spark's resolver names what it fetched, below `jars/`."""
_PROPERTY = re.compile(r"^(groupId|artifactId|version)=(\S+)", re.MULTILINE)


def component(kind: str, group: str, name: str, version: str) -> Component:
    """A library with its package URL, which is also its reference."""
    place = "".join(f"{quote(part)}/" for part in (kind, group) if part)
    purl = f"pkg:{place}{quote(name)}@{quote(version)}"
    named = {"group": group} if group else {}
    return {"type": "library", "bom-ref": purl, **named, "name": name, "version": version, "purl": purl}


def debian() -> Iterator[Component]:
    listing = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
    for line in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines():
        yield component("deb", "debian", *line.split())


def python() -> Iterator[Component]:
    for found in metadata.distributions():
        yield component("pypi", "", re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)


def jars(root: Path) -> Iterator[Component]:
    for path in sorted(root.rglob("*.jar")):
        named = _RESOLVED.fullmatch(path.name) if path.parent == root / "jars" else None
        coordinate = component("maven", *named.groups()) if named else _coordinate(path)
        yield {**coordinate, "hashes": [{"alg": "SHA-256", "content": _sha256(path)}]}


def document(root: Path) -> dict[str, Any]:
    """The bill of the running interpreter's environment, of the jars below `root`, and of the system around them."""
    found = [*debian(), *python(), *jars(root)]
    components = list({each["bom-ref"]: each for each in found}.values())
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


def _coordinate(path: Path) -> Component:
    with zipfile.ZipFile(path) as jar:
        told = [name for name in jar.namelist() if re.fullmatch(r"META-INF/maven/.+/pom\.properties", name)]
        if len(told) == 1:  # a jar that swallowed others tells theirs too
            own = dict(_PROPERTY.findall(jar.read(told[0]).decode()))
            return component("maven", own["groupId"], own["artifactId"], own["version"])
    match = _JAR.fullmatch(path.name)
    return component("maven", "", match["name"], match["version"]) if match else component("maven", "", path.stem, "0")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(Path(sys.prefix).parent), indent=1))
