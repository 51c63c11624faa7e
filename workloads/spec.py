"""Dataset specs: files of users, items and interactions, the definition of a click, features, encoder and model.

A spec is a YAML file in `datasets/`; to use your own dataset, add a file there. A spec is checked completely before
Spark starts. Does not read any data: `data/tables.py` checks that the files have the spec's columns.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from workloads import dataclass_reader
from workloads.errors import WorkloadError

FEATURE_TYPES = ("integer", "number", "string", "strings")
SIDES = ("user", "item", "context")
HISTORIES = ("earlier", "others")
OF_TIME: Mapping[str, tuple[int, int]] = {"hour": (0, 23), "weekday": (1, 7)}
"""Features that can be computed from a row's time in UTC, with lowest and highest value; weekday 1 is Monday."""

# Spark column names are case-insensitive, LightGBM refuses punctuation, and `__` marks internal columns.
_FEATURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_SHARES = [hundredths / 100 for hundredths in range(1, 100)]
_RESERVED = {
    "label",
    "outcome",
    "time",
    "day",
    "part",
    "validation",
    "features",
    "probability",
    "levels",
    "encoded",
    "number",
}

MAX_STRING = 1000
"""Characters of a string in a scoring request: the service's default (`Limits` in scoring/settings.py)."""
MAX_STRINGS = 100
"""Strings in one list of a scoring request, and combinations of the lists in a cross: the service's default."""

CROSS = "__"
"""Separator of the names of crossed features."""
PAIR = ("rate", "count")
"""The two values of an encoded level."""


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


@dataclass(frozen=True)
class Table:
    """A tab separated file, plain or gzip."""

    files: tuple[str, ...]
    """Names or patterns, tried in order; exactly one file of the snapshot must match the first that matches any."""
    columns: tuple[str, ...] = ()
    """Names in file order when the file has no header; otherwise the header names them (`name` or `name:type`)."""
    key: str | None = None
    """Users and items only: the column that interactions refer to, under the same name."""

    def __post_init__(self) -> None:
        _require(bool(self.files), "files must name at least one file")
        _require(len({c.lower() for c in self.columns}) == len(self.columns), "columns must differ")

    def among(self, paths: Iterable[Path]) -> list[Path]:
        """Return the paths that match the first of `files` that any path matches; an equal name wins over a pattern."""
        candidates = sorted(paths)
        named = ([path for path in candidates if path.name == pattern] for pattern in self.files)
        matches = ([path for path in candidates if path.match(pattern)] for pattern in self.files)
        return next((a or b for a, b in zip(named, matches, strict=True) if a or b), [])


@dataclass(frozen=True)
class Label:
    """A click is `column >= at_least`; without `at_least` the column itself must be 0 or 1."""

    column: str
    at_least: float | None = None
    scale: tuple[float, ...] = ()
    """Lowest and highest possible value. Encodings then use the column's position on this scale instead of the click:
    five stars carry more information than four."""

    def __post_init__(self) -> None:
        _require(not self.scale or self.at_least is not None, "scale goes with at_least")
        _require(
            not self.scale or (len(self.scale) == 2 and self.scale[0] < (self.at_least or 0) <= self.scale[1]),
            "scale must be [lowest, highest], with at_least in between",
        )

    @property
    def outcome(self) -> str:
        """Column of the prepared table that encodings are computed from, 0 to 1."""
        return "outcome" if self.scale else "label"


@dataclass(frozen=True)
class Time:
    """Order of the rows: a column of Unix seconds, or the order of the file, cut into `chunks` days."""

    column: str | None = None
    chunks: int | None = None
    earliest: date | None = None
    """First allowed day of a time, in UTC; by default 1990-01-01."""
    latest: date | None = None
    """Last allowed day; by default 2099-12-31, and not the day of the run, so that a snapshot always has the same
    malformed lines."""

    def __post_init__(self) -> None:
        _require((self.column is None) != (self.chunks is None), "give either column or chunks")
        _require(self.chunks is None or self.chunks >= 1, "chunks must be 1 or more")
        _require(bool(self.column) or not (self.earliest or self.latest), "earliest and latest go with column")
        _require(self.days[0] <= self.days[1], "latest must not be before earliest")

    @property
    def days(self) -> tuple[date, date]:
        return self.earliest or date(1990, 1, 1), self.latest or date(2099, 12, 31)

    @property
    def seconds(self) -> tuple[int, int]:
        """Return the allowed Unix seconds: the first, and the first that is too late."""
        first, last = (day.toordinal() - date(1970, 1, 1).toordinal() for day in self.days)
        return first * 86_400, (last + 1) * 86_400


