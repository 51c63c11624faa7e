"""Faults of a body by the model of an `azure-mgmt-*` client: unknown keys, missing keys, values of a wrong type.

Checks a request, which must not have read-only keys, or an answer, whose dates must be dates. Reads both generations of
generated models: `_attribute_map` with `_validation`, and annotated fields behind `_attr_to_rest_field`. Of other
strings it checks enumerations only: any id or expression passes.
"""

import datetime
import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PLAIN = {"str": str, "int": int, "long": int, "float": float, "bool": bool}
"""Types by their name in the first generation; others (durations, `object`) are not checked."""
_DATES = {"iso-8601": datetime.datetime}


@dataclass(frozen=True)
class Field:
    kind: Any
    """Type from an annotation."""
    required: bool
    read_only: bool


Fields = dict[str, Union[Field, "Fields"]]
"""Fields by the name on the wire; the first generation declares `properties.x`, the second a model of `properties`."""


def faults(model: str, body: Mapping[str, Any]) -> list[str]:
    """Faults of a request. `model` is `module:Class`. Each fault begins with the path of the faulty value."""
    return sorted(_Judge(answer=False).of_model(_class(model), body, ""))


def faults_of_answer(model: str, body: Any) -> list[str]:
    return sorted(_Judge(answer=True).of_model(_class(model), body, ""))


def read_only(model: str) -> list[str]:
    """Paths of the read-only keys, without those below lists and maps."""
    return sorted(_paths(_class(model), "", frozenset(), lambda field: field.read_only))


def required(model: str) -> list[str]:
    """Paths of the keys that an answer must have, without those below lists and maps."""
    return sorted(_paths(_class(model), "", frozenset(), lambda field: field.required))


def _class(model: str) -> Any:
    module, _, name = model.partition(":")
    return getattr(importlib.import_module(module), name)


def _paths(model: Any, path: str, above: frozenset[Any], wanted: Callable[[Field], bool]) -> Iterator[str]:
    def of_fields(fields: Fields, path: str) -> Iterator[str]:
        for name, field in fields.items():
            inner = _join(path, name)
            if isinstance(field, dict):
                yield from of_fields(field, inner)
                continue
            if wanted(field):
                yield inner
            kinds = [one for one in (field.kind, *get_args(field.kind)) if _is_model(one)]
            if kinds and kinds[0] not in above and get_origin(field.kind) not in (list, dict):
                yield from _paths(kinds[0], inner, above | {kinds[0]}, wanted)

    yield from of_fields(_fields(model), path)


@dataclass(frozen=True)
class _Judge:
    answer: bool

    def of_model(self, model: Any, body: Any, where: str) -> Iterator[str]:
        if not isinstance(body, Mapping):
            yield f"{where or 'body'}: {body!r} is not an object"
            return
        if discriminated := _subtypes(model):
            key, subtypes = discriminated
            if body.get(key) not in subtypes:
                yield f"{_join(where, key)}: {body.get(key)!r} is none of {', '.join(subtypes)}"
            else:
                yield from self.of_model(subtypes[body[key]], body, where)
            return
        yield from self.of_fields(_fields(model), body, where)

    def of_fields(self, fields: Fields, body: Mapping[str, Any], where: str) -> Iterator[str]:
        for name, declared in fields.items():
            if name not in body and self._is_required(declared):
                yield f"{_join(where, name)}: is missing"
        for key, value in body.items():
            field, path = fields.get(key), _join(where, key)
            if field is None:
                if "" not in fields:
                    yield f"{path}: is not known"
            elif isinstance(field, dict):
                if isinstance(value, Mapping):
                    yield from self.of_fields(field, value, path)
                else:
                    yield f"{path}: {value!r} is not an object"
            elif field.read_only and not self.answer:
                yield f"{path}: is read-only"
            elif value is not None or not self.answer:
                yield from self.of_value(field.kind, value, path)

    def of_value(self, kind: Any, value: Any, where: str) -> Iterator[str]:
        origin, arguments = get_origin(kind), [one for one in get_args(kind) if one is not type(None)]
        if origin in (Union, types.UnionType):
            enums = [one for one in arguments if isinstance(one, type) and issubclass(one, Enum)]
            # One of several models is enough. `str | Enum` means that the service may return values that are newer
            # than the client.
            verdicts = [list(self.of_value(one, value, where)) for one in enums or arguments]
            yield from min(verdicts, key=len)
        elif origin is list:
            if not isinstance(value, list):
                yield f"{where}: {value!r} is not a list"
                return
            for item in value:
                yield from self.of_value(arguments[0], item, f"{where}[]")
        elif origin is dict:
            if not isinstance(value, Mapping):
                yield f"{where}: {value!r} is not an object"
                return
            for key, inner in value.items():
                yield from self.of_value(arguments[1], inner, f"{where}[{key!r}]")
        elif origin is Literal:
            if value not in [getattr(one, "value", one) for one in arguments]:
                yield f"{where}: {value!r} is not {arguments[0]!r}"
        elif isinstance(kind, type) and issubclass(kind, Enum):
            if not self._is_one_of(kind, value):
                yield f"{where}: {value!r} is none of {', '.join(str(one.value) for one in kind)}"
        elif kind is datetime.datetime:
            if self.answer and not _is_date(value):
                yield f"{where}: {value!r} is not an ISO 8601 date with a time zone"
        elif kind in _PLAIN.values():
            if not (type(value) is kind or (kind is float and type(value) is int)):
                yield f"{where}: {value!r} is not of type {kind.__name__}"
        elif _is_model(kind):
            yield from self.of_model(kind, value, where)

    def _is_one_of(self, kind: type[Enum], value: Any) -> bool:
        """Whether `kind` has the value. Clients ignore case in answers (azure-core, `CaseInsensitiveEnumMeta`)."""
        values = [one.value for one in kind]
        return value in values or (self.answer and str(value).lower() in [str(one).lower() for one in values])

    def _is_required(self, field: "Field | Fields") -> bool:
        if isinstance(field, dict):
            return any(self._is_required(inner) for inner in field.values())
        return field.required and (self.answer or not field.read_only)


