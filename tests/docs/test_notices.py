"""THIRD_PARTY_NOTICES.md lists the packages of both scoring images in the locked versions, and the datasets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()


@pytest.mark.parametrize("engine", ["native", "spark"])
def test_every_package_of_the_scoring_image_is_listed_in_its_version(engine: str) -> None:
    lock = (ROOT / "scoring" / f"requirements-{engine}.txt").read_text()
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE)
    rows = re.findall(r"^\| ([a-z0-9-]+)[^|]* \| ([^ |]+) \|", PAGE, re.MULTILINE)
    assert len(locked) > 10
    assert set(locked) <= set(rows)


@pytest.mark.parametrize("dataset", ["MovieLens", "Criteo"])
def test_terms_of_every_shipped_dataset_are_listed(dataset: str) -> None:
    assert re.search(rf"^\| {dataset}", PAGE, re.MULTILINE)
