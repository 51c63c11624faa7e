"""The constructor of all dynamic resources: `Name("name", NameInputs(...), opts)`."""

from dataclasses import fields
from typing import Any, ClassVar, Generic

import pulumi
from pulumi.dynamic import Resource

from infra.dynamic.provider import InputsT, ReleaseProvider


class DynamicResource(Resource, Generic[InputsT]):
    """A resource that `provider` creates. A subclass annotates the inputs and outputs that the program reads."""

    provider: ClassVar[type[ReleaseProvider[Any, Any]]]

    def __init_subclass__(cls, *, provider: type[ReleaseProvider[Any, Any]], **type_token: str) -> None:
        """`type_token`: `module` and `name`, the parts of the resource's type."""
        super().__init_subclass__(**type_token)
        cls.provider = provider

    def __init__(self, name: str, inputs: InputsT, opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = dict.fromkeys(each.name for each in fields(self.provider.outputs))
        super().__init__(self.provider(), name, {**inputs.declared(), **outputs}, opts)
