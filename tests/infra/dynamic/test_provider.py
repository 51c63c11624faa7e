"""Rules for every dynamic resource of a release."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import CreateResult, ReadResult, Resource, ResourceProvider, UpdateResult

from benchmarks import imports
from infra.dynamic.provider import ProviderError, ReleaseProvider
from infra.release import release  # noqa: F401  (declares every resource below)

ROOT = Path(__file__).parents[3]


class _Provider(ReleaseProvider):
    identity = ("name",)
    inputs = ("team",)
    optional = ("pool",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("id", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult(id_, {**props, "team": "by hand" if id_ == "changed" else props["team"]})

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({"before": olds["team"], "after": news["team"]})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        props["nobody declared this"]


RESOURCES = [each for each in Resource.__subclasses__() if each.__module__.startswith("infra.")]


def test_absent_input_is_none() -> None:
    created = _Provider().create({"name": "a"}).outs or {}
    assert created.items() >= {"name": "a", "team": None, "pool": None}.items()
    updated = _Provider().update("id", {"name": "a"}, {"name": "a", "team": "b"})
    assert updated.outs == {"before": None, "after": "b"}
    assert not _Provider().diff("id", {"name": "a"}, {"name": "a", "team": None}).changes


def test_read_change_is_reported_in_the_inputs() -> None:
    props = {"name": "a", "team": "b", "page": "an output"}
    assert _Provider().read("id", props).inputs is None
    assert _Provider().read("changed", props).inputs == {"name": "a", "team": "by hand"}


def test_missing_key_is_reported_with_its_type_and_the_resource() -> None:
    with pytest.raises(ProviderError, match=r"^Provider\.delete: KeyError: 'nobody declared this'$"):
        _Provider().delete("id", {"name": "a"})


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_inputs_are_declared_by_their_provider(resource: type[Resource]) -> None:
    """One that is absent is then None, and after a refresh the engine has every input as it was found."""
    provider = _provider_of(resource)
    given = inspect.signature(resource.__init__).parameters.keys() - {"self", "name", "opts"}
    assert given <= {*provider.identity, *provider.inputs, *provider.optional}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_dynamic_resource_can_be_read(resource: type[Resource]) -> None:
    """All but the placement, which is in the state alone."""
    assert _provider_of(resource).read is not ResourceProvider.read or resource.__name__ == "Placement"


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_provider_with_delete_records_what_it_owns(resource: type[Resource]) -> None:
    """Or it is deleted before another is created in its place."""
    provider = _provider_of(resource)
    if "delete" in vars(provider) and "delete_before_replace=True" not in inspect.getsource(resource):
        assert provider.claim is not ReleaseProvider.claim


def _provider_of(resource: type[Resource]) -> type[ReleaseProvider]:
    (provider,) = (
        each
        for each in vars(inspect.getmodule(resource)).values()
        if inspect.isclass(each) and issubclass(each, ReleaseProvider) and each is not ReleaseProvider
        if f"{each.__name__}(" in inspect.getsource(resource)
    )
    return provider


def test_providers_that_begin_together_import_their_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly every interpreter fails if `import_sdks` does nothing; `benchmarks/imports.py` starts a hundred."""
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "https://another.example")
    assert [imports.errors_of_one() for _ in range(2)] == [[], []]


def test_preview_imports_no_sdk() -> None:
    program = """
import sys
from infra.release import release
from infra.release.training_stage.job import _JobProvider
_JobProvider().check({}, {"job_name": "a"})
_JobProvider().diff("1", {"job_name": "a"}, {"job_name": "b"})
print([name for name in ("databricks", "azure.ai.ml", "azure.identity", "azure.storage") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
