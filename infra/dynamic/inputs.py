"""Inputs and outputs of a dynamic resource as dataclasses. A field of the inputs states what a change of it does.

The constructor of the resource (`resource.py`), the comparison (`provider.py`) and docs/reference/resources.md read the
fields. Does not compare: `provider.py` does.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, dataclass_transform

import pulumi

T = TypeVar("T")


class Change(StrEnum):
    """What a change of an input does."""

    REPLACES = "replaces the object"
    UPDATES = "updates the object"
    REFUSED = "is refused"
    NOT_COMPARED = "does nothing"


class InputField(Generic[T]):
    """Type of an input: the program assigns an `Input[T]`, and the provider reads the `T` that the engine resolved.

    Only the type checker uses it; a field holds the assigned value.
    """

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: object = None) -> T: ...

        def __set__(self, instance: object, value: pulumi.Input[T]) -> None: ...


def replaces() -> Any:
    """Declare an input that identifies the object: a change replaces it.

    One that ends with `_uid` is an id that Azure gives a parent at its creation; a parent that is deleted and created
    again under its resource id has another one.
    """
    return _input(Change.REPLACES)


def updates() -> Any:
    """Declare an input that can be changed in the object."""
    return _input(Change.UPDATES)


def refused() -> Any:
    """Declare an input that must stay: the provider's `check` refuses a change."""
    return _input(Change.REFUSED)


def not_compared() -> Any:
    """Declare an input whose change does nothing by itself: the next update or replacement uses the new value."""
    return _input(Change.NOT_COMPARED)


def _input(change: Change) -> Any:
    return field(metadata={"change": change})


# Not `frozen_default=True`, with which mypy loses the reading type of an inherited `InputField`.
@dataclass_transform(kw_only_default=True, field_specifiers=(replaces, updates, refused, not_compared))
class Properties:
    """Part of the properties that the state has of a resource. Every subclass is a frozen dataclass."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Self:
        """Read the engine's properties. One that is absent is None, also where an earlier version did not have it."""
        return cls(**{each.name: _value(each.type, properties.get(each.name)) for each in fields(cls)})

    def properties(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


class Outputs(Properties):
    """Outputs of a dynamic resource; this class itself for a resource without any."""


class Inputs(Properties):
    """Inputs of a dynamic resource. They hold no secret."""

    incarnation: str | None = None
    """Identifies one `create` (`ownership.py`). Set by the provider; not an input of the program."""

    @classmethod
    def changes(cls) -> dict[str, Change]:
        """What a change of each input does, by its name."""
        return {each.name: each.metadata["change"] for each in fields(cls) if "change" in each.metadata}

    def declared(self) -> dict[str, Any]:
        """The inputs of the program."""
        return {name: getattr(self, name) for name in self.changes()}


def _value(kind: Any, value: Any) -> Any:
    """Return `value`, a whole number as `int` where it is declared as one: the engine keeps numbers as floats."""
    return int(value) if isinstance(value, float) and kind in (int, InputField[int]) else value
