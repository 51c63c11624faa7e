"""Every answer of the sandbox's ARM fits the models of Azure's clients, and has all keys that Azure always returns.

The answers are those to a production and a development stack, to reading and listing everything they created, and to a
release. The keys that Azure always returns are in `testing/data/rest_answer_keys.yaml`, from the examples of the REST
specification.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.arm import resource_types
from testing.arm.answer_models import RESOURCES, WITHOUT_MODEL, faults, is_list, items, subject
from testing.arm.answers import Exchange, release_traffic, traffic
from testing.arm.bodies import ACCEPTED
from testing.arm.models import read_only, required

pytestmark = pytest.mark.stack

ALWAYS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "testing" / "data" / "rest_answer_keys.yaml").read_text()
)
WITHOUT_EXAMPLE: dict[str, str] = {}
"""Types of which the REST specification has no example of a GET, each with the reason. None at the moment."""
OTHER_VERSION = {"Microsoft.Resources/resourceGroups"}
"""Types whose example has another API version than the sandbox."""


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> list[Exchange]:
    return traffic(tmp_path_factory) + release_traffic(tmp_path_factory.mktemp("release") / "sandbox")


def test_answers_fit_the_models_of_azures_clients(exchanges: list[Exchange]) -> None:
    found = [
        (subject(each), fault.partition(": ")[0], f"{each}: {fault}") for each in exchanges for fault in faults(each)
    ]
    wrong = {shown for kind, path, shown in found if (kind, path.removeprefix("value[].")) not in ACCEPTED}
    assert not wrong, "\n".join(sorted(wrong))


def test_every_resource_that_is_read_has_the_keys_that_azure_always_returns(exchanges: list[Exchange]) -> None:
    missing = {
        f"{each.path}: {path}"
        for each in exchanges
        if each.method == "GET" and each.status == 200 and subject(each) in ALWAYS
        for resource in items(each)
        if _state(resource) == "Succeeded"
        for path in ALWAYS[subject(each)]["always"]
        if _at(resource, path) is None
    }
    assert not missing, "\n".join(sorted(missing))


def test_every_type_is_read_singly_and_in_a_list(exchanges: list[Exchange]) -> None:
    read = {subject(each) for each in exchanges if each.method == "GET" and each.status == 200}
    one = {subject(each) for each in exchanges if each.method == "GET" and each.status == 200 and not is_list(each)}
    listed = {subject(each) for each in exchanges if is_list(each) and each.answer["value"]}
    in_lists_only = {"Microsoft.KeyVault/deletedVaults", "Microsoft.Network/virtualNetworks/subnets"}
    implied = {"Microsoft.Resources/tags"}
    assert RESOURCES.keys() | WITHOUT_MODEL.keys() <= read
    assert RESOURCES.keys() - in_lists_only <= one
    assert RESOURCES.keys() - implied <= listed
    sent = {subject(each) for each in exchanges if each.method == "PUT" and each.status < 300}
    assert sent <= RESOURCES.keys() | WITHOUT_MODEL.keys()
    assert any(each.status >= 400 for each in exchanges)
    assert any(subject(each) == "operation" for each in exchanges)


def test_every_type_has_its_example_or_a_reason_for_none() -> None:
    assert sorted([*ALWAYS, *WITHOUT_EXAMPLE]) == sorted(RESOURCES)


def test_each_example_is_of_the_api_version_that_the_sandbox_uses() -> None:
    version = {kind: rule.api_version for kind in ALWAYS if (rule := resource_types.load().get(kind.lower()))}
    assert {kind for kind in version if f"/{version[kind]}/" not in ALWAYS[kind]["example"]} == OTHER_VERSION


@pytest.mark.parametrize("kind", sorted(ALWAYS))
def test_always_returned_keys_are_read_only(kind: str) -> None:
    own = {*read_only(RESOURCES[kind]), *required(RESOURCES[kind]), "etag", "eTag"}
    known = {path for name in own for path in (name, *_above(name))}
    named = [*ALWAYS[kind]["always"], *ALWAYS[kind].get("under", ())]
    assert [path for path in named if path not in known and not known & set(_above(path))] == []


@pytest.mark.parametrize(
    ("kind", "answer", "fault"),
    [
        ("Microsoft.KeyVault/vaults", {"id": "i", "properties": {"colour": 1}}, "properties.colour: is not known"),
        ("Microsoft.KeyVault/vaults", {"properties": {"sku": {"family": "A", "name": "cheap"}}}, "'cheap' is none of"),
        ("Microsoft.KeyVault/vaults", {"properties": {"tenantId": 7}}, "properties.tenantId: 7 is not of type str"),
        ("Microsoft.KeyVault/vaults", {"properties": {}}, "properties.sku: is missing"),
        ("Microsoft.KeyVault/vaults", {"systemData": {"createdAt": "yesterday"}}, "is not an ISO 8601 date"),
        ("Microsoft.Insights/actionGroups", {"location": "x", "properties": 1}, "properties: 1 is not an object"),
    ],
)
def test_faults_of_each_kind_are_found_in_an_answer(kind: str, answer: dict[str, Any], fault: str) -> None:
    path = f"/subscriptions/s/resourceGroups/g/providers/{kind}/name"
    for shown in (answer, {"value": [answer]}):
        assert any(fault in found for found in faults(Exchange("test", "GET", path, "v", None, 200, shown)))


def _state(resource: Any) -> Any:
    """The provisioning state; `Succeeded` for a type without one."""
    return _at(resource, "properties.provisioningState") or "Succeeded"


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path
