"""One user's ranking of the whole catalogue, from the live endpoint; and what is asked to choose a user and a context.

Users and items are the dataset's own tables where there are any; without them a person writes a user and items as JSON.
The endpoint decides about every value: nothing is corrected here.
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
from cli.dashboard.stack_source import UNANSWERED, Subject, serving_artefact
from cli.endpoint import Endpoint
from cli.errors import UserError
from cli.local_run.command import best_of
from workloads import spec
from workloads.errors import WorkloadError

TOP = 10
_MOST_SUGGESTED = 20


@dataclass(frozen=True)
class Field:
    """A feature of a request's context, as a person fills it in."""

    name: str
    type: str

    def value(self, text: str) -> Any:
        """None where nothing is written: the feature is missing then. Raises `UserError`."""
        if not text.strip():
            return None
        if self.type == "strings":
            return [part.strip() for part in text.split(",") if part.strip()]
        found = catalogue.scalar(text, self.type)
        if found is None:
            raise UserError(
                f"{self.name} is {text!r}; it must be {'a whole number' if self.type == 'integer' else 'a number'}"
            )
        return found


@dataclass(frozen=True)
class Catalogue:
    """The tables of users and items; empty where there are none to choose from."""

    users: Mapping[str, catalogue.Row]
    items: Sequence[Mapping[str, Any]]
    """With `id`."""
    titles: Mapping[str, str]
    says: str = ""
    """Why it is empty."""

    @classmethod
    def of(cls, dataset: str | None, folder: Path | None) -> "Catalogue":
        def none(why: str) -> "Catalogue":
            return cls({}, [], {}, why)

        if folder is None:
            return none(
                "no tables of users and items are here; open the page with `--data FOLDER` to choose from yours"
            )
        try:
            described = spec.load(dataset or "")
        except WorkloadError as error:
            return none(f"the tables cannot be read: {error}")
        if described.users is None or described.items is None:
            return none(f"dataset {described.name} has no tables of users and items")
        try:
            users, items = catalogue.side(described, "user", folder), catalogue.side(described, "item", folder)
            return cls(users, [{"id": key, **item} for key, item in items.items()], catalogue.titles(described, folder))
        except (OSError, UserError) as error:
            return none(f"the tables of dataset {described.name} cannot be read in {folder}: {error}")

    def suggested(self, text: str) -> list[tuple[str, str]]:
        """Users whose key begins with `text`, then those whose features hold it; each with its features in words."""
        wanted = text.strip().casefold()
        told = ((key, _words(key, row)) for key, row in self.users.items())
        begin, within = [], []
        for key, words in told:
            if key.casefold().startswith(wanted):
                begin.append((key, words))
            elif wanted in words.casefold():
                within.append((key, words))
        return sorted(begin, key=lambda one: len(one[0]))[:_MOST_SUGGESTED] + within[: _MOST_SUGGESTED - len(begin)]


@dataclass(frozen=True)
class Ranked:
    id: str
    title: str
    probability: float
    moved: str
    """Against the ranking before it; empty without one."""


@dataclass(frozen=True)
class Ranking:
    asked: str
    """The user and the context in words."""
    best: list[Ranked]
    of: int
    """Number of items it was chosen from."""


class Ranker:
    """Asks the endpoint; its key and the tables are kept in this process, and asked anew once they do not do."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lock = threading.Lock()
        self._known: tuple[Endpoint, list[Field]] | None = None

    @cached_property
    def catalogue(self) -> Catalogue:
        dataset = self._subject.dataset
        if dataset is None:
            named = str((self._subject.outputs().get("release") or {}).get("rows", ""))
            dataset = named.partition(" ")[0]
        return Catalogue.of(dataset, self._subject.data)

    def fields(self) -> list[Field]:
        """Features of context, of the contract of the model that serves now. Raises one of `UNANSWERED`."""
        with self._lock:
            self._known = None
            return self._connected()[1]

    def rank(self, form: Mapping[str, str], before: Sequence[Mapping[str, Any]]) -> Ranking:
        """Raises one of `UNANSWERED`, and `UserError` for what cannot be asked."""
        with self._lock:
            endpoint, fields = self._connected()
        user, items, asked = self._asked(form)
        context = {field.name: field.value(form.get(f"context-{field.name}", "")) for field in fields}
        row = {**user, **{name: value for name, value in context.items() if value is not None}}
        told = [f"{name} {value}" for name, value in context.items() if value is not None]
        try:
            best = best_of(endpoint, row, items, TOP)
        except UNANSWERED:
            self._known = None  # the key may be another one by now
            raise
        places = {str(item["id"]): place for place, item in enumerate(before)}
        ranked = [
            Ranked(
                str(item["id"]),
                self.catalogue.titles.get(str(item["id"]), ""),
                float(item["probability"]),
                _moved(place, places.get(str(item["id"]))) if before else "",
            )
            for place, item in enumerate(best)
        ]
        return Ranking(", ".join([asked, *told]), ranked, len(items))

    def warm(self) -> None:
        """What the first ranking would otherwise wait for. Silent: whoever asks is told what does not answer."""
        with contextlib.suppress(Exception):
            with self._lock:
                self._connected()
            _ = self.catalogue

    def _connected(self) -> tuple[Endpoint, list[Field]]:
        if self._known is None:
            outputs = self._subject.outputs()
            contract = serving_artefact(outputs).json("contract.json")
            context = [Field(one["name"], one["type"]) for one in contract["features"] if one["side"] == "context"]
            self._known = Endpoint.of(outputs), context
        return self._known

    def _asked(self, form: Mapping[str, str]) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], str]:
        if not self.catalogue.users:
            user, items = _json(form, "user_json", dict), _json(form, "items_json", list)
            if not items or not all(isinstance(item, dict) and "id" in item for item in items):
                raise UserError('items must be a list of objects, each with an id: [{"id": "1", …}, …]')
            return user, items, "the user below"
        key = form.get("user", "").strip()
        if key not in self.catalogue.users:
            named = f"no user {key!r}" if key else "choose a user"
            raise UserError(
                f"{named}; there are {len(self.catalogue.users):,}, such as {next(iter(self.catalogue.users))}"
            )
        return self.catalogue.users[key], self.catalogue.items, f"user {key}"


def before_of(text: str) -> list[dict[str, Any]]:
    """The ranking that a form carries along; none where it is not one of ours."""
    try:
        found = json.loads(text or "[]")
        return [
            {"id": str(item["id"]), "title": str(item["title"]), "probability": float(item["probability"])}
            for item in found[:TOP]
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _moved(place: int, before: int | None) -> str:
    if before is None:
        return "new"
    if before == place:
        return "same place"
    return f"up {before - place}" if before > place else f"down {place - before}"


def _words(key: str, row: catalogue.Row) -> str:
    told = [str(value) for value in row.values() if value is not None and str(value) != key]
    return ", ".join(told)


def _json(form: Mapping[str, str], name: str, kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
    return strict_json.parse(form.get(name, ""), name.removesuffix("_json"), kind)
