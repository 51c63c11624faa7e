"""Software bill of materials of the image, as CycloneDX 1.5: `python -m scoring.sbom FILE`, run during the image build.

Lists the installed packages, not the requested ones: Debian's from dpkg, Python's from their metadata, and jars from
the files, each with its SHA-256. A jar without its Maven coordinate is named after its file.
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
"""File name that Spark's resolver gives a downloaded jar, in `jars/`."""
_PROPERTY = re.compile(r"^(groupId|artifactId|version)=(\S+)", re.MULTILINE)


def component(kind: str, group: str, name: str, version: str) -> Component:
    """A library with its package URL, which is also its reference."""
    prefix = "".join(f"{quote(part)}/" for part in (kind, group) if part)
    purl = f"pkg:{prefix}{quote(name)}@{quote(version)}"
    namespace = {"group": group} if group else {}
    return {"type": "library", "bom-ref": purl, **namespace, "name": name, "version": version, "purl": purl}


def debian() -> Iterator[Component]:
    listing = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
    for line in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines():
        yield component("deb", "debian", *line.split())


def python() -> Iterator[Component]:
    for package in metadata.distributions():
        yield component("pypi", "", re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(), package.version)


def jars(root: Path) -> Iterator[Component]:
    for path in sorted(root.rglob("*.jar")):
        match = _RESOLVED.fullmatch(path.name) if path.parent == root / "jars" else None
        coordinate = component("maven", *match.groups()) if match else _coordinate(path)
        yield {**coordinate, "hashes": [{"alg": "SHA-256", "content": _sha256(path)}]}


def document(root: Path) -> dict[str, Any]:
    """Bill of materials of the system's packages, the running interpreter's environment, and the jars below `root`."""
    listed = [*debian(), *python(), *jars(root)]
    components = list({each["bom-ref"]: each for each in listed}.values())
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


def _coordinate(path: Path) -> Component:
    with zipfile.ZipFile(path) as jar:
        files = [name for name in jar.namelist() if re.fullmatch(r"META-INF/maven/.+/pom\.properties", name)]
        if len(files) == 1:  # a jar that bundles other jars holds their files too
            properties = dict(_PROPERTY.findall(jar.read(files[0]).decode()))
            return component("maven", properties["groupId"], properties["artifactId"], properties["version"])
    match = _JAR.fullmatch(path.name)
    return component("maven", "", match["name"], match["version"]) if match else component("maven", "", path.stem, "0")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(Path(sys.prefix).parent), indent=1))
