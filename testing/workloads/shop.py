"""A small shop in MovieLens' file format, and an independent reader of the artefact that training writes.

The reader is written from the artefact's description alone and shares no code with `workloads`.
"""

import dataclasses
import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from workloads import spec

GENRES = ("Action", "Comedy", "Drama", "Sci-Fi", "War")


def write_shop(folder: Path, interactions: int = 6_000) -> Path:
    """Users, items and interactions with a signal; some users, items and values are missing."""
    random = np.random.default_rng(7)
    users, items = 200, 120
    taste, appeal = random.standard_normal((users, len(GENRES))), random.standard_normal(items)
    genres = [sorted(random.choice(len(GENRES), random.integers(1, 4), replace=False)) for _ in range(items)]
    folder.mkdir(parents=True)
    user_lines = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    for user in range(users):
        age, gender = random.integers(15, 70), random.choice(["F", "M", ""])
        user_lines.append(f"u{user}\t{age if user % 9 else ''}\t{gender}\tjob{user % 7}\t{10000 + user}")
    item_lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for item in range(items - 1):  # the last item is in no table
        names = "" if item % 20 == 5 else " ".join(GENRES[g] for g in genres[item])
        item_lines.append(f"i{item}\tFilm «{item}»\t{1950 + item % 50}\t{names}")
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for row in range(interactions):
        user, item = random.integers(users), random.integers(items - (row % 200 != 0))
        moment = 880_000_000 + row * 300
        evening = moment // 3600 % 24 >= 18 and 0 in genres[item]  # Action films are liked more in the evening
        liking = 3.4 + 0.8 * appeal[item] + 0.8 * taste[user][genres[item]].mean() + 0.6 * random.standard_normal()
        rating = int(np.clip(round(liking + evening), 1, 5))
        lines.append(f"u{user}\ti{item}\t{rating}\t{moment}")
    for name, content in (("user", user_lines), ("item", item_lines), ("inter", lines)):
        (folder / f"ml-100k.{name}").write_text("\n".join(content) + "\n", "utf-8")
    return folder


def with_all_features(name: str) -> spec.Spec:
    """Return a shipped dataset's spec with the features that it leaves out."""
    text = re.sub(r"^unused: .*\n", "", spec.text(name), flags=re.MULTILINE)
    return spec.parse(text, f"{name}.yaml")


def in_few_parts(name: str) -> spec.Spec:
    """Return the spec with few parts: plans grow with the parts, and dominate the time for small tables."""
    dataset = with_all_features(name)
    return dataclasses.replace(dataset, encoder=dataclasses.replace(dataset.encoder, parts=5))


@dataclass(frozen=True)
class Trained:
    raw: Path
    features: Path
    artefact: Path
    dataset: spec.Spec

    def read(self, name: str) -> Any:
        return json.loads((self.artefact / name).read_text("utf-8"))

    def golden(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.artefact / "golden.jsonl").read_text("utf-8").splitlines()]


class Reader:
    """Computes probabilities from an artefact, as a serving engine does."""

    def __init__(self, artefact: Path) -> None:
        self.contract = json.loads((artefact / "contract.json").read_text("utf-8"))
        self.types = {feature["name"]: feature["type"] for feature in self.contract["features"]}
        self.booster = lightgbm.Booster(model_file=str(artefact / "model.txt"))
        encoder = self.contract["encoder"]
        self.bands = encoder["bands"]
        self.parts = {name: [name] for name in encoder["categoricals"]}
        self.parts |= {cross["name"]: cross["of"] for cross in encoder["crosses"]}
        arrays = np.load(artefact / "encoder.npz", allow_pickle=False)
        self.levels: dict[str, dict[str, np.ndarray]] = {}
        for i, name in enumerate(self.parts):
            text, bounds = arrays[f"levels_{i}"].tobytes(), arrays[f"offsets_{i}"].tolist()
            words = [text[start:end].decode() for start, end in pairwise(bounds)]
            assert words == sorted(words, key=str.encode)
            self.levels[name] = dict(zip(words, arrays[f"values_{i}"], strict=True))

    def levels_of(self, feature: str, value: Any) -> list[str]:
        if feature in self.bands:
            return ["\0" if value is None else str(bisect_right(self.bands[feature], value))]
        levels = [value] if self.types[feature] == "string" else value or [None]
        return [(level or "").strip(" ") or "\0" for level in levels]

    def pair(self, name: str, *values: Any) -> np.ndarray:
        """Return the pair of a categorical feature's value, or of the values of a cross."""
        every = [self.levels_of(feature, value) for feature, value in zip(self.parts[name], values, strict=True)]
        levels = ["\1".join(several) for several in product(*every)]
        total = np.zeros(2)
        for level in levels:
            total += self.levels[name].get(level, np.zeros(2, np.float32)).astype(np.float64)
        return total * (1.0 / len(levels))

    def probability(self, row: dict[str, Any]) -> float:
        vector = []
        for column in self.contract["model_columns"]:
            name, kind = column["feature"], column["value"]
            if kind == "number":
                vector.append(np.nan if row[name] is None else float(row[name]))
            else:
                values = [row[feature] for feature in self.parts[name]]
                vector.append(self.pair(name, *values)[("rate", "count").index(kind)])
        return float(self.booster.predict(np.array([vector]), num_threads=1)[0])
