"""Ranks the catalogue of a dataset for one user through an endpoint, for the command `rank` and for the dashboard.

Sends only features that were given: a missing context feature is not replaced, for example by this machine's clock.
Does not check values; the endpoint does.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli import catalogue
from cli.endpoint import Endpoint
from cli.errors import UserError
from workloads import spec

_ITEMS_PER_REQUEST = 1000


def rank(
    endpoint: Endpoint,
    dataset: spec.Spec,
    folder: Path,
    user: str,
    top: int,
    context: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the best `top` items of the whole catalogue for one user, best first.

    folder: folder of the dataset's tables. context: context features of the request by name.
    An item has `id`, `probability` and `title`, which is empty if the item table has no titles.
    Raises `UserError` if the user table does not contain the user.
    """
    users, items = catalogue.side(dataset, "user", folder), catalogue.side(dataset, "item", folder)
    if user not in users:
        example = next(iter(users), "-")
        raise UserError(f"no user {user!r} in {folder}; there are {len(users)}, such as {example!r}")
    titles = catalogue.titles(dataset, folder)
    candidates = [{"id": key, **item} for key, item in items.items()]
    best = best_items(endpoint, {**users[user], **(context or {})}, candidates, top)
    return [{**item, "title": titles.get(item["id"], "")} for item in best]


def best_items(
    endpoint: Endpoint, user: Mapping[str, Any], items: Sequence[Mapping[str, Any]], top: int
) -> list[dict[str, Any]]:
    """Return `id` and `probability` of the best `top` items, best first.

    user: row of the user, which may also contain context features. items: rows with `id`.
    """
    # The endpoint limits the items of a request. The best items of all parts contain the best of the whole.
    best: list[dict[str, Any]] = []
    for start in range(0, len(items), _ITEMS_PER_REQUEST):
        part = items[start : start + _ITEMS_PER_REQUEST]
        best += endpoint.post({"user": user, "items": part, "top": top})["ranking"]
    return sorted(best, key=lambda item: -item["probability"])[:top]


def parse_context(dataset: spec.Spec, arguments: Iterable[str]) -> dict[str, Any]:
    """Return the context features given as `name=value`. Raises `UserError` with the argument that is invalid."""
    names = f"dataset {dataset.name} has {', '.join(dataset.context) or 'none in use'}"
    features: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or name not in dataset.context:
            raise UserError(f"--context {argument}: must be name=value of a feature of side context; {names}")
        feature = dataset.features[name]
        features[name] = catalogue.value(text if text.strip() else "", feature)
        if features[name] is None and text.strip():
            raise UserError(f"--context {argument}: {name} is of type {feature.type}")
    return features