def _is_date(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_model(kind: Any) -> bool:
    """Whether it is a model: each package has its own base class, named `Model` in both generations."""
    return isinstance(kind, type) and any(base.__name__ == "Model" for base in kind.__mro__)


@functools.cache
def _fields(model: Any) -> Fields:
    return _of_map(model) if hasattr(model, "_attribute_map") else _of_annotations(model)


def _of_map(model: Any) -> Fields:
    models, fields = _models_beside(model), Fields()
    for attribute, declared in model._attribute_map.items():
        *containers, last = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", declared["key"])]
        place: Any = fields
        for container in containers:
            place = place.setdefault(container, {})
        rule = model._validation.get(attribute, {})
        kind = _enumeration(model, attribute, models) or _from_word(declared["type"], models)
        place[last] = Field(kind, rule.get("required", False), rule.get("readonly", False))
    return fields


def _from_word(word: str, models: Any) -> Any:
    if word[0] in "[{":
        inner = _from_word(word[1:-1], models)
        return list[inner] if word[0] == "[" else dict[str, inner]  # type: ignore[valid-type]
    return _PLAIN.get(word) or _DATES.get(word) or getattr(models, word, Any)


def _enumeration(model: Any, attribute: str, models: Any) -> Any:
    """Enumeration of a field of the first generation, which only the annotation of the constructor has."""
    parameter = inspect.signature(model.__init__).parameters.get(attribute)
    annotation = str(parameter.annotation).replace("typing.", "") if parameter else ""
    named = re.search(r"Union\[str, .*?_models\.(\w+)", annotation)
    if named is None:
        return None
    enum = getattr(models, named[1])
    return list[enum] if annotation.removeprefix("Optional[").startswith("List[") else enum  # type: ignore[valid-type]


def _of_annotations(model: Any) -> Fields:
    model.__new__(model)  # the class collects its fields at its first instance
    hints = get_type_hints(model, localns={"_models": _models_beside(model)})
    fields = Fields()
    for attribute, declared in model._attr_to_rest_field.items():
        kind = hints[attribute]
        optional = type(None) in get_args(kind)
        fields[declared._rest_name] = Field(kind, not optional, declared._visibility == ["read"])
    return fields


def _subtypes(model: Any) -> tuple[str, Mapping[str, Any]] | None:
    """The discriminating key, and the models by its value."""
    if by_attribute := vars(model).get("_subtype_map"):
        attribute, names = next(iter(by_attribute.items()))
        key = model._attribute_map[attribute]["key"].replace("\\.", ".")
        return key, {value: getattr(_models_beside(model), name) for value, name in names.items()}
    if by_value := vars(model).get("__mapping__"):
        model.__new__(model)
        key = next(field._rest_name for field in model._attr_to_rest_field.values() if field._is_discriminator)
        return key, by_value
    return None


def _models_beside(model: Any) -> Any:
    return sys.modules[model.__module__.rpartition(".")[0]]


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
