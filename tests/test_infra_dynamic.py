"""What holds for every dynamic resource of a release, whatever its provider does."""

import inspect
from typing import Any

import pytest
from pulumi.dynamic import CreateResult, Resource, UpdateResult

from infra.release import release  # noqa: F401  (declares every resource below)
from infra.release.dynamic import ProviderError, ReleaseProvider


class _Provider(ReleaseProvider):
    identity = ("name",)
    inputs = ("team",)
    optional = ("pool",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("id", props)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({"before": olds["team"], "after": news["team"]})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        props["nobody declared this"]


RESOURCES = [each for each in Resource.__subclasses__() if each.__module__.startswith("infra.")]


def test_an_absent_input_is_none() -> None:
    assert _Provider().create({"name": "a"}).outs == {"name": "a", "team": None, "pool": None}
    updated = _Provider().update("id", {"name": "a"}, {"name": "a", "team": "b"})
    assert updated.outs == {"before": None, "after": "b"}
    assert not _Provider().diff("id", {"name": "a"}, {"name": "a", "team": None}).changes


def test_a_missing_key_is_reported_with_its_type_and_the_resource() -> None:
    with pytest.raises(ProviderError, match=r"^Provider\.delete: KeyError: 'nobody declared this'$"):
        _Provider().delete("id", {"name": "a"})


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.__name__)
def test_an_input_that_may_be_none_is_declared_by_its_provider(resource: type[Resource]) -> None:
    module = inspect.getmodule(resource)
    (provider,) = (
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, ReleaseProvider) and each is not ReleaseProvider
        if f"{each.__name__}(" in inspect.getsource(resource)
    )
    parameters = inspect.signature(resource.__init__).parameters.values()
    optional = {each.name for each in parameters if "None" in str(each.annotation) and each.name != "opts"}
    assert optional <= {*provider.identity, *provider.inputs, *provider.optional}