@dataclass(frozen=True)
class Feature:
    type: str
    side: str
    column: str | None = None
    """Name of the raw column if it differs."""
    separator: str | None = None
    """Separator of the values of a `strings` feature."""
    bands: tuple[float, ...] = ()
    """Lower bounds of the levels of a number that is part of a cross, ascending."""
    of_time: str | None = None
    """`hour` or `weekday`: training computes it from the row's time; in a request the caller sends it."""

    def __post_init__(self) -> None:
        _require(self.type in FEATURE_TYPES, f"type must be one of {', '.join(FEATURE_TYPES)}, not {self.type!r}")
        _require(self.side in SIDES, f"side must be one of {', '.join(SIDES)}, not {self.side!r}")
        _require((self.type == "strings") == bool(self.separator), "separator goes with type strings, and only there")
        _require(not (self.bands and self.categorical), "bands go with a number, and only there")
        _require(list(self.bands) == sorted(set(self.bands)), "bands must ascend")
        if self.of_time is not None:
            self._check_of_time(self.of_time)

    def _check_of_time(self, kind: str) -> None:
        _require(kind in OF_TIME, f"of_time must be one of {', '.join(OF_TIME)}, not {kind!r}")
        _require(
            (self.type, self.side) == ("integer", "context"),
            f"the {kind} of a row's time is an integer that depends on the request: it needs type integer and "
            f"side context, not {self.type} and {self.side}",
        )
        _require(self.column is None, "of_time is computed and column is read: give one of them")

    @property
    def categorical(self) -> bool:
        return self.type in ("string", "strings")

    def wanted(self, name: str) -> tuple[str, str]:
        """Return the raw column of a feature called `name`, and the type to read it as."""
        return self.column or name, "string" if self.categorical else self.type

    @property
    def span(self) -> tuple[int, int] | None:
        """Lowest and highest possible value, if known."""
        return OF_TIME[self.of_time] if self.of_time else None


@dataclass(frozen=True)
class Limits:
    malformed_share: float = 0.01
    """Share of malformed lines of one file above which the snapshot is refused."""
    orphan_share: float = 0.01
    """Share of interactions whose user or item is in no table, above which the snapshot is refused."""

    def __post_init__(self) -> None:
        for limit in dataclasses.astuple(self):
            _require(0 <= limit <= 1, "a share must be between 0 and 1")


@dataclass(frozen=True)
class Encoder:
    """Target encoding: a level becomes a smoothed click rate and a count, cross-fitted over parts."""

    parts: int = 20
    """Number of parts of the training rows; each is encoded from statistics of other parts."""
    history: str = "earlier"
    """Which parts: the `earlier` ones by time or, if time means nothing, all `others` of parts chosen at random."""
    smoothing: float = 20.0
    """Number of rows with the mean outcome that are added to every level."""
    min_count: int = 2
    """Levels with fewer rows count as unseen."""
    max_levels: int = 2_000_000
    """Maximal number of levels of all encodings together; the rarest beyond it count as unseen. The driver and every
    executor hold this many levels in memory."""
    passes: int = 0
    """Backfitting passes over the effects of users and items; encodings then use the residual. 0: encodings use the
    outcome itself."""

    def __post_init__(self) -> None:
        _require(2 <= self.parts <= 50, "parts must be between 2 and 50")
        _require(self.history in HISTORIES, f"history must be one of {', '.join(HISTORIES)}, not {self.history!r}")
        _require(self.smoothing > 0, "smoothing must be above 0")
        _require(self.min_count >= 1, "min_count must be 1 or more")
        _require(self.max_levels >= 1, "max_levels must be 1 or more")
        _require(0 <= self.passes <= 5, "passes must be between 0 and 5")


