"""Azure CLI in the user's cache: used only if its installation is complete."""

from pathlib import Path

from tools import azure_cli
from tools.pins import pin


def test_incomplete_azure_cli_installation_is_not_used(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = tmp_path / "personalization-azure" / "azure-cli" / pin("azure-cli").version
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    assert azure_cli.find(environment) is None
    (folder / "installed").touch()
    assert azure_cli.find(environment) == [folder / "bin" / "python", "-m", "azure.cli"]
