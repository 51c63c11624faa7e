"""Reads `versions.toml`, the one place where tools outside requirements.lock are pinned."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    sha256: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """One line of a requirements file, for `--require-hashes`."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.sha256)])


def pin(name: str) -> Pin:
    entry = tomllib.loads(Path(__file__).with_name("versions.toml").read_text())[name]
    return Pin(name, entry["version"], tuple(entry.get("sha256", ())))


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