@dataclass(frozen=True)
class Model:
    """LightGBM's parameters, under its names, and `warm_start`."""

    num_iterations: int
    """Number of trees; with early stopping, the maximal number."""
    num_leaves: int
    learning_rate: float
    min_data_in_leaf: int = 20
    feature_fraction: float = 1.0
    bagging_fraction: float = 1.0
    lambda_l2: float = 0.0
    max_bin: int = 255
    early_stopping_round: int = 0
    """Stop after this number of trees without a lower log loss on the validation set; 0: no early stopping, and no
    validation set."""
    warm_start: int = 0
    """Number of trees to add to the live model, if the total is at most `num_iterations`; 0: always fit all trees."""
    seed: int = 1

    def __post_init__(self) -> None:
        _require(self.num_iterations >= 1, "num_iterations must be 1 or more")
        _require(self.num_leaves >= 2, "num_leaves must be 2 or more")
        _require(self.learning_rate > 0, "learning_rate must be above 0")
        _require(self.min_data_in_leaf >= 1, "min_data_in_leaf must be 1 or more")
        _require(0 < self.feature_fraction <= 1, "feature_fraction must be above 0 and at most 1")
        _require(0 < self.bagging_fraction <= 1, "bagging_fraction must be above 0 and at most 1")
        _require(self.lambda_l2 >= 0, "lambda_l2 must be 0 or more")
        _require(2 <= self.max_bin <= 65535, "max_bin must be between 2 and 65535")
        _require(self.early_stopping_round >= 0, "early_stopping_round must be 0 or more")
        _require(0 <= self.warm_start < self.num_iterations, "warm_start must be 0 or more, and below num_iterations")

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that are passed to LightGBM as they are; early stopping and warm start are set separately."""
        ours = ("early_stopping_round", "warm_start")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ours}


@dataclass(frozen=True)
class Slice:
    """A breakdown of the test metrics by a feature; `bands` are lower bounds for a number."""

    feature: str
    bands: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spec:
    name: str
    title: str
    terms: str
    """Terms of use of the data, shown on the model card."""
    interactions: Table
    label: Label
    time: Time
    features: Mapping[str, Feature]
    encoder: Encoder
    model: Model
    users: Table | None = None
    items: Table | None = None
    user_id: str | None = None
    item_id: str | None = None
    limits: Limits = field(default_factory=Limits)
    crosses: tuple[tuple[str, ...], ...] = ()
    """Features whose combinations are encoded, too: (user_id, genres) is a user's taste."""
    test_share: float = 0.1
    """Share of the test set, the last rows by time, in whole hundredths."""
    validation_share: float = 0.1
    """Share of the validation set, the rows before it, in whole hundredths; early stopping uses it."""
    slices: tuple[Slice, ...] = ()
    unused: tuple[str, ...] = ()
    """Features that are described but not used; crosses and slices with them are left out, too."""
    digest: str = field(default="", metadata=dataclass_reader.COMPUTED)

    def __post_init__(self) -> None:
        for share in ("test_share", "validation_share"):
            _require(getattr(self, share) in _SHARES, f"{share} must be 0.01, 0.02 … or 0.99")
        _require(self.test_share + self.validation_share <= 0.9, "a tenth of the rows must be left to train on")
        _require(bool(self.features), "features must name at least one feature")
        _require(len({n.lower() for n in self.features}) == len(self.features), "feature names must differ")
        for name in self.features:
            _require(bool(_FEATURE_NAME.fullmatch(name)), f"feature {name!r}: letters, digits and single _ only")
            _require(name.lower() not in _RESERVED, f"feature {name!r}: this name is taken, choose another")
            _require(
                (name, self.features[name].side) != ("id", "item"),
                "feature 'id': in a ranking request id identifies the item. Give the feature another name, such as "
                "item_id: {type: string, side: item, column: id}",
            )
            _require(
                not self.of_interactions(name) or (self.features[name].column or name) != self.label.column,
                f"feature {name!r}: it is read from {self.label.column}, the label's column, which is unknown before "
                "the click. Leave the feature out, or name another column",
            )
        for name, feature in self.features.items():
            _require(
                not feature.of_time or self.time.column is not None,
                f"feature {name!r}: of_time needs time: column; rows ordered by file have no {feature.of_time}",
            )
        for name in self.unused:
            _require(name in self.features, f"unused: no feature {name!r}")
            _require(name not in (self.user_id, self.item_id), f"unused: {name} identifies users or items")
        for key in ("user_id", "item_id"):
            named = getattr(self, key)
            _require(
                named is None or (named in self.features and self.features[named].type == "string"),
                f"{key} must be a feature of type string, not {named!r}",
            )
        for cross in self.crosses:
            self._check_cross(cross)
        _require(len(self.encodings) == len(self.categoricals) + len(self.crosses), "crosses must differ")
        _require(
            not self.encoder.passes or bool(self.user_id and self.item_id), "encoder: passes need user_id and item_id"
        )
        for side in ("users", "items"):
            table: Table | None = getattr(self, side)
            _require(table is None or table.key is not None, f"{side}: key is missing")
        _require(self.interactions.key is None, "interactions: key belongs to users and items")
        for part in self.slices:
            _require(part.feature in self.features, f"slices: no feature {part.feature!r}")
            _require(self.features[part.feature].type != "strings", f"slices: {part.feature} has many values a row")
            _require(
                self.features[part.feature].categorical != bool(part.bands),
                f"slices: {part.feature}: bands go with a numeric feature, and only there",
            )

    def of_interactions(self, name: str) -> bool:
        """Return whether a feature is read from the file of interactions and not from a table of users or items."""
        return not self.features[name].of_time and not any(name in self.features_of(side) for side in SIDES)

    def _check_cross(self, cross: tuple[str, ...]) -> None:
        _require(len(set(cross)) == len(cross) >= 2, f"crosses: {list(cross)} must name two features or more, once")
        for name in cross:
            _require(name in self.features, f"crosses: no feature {name!r}")
            feature = self.features[name]
            _require(feature.categorical or bool(feature.bands), f"crosses: {name} is a number, give it bands")

    def without_unused(self) -> "Spec":
        return dataclasses.replace(
            self,
            features={name: feature for name, feature in self.features.items() if name not in self.unused},
            crosses=tuple(cross for cross in self.crosses if not set(cross) & set(self.unused)),
            slices=tuple(part for part in self.slices if part.feature not in self.unused),
            unused=(),
        )

    @property
    def categoricals(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.categorical]

    def features_of(self, side: str) -> dict[str, Feature]:
        """Return the features in the table of `side`, without its key, which the interactions hold."""
        table: Table | None = {"user": self.users, "item": self.items}.get(side)
        if table is None:
            return {}
        return {n: f for n, f in self.features.items() if f.side == side and (f.column or n) != table.key}

    @property
    def context(self) -> list[str]:
        """Features of side context, which depend on the request."""
        return [name for name, feature in self.features.items() if feature.side == "context"]

    @property
    def of_time(self) -> list[str]:
        """Features that training computes from the row's time."""
        return [name for name, feature in self.features.items() if feature.of_time]

    @property
    def encodings(self) -> dict[str, tuple[str, ...]]:
        """Features of each encoding by name: each categorical by itself, then each cross."""
        return {name: (name,) for name in self.categoricals} | {CROSS.join(cross): cross for cross in self.crosses}

    def single(self, encoding: str) -> bool:
        """Return whether every row has exactly one level of this encoding."""
        return all(self.features[name].type != "strings" for name in self.encodings[encoding])

    @property
    def model_columns(self) -> list[tuple[str, str]]:
        """Columns of the model in order: (feature or cross, value)."""
        own = [
            (name, value)
            for name, feature in self.features.items()
            for value in (PAIR if feature.categorical else ("number",))
        ]
        return own + [(CROSS.join(cross), value) for cross in self.crosses for value in PAIR]

    def with_model(self, **changed: Any) -> "Spec":
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **changed))

    @property
    def slot_names(self) -> list[str]:
        """Model columns as LightGBM names them."""
        return [f"{feature}_{value}" for feature, value in self.model_columns]


def names() -> list[str]:
    folder = resources.files("workloads") / "datasets"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load(name: str) -> Spec:
    if name not in names():
        raise WorkloadError(f"no dataset {name!r}; there are: {', '.join(names())}")
    spec = parse(text(name), f"{name}.yaml")
    if spec.name != name:
        raise WorkloadError(f"{name}.yaml: name is {spec.name!r}, but the file is called {name!r}: use the same name")
    return spec


def text(name: str) -> str:
    return (resources.files("workloads") / "datasets" / f"{name}.yaml").read_text("utf-8")


def parse(text: str, source: str) -> Spec:
    """Return the spec of a YAML text. Raises `WorkloadError`; `source` is the file's name in messages."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise WorkloadError(f"{source}: not YAML: {fault}") from None
    spec: Spec = dataclass_reader.read(Spec, document, source)
    return dataclasses.replace(spec.without_unused(), digest=hashlib.sha256(text.encode()).hexdigest())
