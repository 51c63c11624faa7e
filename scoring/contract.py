"""The artefact's `contract.json`: which features exist, and the shape of requests and answers that follow from it.

The message types are built once from the contract; `parsing` decodes with them and `openapi` publishes them, so
the two cannot drift apart. Does not encode or score: engines take rows of plain values in feature order.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Row = tuple[float | str | list[str] | None, ...]
"""Feature values in the contract's order; None where missing."""

SUPPORTED_MAJOR = "1"


class ContractError(ValueError):
    """The artefact's contract cannot be served."""


class Feature(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r'^[^"\\\x00-\x1f]+$')]
    type: Literal["integer", "number", "string", "strings"]
    side: Literal["user", "item", "context"]


class ModelColumn(Struct, frozen=True, forbid_unknown_fields=True):
    feature: str
    value: Literal["number", "rate", "count"]


class Encoder(Struct, frozen=True):
    categoricals: list[str]
    missing_level: str
    width: Literal[2]


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
        if self.contract_version.partition(".")[0] != SUPPORTED_MAJOR:
            raise ContractError(f"contract version {self.contract_version}: this service reads {SUPPORTED_MAJOR}.x")
        if not self.features or len(types) != len(self.features) or self.label in types:
            raise ContractError("features must have names that differ from each other and from the label")
        if any(feature.name == "id" and feature.side == "item" for feature in self.features):
            raise ContractError("an item feature cannot be called id: in a ranking request id identifies the item")
        for column in self.model_columns:
            numeric = types.get(column.feature) in ("integer", "number")
            if numeric != (column.value == "number") or not (numeric or column.feature in self.encoder.categoricals):
                raise ContractError(f"model column {column.feature} ({column.value}) does not match the features")
        for name in self.encoder.categoricals:
            if types.get(name) not in ("string", "strings"):
                raise ContractError(f"categorical {name} is not a string feature")


def read_contract(text: bytes) -> Contract:
    try:
        return msgspec.json.decode(text, type=Contract)
    except msgspec.MsgspecError as error:
        raise ContractError(f"contract.json: {error}") from None


_JSON_TYPES: dict[str, Any] = {
    "integer": Annotated[float, Meta(multiple_of=1, description="An integer; 1 and 1.0 are the same.")] | None,
    "number": Annotated[float, Meta(description="A finite number.")] | None,
    "string": str | None,
    "strings": list[str] | None,
}


class RequestTypes:
    """Message types for one contract; also what the OpenAPI document is generated from."""

    def __init__(self, contract: Contract, max_rows: int) -> None:
        def struct(name: str, sides: Sequence[str], *first: tuple[Any, ...]) -> type[Struct]:
            chosen = [(i, feature) for i, feature in enumerate(contract.features) if feature.side in sides]
            values = [(f"f{i}", _JSON_TYPES[feature.type], None) for i, feature in chosen]
            return msgspec.defstruct(
                name,
                [*first, *values, ("label", Annotated[Any, Meta(description="Ignored.")], None)],
                rename={**{f"f{i}": feature.name for i, feature in chosen}, "label": contract.label},
                forbid_unknown_fields=True,
            )

        self.row = struct("Row", ("user", "item", "context"))
        self.user = struct("User", ("user", "context"))
        self.item = struct("Item", ("item",), ("id", str | int))
        many = Meta(min_length=1, max_length=max_rows)
        top = Annotated[float, Meta(ge=1, multiple_of=1, description="How many of the best items to return.")]
        self.rows_request = msgspec.defstruct(
            "RowsRequest",
            [("rows", Annotated[list[self.row], many])],  # type: ignore[name-defined]
            forbid_unknown_fields=True,
        )
        self.rank_request = msgspec.defstruct(
            "RankRequest",
            [
                ("user", self.user),
                ("items", Annotated[list[self.item], many]),  # type: ignore[name-defined]
                ("top", top | UnsetType, UNSET),
            ],
            forbid_unknown_fields=True,
        )
        self.request = msgspec.defstruct(
            "Request",
            [
                ("rows", list[self.row] | UnsetType, UNSET),  # type: ignore[name-defined]
                ("user", self.user | UnsetType, UNSET),
                ("items", list[self.item] | UnsetType, UNSET),  # type: ignore[name-defined]
                ("top", top | UnsetType, UNSET),
            ],
            forbid_unknown_fields=True,
        )


class Probabilities(Struct):
    model: str
    probabilities: list[float]


class RankedItem(Struct):
    id: str | int
    probability: float


class Ranking(Struct):
    model: str
    ranking: list[RankedItem]
