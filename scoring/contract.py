"""The artefact's `contract.json`: which features exist, and the shape of requests and answers that follow from it.

The message types are built once from the contract. `parsing` decodes with them and `openapi` publishes them, so the
published document always matches the parser. Does not encode or score rows: that is the engines' work.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from scoring.http.problems import Problem
from scoring.settings import Limits

Row = tuple[float | str | list[str] | None, ...]
"""Feature values in the contract's order; None where missing."""

SUPPORTED_MAJOR = "1"
_NUMERIC = ("integer", "number")
_CATEGORICAL = ("string", "strings")


class ContractError(ValueError):
    """The artefact's contract is malformed or of an unsupported version."""


class Feature(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r'^[^"\\\x00-\x1f]+$')]
    type: Literal["integer", "number", "string", "strings"]
    side: Literal["user", "item", "context"]
    minimum: float | None = None
    maximum: float | None = None
    """Bounds of a numeric feature, such as 0 and 23 of an hour. A value outside them is refused."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and (self.type not in _NUMERIC or bounds != sorted(bounds)):
            raise ContractError(f"minimum and maximum of {self.name}: not a numeric feature, or not ascending")


class ModelColumn(Struct, frozen=True, forbid_unknown_fields=True):
    feature: str
    value: Literal["number", "rate", "count"]


class Cross(Struct, frozen=True, forbid_unknown_fields=True):
    """Features that are encoded together: each combination of their levels is one level of the cross."""

    name: str
    of: Annotated[list[str], Meta(min_length=2)]


class Encoder(Struct, frozen=True):
    categoricals: list[str]
    missing_level: str
    width: Literal[2]
    crosses: list[Cross] = []
    bands: dict[str, list[float]] = {}
    """Lower bounds of the levels of each numeric feature that is part of a cross, ascending."""
    between: str = "\u0001"
    """Separator between the levels that make up a level of a cross."""


class Contract(Struct, frozen=True):
    contract_version: str
    dataset: str
    label: str
    features: list[Feature]
    model_columns: list[ModelColumn]
    encoder: Encoder
    item_id: str | None = None

    def __post_init__(self) -> None:
        types = {feature.name: feature.type for feature in self.features}
        encoded = {*self.encoder.categoricals, *(cross.name for cross in self.encoder.crosses)}
        if self.contract_version.partition(".")[0] != SUPPORTED_MAJOR:
            raise ContractError(f"contract version {self.contract_version}: this service reads {SUPPORTED_MAJOR}.x")
        if not self.features or len(types) != len(self.features) or self.label in types:
            raise ContractError("features must have names that differ from each other and from the label")
        if any(feature.name == "id" and feature.side == "item" for feature in self.features):
            raise ContractError("an item feature cannot be called id: in a ranking request id identifies the item")
        for column in self.model_columns:
            numeric = types.get(column.feature) in _NUMERIC
            if numeric != (column.value == "number") or not (numeric or column.feature in encoded):
                raise ContractError(f"model column {column.feature} ({column.value}) does not match the features")
        if len(encoded) != len(self.encoder.categoricals) + len(self.encoder.crosses):
            raise ContractError("categoricals and crosses must have names that differ")
        for name in self.encoder.categoricals:
            if types.get(name) not in _CATEGORICAL:
                raise ContractError(f"categorical {name} is not a string feature")
        for name, bounds in self.encoder.bands.items():
            if types.get(name) not in _NUMERIC or bounds != sorted(set(bounds)):
                raise ContractError(f"bands of {name}: not a numeric feature, or not ascending")
        for cross in self.encoder.crosses:
            for name in cross.of:
                if types.get(name) not in _CATEGORICAL and name not in self.encoder.bands:
                    raise ContractError(
                        f"cross {cross.name}: {name} is neither a string feature nor a number with bands"
                    )


def read_contract(text: bytes) -> Contract:
    try:
        return msgspec.json.decode(text, type=Contract)
    except msgspec.MsgspecError as error:
        raise ContractError(f"contract.json: {error}") from None


def _json_type(feature: Feature, limits: Limits) -> Any:
    text: Any = Annotated[str, Meta(max_length=limits.string)]
    low, high = feature.minimum, feature.maximum
    match feature.type:
        case "integer":
            whole = Meta(ge=low, le=high, multiple_of=1, description="An integer; 1 and 1.0 are the same.")
            return Annotated[float, whole] | None
        case "number":
            return Annotated[float, Meta(ge=low, le=high, description="A finite number.")] | None
        case "string":
            return text | None
        case "strings":
            return Annotated[_list_of(text), Meta(max_length=limits.strings)] | None


def _closed(
    name: str,
    fields: Sequence[tuple[Any, ...]],
    rename: dict[str, str] | None = None,
    decoded: Callable[[Any], None] | None = None,
) -> Any:
    """A message type that refuses unknown members.

    Decoded objects cannot form reference cycles, so they are not tracked by the garbage collector (`gc=False`).
    `decoded` is called with each object as soon as it is decoded.
    """
    namespace = {"__post_init__": decoded} if decoded else None
    return msgspec.defstruct(name, fields, rename=rename, namespace=namespace, forbid_unknown_fields=True, gc=False)


def _list_of(kind: Any) -> Any:
    return list[kind]


class RequestTypes:
    """Message types of one contract. The OpenAPI document is generated from them too.

    A value that was not sent is UNSET, not None, so that `parsing` can count the members that were sent. Rows and
    items are counted while they are decoded: each decoded object has a slot for every feature, so two million bytes of
    `{}` would fill the memory before the length of the finished list could be compared with the limit.
    """

    def __init__(self, contract: Contract, limits: Limits) -> None:
        self._limit = limits.rows
        self._left = 0
        text: Any = Annotated[str, Meta(max_length=limits.string)]

        def features(name: str, sides: Sequence[str], *first: tuple[Any, ...], part: str | None = None) -> Any:
            chosen = {f"f{i}": feature for i, feature in enumerate(contract.features) if feature.side in sides}
            values = [(field, _json_type(feature, limits) | UnsetType, UNSET) for field, feature in chosen.items()]
            ignored: Any = Annotated[float | text | bool | None, Meta(description="The label is ignored.")]
            label = ("label", ignored | UnsetType, UNSET)
            rename = {field: feature.name for field, feature in chosen.items()} | {"label": contract.label}
            return _closed(name, [*first, *values, label], rename, self._counter(part) if part else None)

        # JSON counts 1.0 as an integer too; a float above 2^53 cannot represent every integer.
        whole = (
            Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
            | Annotated[float, Meta(multiple_of=1, ge=-(2.0**53), le=2.0**53)]
        )
        item_id = Annotated[
            text | whole,
            Meta(description="Returned with the item's probability; not a feature."),
        ]
        rows = _list_of(features("Row", ("user", "item", "context"), part="rows"))
        user = features("User", ("user", "context"))
        items = _list_of(features("Item", ("item",), ("id", item_id), part="items"))
        few = Meta(min_length=1, max_length=limits.rows, description="Rows to score.")
        many = Meta(min_length=1, max_length=limits.rows, description="Items to rank for the user.")
        count = Meta(ge=1, multiple_of=1, description="How many of the best items to return; all if not given.")
        best = Annotated[float, count]
        top = ("top", best | UnsetType, UNSET)
        self.rows_request = _closed("RowsRequest", [("rows", Annotated[rows, few])])
        self.rank_request = _closed("RankRequest", [("user", user), ("items", Annotated[items, many]), top])
        # One type with the members of both requests: msgspec decodes a union of structs only by a tag member.
        either = {"rows": rows, "user": user, "items": items}
        self.request = _closed("Request", [*((name, kind | UnsetType, UNSET) for name, kind in either.items()), top])

    def start_counting(self) -> None:
        """Reset the count of rows; called before each request is decoded."""
        self._left = self._limit

    def _counter(self, part: str) -> Callable[[Any], None]:
        def count(_decoded: Any) -> None:
            self._left -= 1
            if self._left < 0:
                reason = f"more than {self._limit} {part} sent; the limit is {self._limit} per request"
                raise Problem(413, reason, part=part)

        return count


_Model = Annotated[str, Meta(description="Model that answered, as name:version.")]
_Probability = Annotated[float, Meta(description="Probability that the user clicks the item.")]


class Probabilities(Struct):
    model: _Model
    probabilities: Annotated[list[float], Meta(description="Click probability of each row, in the order of the rows.")]


class RankedItem(Struct):
    id: Annotated[str | int, Meta(description="The item's id in the request.")]
    probability: _Probability


class Ranking(Struct):
    model: _Model
    ranking: Annotated[list[RankedItem], Meta(description="The best items, the best first.")]
