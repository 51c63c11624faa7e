"""Providers in the state of an earlier version are found under the module names of that version."""

import importlib
import pickle
import subprocess
import sys

import pytest
from pulumi.dynamic import ResourceProvider

from infra.dynamic.moved_modules import MOVED


@pytest.mark.parametrize("earlier", sorted(MOVED))
def test_earlier_module_name_gives_the_same_provider_classes(earlier: str) -> None:
    today = importlib.import_module(MOVED[earlier])
    providers = [
        value
        for value in vars(today).values()
        if isinstance(value, type) and issubclass(value, ResourceProvider) and value.__module__ == MOVED[earlier]
    ]
    assert providers
    for provider in providers:
        assert getattr(importlib.import_module(earlier), provider.__name__) is provider


def test_pickled_provider_of_an_earlier_version_loads_in_a_fresh_process() -> None:
    reference = b"cinfra.release.rollout\n_RolloutProvider\n."
    code = f"import pickle; print(pickle.loads({reference!r}).__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "infra.release.serving_stage.rollout", done.stderr


def test_unknown_module_is_still_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="absent"):
        pickle.loads(b"cinfra.release.absent\nName\n.")
