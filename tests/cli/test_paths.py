"""The cache folder, which packages that may not import each other define separately, is the same one."""

from pathlib import Path

import pytest

from cli import paths
from tools import steps


def test_packages_agree_on_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = tmp_path / "personalization-azure"
    assert paths.folder() == expected
    assert steps.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == expected
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert paths.folder() == steps.cache_folder({}) == Path.home() / ".cache" / "personalization-azure"
    # The sandbox's clusters and the image's installer name the folder of Spark's packages in it.
    cluster = (paths.PROJECT / "sandbox" / "databricks" / "execution" / "cluster.py").read_text()
    assert '.get("XDG_CACHE_HOME") or Path.home() / ".cache")' in cluster
    assert 'cache / "personalization-azure" / "ivy"' in cluster
    installer = (paths.PROJECT / "scoring" / "install.sh").read_text()
    assert "cache=${XDG_CACHE_HOME:-$HOME/.cache}/personalization-azure/ivy" in installer
