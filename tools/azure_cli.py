"""Azure CLI in a separate environment in the user's cache: its packages conflict with the project's.

`python -m tools.azure_cli` installs it, which takes a minute or more, and prints its folder. `make test` uses it if
it is installed and never installs it. Does not lock its hundred packages, because it is a client for tests and not a
part of the product.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.commands import Unavailable, one_at_a_time, run, writable_folder
from tools.package_index import uv
from tools.pins import pin
from tools.steps import ROOT, cache_folder


def find(environment: Mapping[str, str]) -> list[str | Path] | None:
    """Command of the pinned version; None if its installation is missing or incomplete."""
    folder = _folder(environment)
    return [folder / "bin" / "python", "-m", "azure.cli"] if (folder / "installed").exists() else None


def install(environment: Mapping[str, str]) -> Path:
    folder, venv = _folder(environment), ROOT / ".venv"
    writable_folder(folder.parent)
    with one_at_a_time(folder.parent):
        if find(environment) is None:
            shutil.rmtree(folder, ignore_errors=True)  # the rest of an interrupted installation
            run([sys.executable, "-m", "venv", "--without-pip", folder], f"could not make {folder}.")
            wanted = f"azure-cli=={pin('azure-cli').version}"
            arguments: list[str | Path] = ["pip", "install", "--python", folder, "--compile-bytecode", wanted]
            uv(venv, arguments, f"could not install {wanted} from the Python package index.")
            (folder / "installed").touch()
    return folder


def _folder(environment: Mapping[str, str]) -> Path:
    return cache_folder(environment) / "azure-cli" / pin("azure-cli").version


def main() -> int:
    try:
        print(install(os.environ))
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
