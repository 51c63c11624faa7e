"""Every input of the SDK is at the path that the service reads, by the models of Azure's own clients.

For each type with an installed typed client, a resource with every input set is converted into a body; each of its
keys must be in the client's model.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sandbox.azure_native.resource_type import by_token

MACHINE_LEARNING = "azure.ai.ml._restclient.arm_ml_service.models"

# The judges are of newer API versions, which dropped these.
DROPPED = {"properties.policies.softDeletePolicy"}


@pytest.mark.parametrize(
    ("token", "model"),
    [
        ("resources:ResourceGroup", "azure.mgmt.resource.resources.models:ResourceGroup"),
        ("storage:StorageAccount", "azure.mgmt.storage.models:StorageAccountCreateParameters"),
        ("storage:BlobContainer", "azure.mgmt.storage.models:BlobContainer"),
        ("storage:BlobServiceProperties", "azure.mgmt.storage.models:BlobServiceProperties"),
        ("compute:VirtualMachineScaleSet", "azure.mgmt.compute.models:VirtualMachineScaleSet"),
        ("containerregistry:Registry", "azure.mgmt.containerregistry.models:Registry"),
        ("containerservice:ManagedCluster", "azure.mgmt.containerservice.models:ManagedCluster"),
        ("containerservice:AgentPool", "azure.mgmt.containerservice.models:AgentPool"),
        ("containerservice:TrustedAccessRoleBinding", "azure.mgmt.containerservice.models:TrustedAccessRoleBinding"),
        ("machinelearningservices:Workspace", f"{MACHINE_LEARNING}:Workspace"),
        ("machinelearningservices:Datastore", f"{MACHINE_LEARNING}:Datastore"),
        ("machinelearningservices:OnlineEndpoint", f"{MACHINE_LEARNING}:OnlineEndpoint"),
    ],
)
def test_inputs_of_the_sdk_are_at_the_paths_that_the_service_reads(token: str, model: str) -> None:
    kind, inputs = by_token()[f"azure-native:{token}"], every_input(token)
    body = kind.body(inputs)
    module, _, name = model.partition(":")
    judge = getattr(importlib.import_module(module), name)._deserialize(body, [])
    assert set(undeclared(judge, body)) - DROPPED == set()
    assert kind.shape.from_wire(body) == {
        key: value for key, value in as_returned(inputs).items() if key not in {*kind.path_inputs, *kind.query_inputs}
    }


def test_role_assignment_body_equals_that_of_the_authorization_client() -> None:
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

    body = by_token()["azure-native:authorization:RoleAssignment"].body(every_input("authorization:RoleAssignment"))
    assert RoleAssignmentCreateParameters.deserialize(body).serialize() == body


def test_every_token_is_a_resource_of_the_sdk_with_the_tables_version_and_inputs() -> None:
    for token, kind in by_token().items():
        _, module, name = token.split(":")
        resource = getattr(importlib.import_module(f"pulumi_azure_native.{module}"), name)
        package = importlib.import_module(f"pulumi_azure_native.{module}")
        # If an input object has the resource's name, the SDK has another name for its arguments.
        arguments = getattr(package, f"{name}InitArgs", None) or getattr(package, f"{name}Args")
        offered = {sdk_name(getter) for getter in getters(arguments)}
        assert {*kind.path_inputs, *kind.query_inputs} <= offered, token
        default = re.search(r"Uses Azure REST API version ([\w-]+)\.", inspect.getsource(resource))
        assert default is not None
        assert default[1] == kind.api_version, token


def test_computed_properties_are_outputs_of_the_sdk() -> None:
    for token, kind in by_token().items():
        _, module, name = token.split(":")
        resource = getattr(importlib.import_module(f"pulumi_azure_native.{module}"), name)
        computed = kind.shape.preview({})
        assert set(computed) <= {sdk_name(getter) for getter in getters(resource)}, token


def every_input(token: str) -> dict[str, Any]:
    module, _, name = token.partition(":")
    package = importlib.import_module(f"pulumi_azure_native.{module}")
    return sample(package, getattr(package, f"{name}Args"), ())


def sample(package: Any, arguments: type, above: tuple[type, ...]) -> dict[str, Any]:
    inputs = {}
    for getter in getters(arguments):
        described = str(getter.fget.__annotations__["return"])
        nested = [getattr(package, name) for name in re.findall(r"ForwardRef\('(\w+Args)'\)", described)]
        if not nested:
            nested = [getattr(package, name) for name in re.findall(r"'(\w+Args)'", described)]
        nested = [cls for cls in nested if cls not in above]
        kind = re.search(r"Expected value is '(\w+)'", getter.__doc__ or "")
        value: Any = sample(package, nested[0], (*above, arguments)) if nested else kind[1] if kind else "text"
        if "Sequence[" in described:
            value = [value]
        elif "Mapping[" in described:
            value = {"a.key": value}
        inputs[sdk_name(getter)] = value
    return inputs


def getters(cls: type) -> list[Any]:
    return [value for value in vars(cls).values() if isinstance(value, property)]


def sdk_name(getter: Any) -> str:
    return str(getattr(getter.fget, "_pulumi_name", getter.fget.__name__))


def as_returned(value: Any, key: str = "") -> Any:
    """Sets of strings are lists in inputs and objects in outputs."""
    if isinstance(value, list):
        if key == "userAssignedIdentities" and value == ["text"]:
            return {"text": {}}
        return [as_returned(item) for item in value]
    if isinstance(value, dict):
        return {name: as_returned(inner, name) for name, inner in value.items()}
    return value


def undeclared(model: Any, body: Mapping[str, Any], path: str = "") -> Iterator[str]:
    declared = {field._rest_name: attribute for attribute, field in model._attr_to_rest_field.items()}
    for key, value in body.items():
        if key not in declared:
            yield path + key
            continue
        read = getattr(model, declared[key])
        if isinstance(value, list):
            pairs = list(zip(read, value, strict=True))
        elif isinstance(read, dict) and not hasattr(read, "_attr_to_rest_field"):
            pairs = [(read[name], value[name]) for name in value]
        else:
            pairs = [(read, value)]
        for inner, sent in pairs:
            if hasattr(inner, "_attr_to_rest_field") and isinstance(sent, Mapping):
                yield from undeclared(inner, sent, f"{path}{key}.")
