"""Ranking view: ranks the whole catalogue for one user through the live endpoint, and offers users and context fields.

Users and items come from the dataset's tables; without tables, the user of the dashboard enters both as JSON. Values
are not corrected here: the endpoint checks them.
"""

import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cli import catalogue, strict_json
from cli.dashboard.stack_source import EXPECTED_ERRORS, StackSource, live_artefact
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.ranking import best_items
from workloads import spec
from workloads.errors import WorkloadError

TOP = 10
_MAX_SUGGESTIONS = 20


@dataclass(frozen=True)
class Field:
    """A context feature as an input field of the form."""

    name: str
    type: str

    def value(self, text: str) -> Any:
        """Return the value of the entered text; None for an empty text. Raises `UserError` for another type."""
        if not text.strip():
            return None
        if self.type == "strings":
            return [part.strip() for part in text.split(",") if part.strip()]
        number = catalogue.scalar(text, self.type)
        if number is None:
            raise UserError(
                f"{self.name} is {text!r}; it must be {'a whole number' if self.type == 'integer' else 'a number'}"
            )
        return number


@dataclass(frozen=True)
class Catalogue:
    """The dataset's users and items; empty without tables."""

    users: Mapping[str, catalogue.Row]
    """Rows by key."""
    items: Sequence[Mapping[str, Any]]
    """Rows with `id`."""
    titles: Mapping[str, str]
    """Titles of items by key."""
    detail: str = ""
    """Reason why the catalogue is empty."""

    @classmethod
    def of(cls, dataset: str | None, folder: Path | None) -> "Catalogue":
        """Read the tables of a dataset; without readable tables, return an empty catalogue with the reason."""

        def empty(detail: str) -> "Catalogue":
            return cls({}, [], {}, detail)

        if folder is None:
            return empty(
                "no tables of users and items were given; start the dashboard with `--data FOLDER` to choose from yours"
            )
        try:
            described = spec.load(dataset or "")
        except WorkloadError as error:
            return empty(f"the tables cannot be read: {error}")
        if described.users is None or described.items is None:
            return empty(f"dataset {described.name} has no tables of users and items")
        try:
            users, items = catalogue.side(described, "user", folder), catalogue.side(described, "item", folder)
            return cls(users, [{"id": key, **item} for key, item in items.items()], catalogue.titles(described, folder))
        except (OSError, UserError) as error:
            return empty(f"the tables of dataset {described.name} cannot be read in {folder}: {error}")

    def suggested(self, text: str) -> list[tuple[str, str]]:
        """Return users whose key begins with `text`, then users with it in a feature; each with its features."""
        prefix = text.strip().casefold()
        by_key, by_feature = [], []
        for key, row in self.users.items():
            features = _features_text(key, row)
            if key.casefold().startswith(prefix):
                by_key.append((key, features))
            elif prefix in features.casefold():
                by_feature.append((key, features))
        shortest_first = sorted(by_key, key=lambda user: len(user[0]))[:_MAX_SUGGESTIONS]
        return shortest_first + by_feature[: _MAX_SUGGESTIONS - len(shortest_first)]


@dataclass(frozen=True)
class RankedItem:
    id: str
    title: str
    probability: float
    moved: str
    """Movement since the previous ranking, such as `up 2`; empty without a previous ranking."""


@dataclass(frozen=True)
class RankingView:
    request: str
    """User and context as text."""
    best: list[RankedItem]
    catalogue_size: int
    """Number of items that were ranked."""


class Ranker:
    """Ranks through the endpoint. Caches the endpoint's key and the tables, and reads the key again after an error."""

    def __init__(self, source: StackSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._known: tuple[Endpoint, list[Field]] | None = None

    @cached_property
    def catalogue(self) -> Catalogue:
        dataset = self._source.dataset
        if dataset is None:
            rows = str((self._source.outputs().get("release") or {}).get("rows", ""))
            dataset = rows.partition(" ")[0]
        return Catalogue.of(dataset, self._source.data)

    def fields(self) -> list[Field]:
        """Return the context features in the live model's contract. Raises one of `EXPECTED_ERRORS`."""
        with self._lock:
            self._known = None
            return self._connected()[1]

    def rank(self, form: Mapping[str, str], before: Sequence[Mapping[str, Any]]) -> RankingView:
        """Rank for the user and the context in the form. Raises one of `EXPECTED_ERRORS`; `UserError` for a wrong form.

        before: the previous ranking, with which the items' positions are compared.
        """
        with self._lock:
            endpoint, fields = self._connected()
        user, items, name = self._user_and_items(form)
        context = {field.name: field.value(form.get(f"context-{field.name}", "")) for field in fields}
        row = {**user, **{name: value for name, value in context.items() if value is not None}}
        context_text = [f"{name} {value}" for name, value in context.items() if value is not None]
        try:
            best = best_items(endpoint, row, items, TOP)
        except EXPECTED_ERRORS:
            self._known = None  # the key may have been regenerated
            raise
        positions = {str(item["id"]): position for position, item in enumerate(before)}
        ranked = [
            RankedItem(
                str(item["id"]),
                self.catalogue.titles.get(str(item["id"]), ""),
                float(item["probability"]),
                _moved(position, positions.get(str(item["id"]))) if before else "",
            )
            for position, item in enumerate(best)
        ]
        return RankingView(", ".join([name, *context_text]), ranked, len(items))

    def warm(self) -> None:
        """Fill the caches before the first ranking. Ignores errors: the view reports them when it is opened."""
        with contextlib.suppress(Exception):
            with self._lock:
                self._connected()
            _ = self.catalogue

    def _connected(self) -> tuple[Endpoint, list[Field]]:
        if self._known is None:
            outputs = self._source.outputs()
            features = live_artefact(outputs).json("contract.json")["features"]
            context = [Field(feature["name"], feature["type"]) for feature in features if feature["side"] == "context"]
            self._known = Endpoint.of(outputs), context
        return self._known

    def _user_and_items(self, form: Mapping[str, str]) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], str]:
        """Return the user's row, the items, and the user's name for the heading."""
        if not self.catalogue.users:
            user, items = _json(form, "user_json", dict), _json(form, "items_json", list)
            if not items or not all(isinstance(item, dict) and "id" in item for item in items):
                raise UserError('items must be a list of objects, each with an id: [{"id": "1", …}, …]')
            return user, items, "the user below"
        key = form.get("user", "").strip()
        if key not in self.catalogue.users:
            problem = f"no user {key!r}" if key else "choose a user"
            raise UserError(
                f"{problem}; there are {len(self.catalogue.users):,}, such as {next(iter(self.catalogue.users))}"
            )
        return self.catalogue.users[key], self.catalogue.items, f"user {key}"


def previous_ranking(text: str) -> list[dict[str, Any]]:
    """Return the previous ranking from the form's hidden field; an empty list if the field does not contain one."""
    try:
        items = json.loads(text or "[]")
        return [
            {"id": str(item["id"]), "title": str(item["title"]), "probability": float(item["probability"])}
            for item in items[:TOP]
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _moved(position: int, before: int | None) -> str:
    if before is None:
        return "new"
    if before == position:
        return "same place"
    return f"up {before - position}" if before > position else f"down {position - before}"


def _features_text(key: str, row: catalogue.Row) -> str:
    return ", ".join(str(value) for value in row.values() if value is not None and str(value) != key)


def _json(form: Mapping[str, str], name: str, kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
    return strict_json.parse(form.get(name, ""), name.removesuffix("_json"), kind)
