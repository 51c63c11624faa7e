"""Rules for every dynamic resource of a release."""

import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import imports
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared, replaces, updates
from infra.dynamic.provider import Creation, ProviderError, ReleaseProvider, ResourceState
from infra.dynamic.resource import DynamicResource
from infra.release import release  # noqa: F401  (declares every resource below)

ROOT = Path(__file__).parents[3]


class _Inputs(Inputs):
    name: InputField[str] = replaces()
    team: InputField[str | None] = updates()
    pool: InputField[str | None] = not_compared()
    size: InputField[int] = updates()


class _Outputs(Outputs):
    team_before: str | None


class _Provider(ReleaseProvider[_Inputs, _Outputs]):
    def create_object(self, inputs: _Inputs) -> Creation[_Outputs]:
        return Creation("id", _Outputs(team_before=None))

    def read_object(self, state: ResourceState[_Inputs, _Outputs]) -> _Inputs | None:
        if state.id == "gone":
            return None
        return replace(state.inputs, team="by hand" if state.id == "changed" else state.inputs.team)

    def update_object(self, state: ResourceState[_Inputs, _Outputs], inputs: _Inputs) -> _Outputs:
        return _Outputs(team_before=state.inputs.team)

    def delete_object(self, state: ResourceState[_Inputs, _Outputs]) -> None:
        {}["nobody declared this"]


RESOURCES = [each for each in DynamicResource.__subclasses__() if each.__module__.startswith("infra.")]


def test_absent_input_is_none() -> None:
    created = _Provider().create({"name": "a"}).outs or {}
    assert created.items() >= {"name": "a", "team": None, "pool": None}.items()
    updated = _Provider().update("id", {"name": "a"}, {"name": "a", "team": "b"}).outs or {}
    assert updated.items() >= {"team": "b", "team_before": None}.items()
    assert not _Provider().diff("id", {"name": "a"}, {"name": "a", "team": None}).changes


@pytest.mark.parametrize(
    ("changed", "changes", "replaced"),
    [("name", True, ["name"]), ("team", True, []), ("size", True, []), ("pool", False, [])],
)
def test_change_does_what_the_field_declares(changed: str, changes: bool, replaced: list[str]) -> None:
    before = {"name": "a", "team": "b", "pool": "c", "size": 1.0}
    found = _Provider().diff("id", before, {**before, changed: "other"})
    assert (found.changes, found.replaces) == (changes, replaced)


def test_whole_number_of_the_engine_is_one_again() -> None:
    assert repr(_Inputs.of({"name": "a", "size": 3.0}).size) == "3"


def test_update_keeps_the_incarnation() -> None:
    created = _Provider().create({"name": "a"}).outs or {}
    updated = _Provider().update("id", created, {"name": "a", "team": "b"}).outs or {}
    assert updated["incarnation"] == created["incarnation"] is not None


def test_read_change_is_reported_in_the_inputs() -> None:
    props = {"name": "a", "team": "b", "team_before": "an output"}
    assert _Provider().read("id", props).inputs is None
    assert _Provider().read("changed", props).inputs == {"name": "a", "team": "by hand"}
    assert (_Provider().read("changed", props).outs or {}).items() >= {**props, "team": "by hand"}.items()
    assert _Provider().read("gone", props).id == ""


def test_missing_key_is_reported_with_its_type_and_the_resource() -> None:
    with pytest.raises(ProviderError, match=r"^Provider\.delete: KeyError: 'nobody declared this'$"):
        _Provider().delete("id", {"name": "a"})


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_every_input_declares_what_a_change_does(resource: type[DynamicResource[Inputs]]) -> None:
    inputs = resource.provider.inputs
    assert [each.name for each in fields(inputs) if "change" not in each.metadata] == ["incarnation"]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_missing_or_unknown_input_is_refused(resource: type[DynamicResource[Inputs]]) -> None:
    inputs = resource.provider.inputs
    first, *others = inputs.changes()
    with pytest.raises(TypeError, match=f"missing .*'{first}'"):
        inputs(**dict.fromkeys(others))
    with pytest.raises(TypeError, match="unexpected keyword argument 'misspelt'"):
        inputs(**dict.fromkeys((first, *others, "misspelt")))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_attribute_of_a_resource_is_an_input_or_an_output(resource: type[DynamicResource[Inputs]]) -> None:
    outputs = {each.name for each in fields(resource.provider.outputs)}
    assert inspect.get_annotations(resource).keys() <= outputs | resource.provider.inputs.changes().keys()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_dynamic_resource_can_be_read(resource: type[DynamicResource[Inputs]]) -> None:
    """All but the placement, which is in the state alone."""
    assert resource.provider.read_object is not ReleaseProvider.read_object or resource.__name__ == "Placement"


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_provider_with_delete_records_what_it_owns(resource: type[DynamicResource[Inputs]]) -> None:
    """Or it is deleted before another is created in its place."""
    provider = resource.provider
    if "delete_object" in vars(provider) and "delete_before_replace=True" not in inspect.getsource(resource):
        assert provider.claim is not ReleaseProvider.claim


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
