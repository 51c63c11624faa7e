"""Dataset specs: every one that ships is sound, and what is wrong in one is named."""

import json
import re
import sys
from importlib import resources

import pytest

from scoring.contract import read_contract
from workloads import artefact, spec
from workloads.errors import WorkloadError
from workloads.tasks import prepare, train

MOVIELENS = (resources.files("workloads") / "datasets" / "movielens.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", spec.names())
def test_every_dataset_that_ships_is_sound(name: str) -> None:
    dataset = spec.load(name)
    assert dataset.name == name
    assert dataset.terms
    assert len(dataset.model_columns) == len(dataset.features) + len(dataset.categoricals) + 2 * len(dataset.crosses)


def test_criteo_is_forty_columns_with_nothing_to_join() -> None:
    dataset = spec.load("criteo")
    assert len(dataset.interactions.columns) == 40
    assert list(dataset.features) == list(dataset.interactions.columns[1:])
    assert (dataset.users, dataset.items, dataset.item_id) == (None, None, None)


@pytest.mark.parametrize(
    ("written", "instead", "complaint"),
    [
        ("name: movielens", "nome: movielens", "unknown key 'nome'"),
        ("title: MovieLens 100K", "", "title is missing"),
        ("learning_rate: 0.05", "learning_rte: 0.05", "model: unknown key 'learning_rte'"),
        ("num_leaves: 7", "num_leaves: seven", "num_leaves: must be of type int, not 'seven'"),
        ("num_leaves: 7", "num_leaves: true", "num_leaves: must be of type int, not True"),
        ("num_leaves: 7", "num_leaves: 1", "num_leaves must be 2 or more"),
        ("parts: 20", "parts: 1", "parts must lie between 2 and 50"),
        ("passes: 2", "passes: 2, history: later", "history must be one of earlier, others"),
        ("user_id: user_id\n", "", "passes need user_id and item_id"),
        ("[user_id, genres]", "[user_id]", "must name two features or more"),
        ("[user_id, genres]", "[user_id, genre]", "crosses: no feature 'genre'"),
        ("[user_id, genres]", "[user_id, year]", "crosses must differ"),
        (", bands: [10, 20, 30, 40, 50, 60, 70]", "", "crosses: age is a number, give it bands"),
        ("[10, 20, 30,", "[20, 10, 30,", "bands must ascend"),
        ("[10, 20, 30,", "[-.inf, 20, 30,", "age: bands[0]: must be a finite number, not -inf"),
        ("early_stopping_round: 50", "early_stopping_round: -1", "early_stopping_round must be 0 or more"),
        ("limits:", "validation_share: 0.95\nlimits:", "a tenth of the rows must be left"),
        ("malformed_share: 0.01", "malformed_share: 2", "a share lies between 0 and 1"),
        ("age: {type: integer", "age: {type: decimal", "age: type must be one of integer, number, string, strings"),
        ("gender: {type: string, side: user", "gender: {type: string, side: shop", "side must be one of"),
        (', separator: " "', "", "separator goes with type strings"),
        ("age: {type", "day: {type", "this name is taken"),
        ("age: {type", "a b: {type", "letters, digits"),
        ("item_id: item_id\n", "item_id: genres\n", "item_id must be a feature of type string"),
        ("unused: [hour, weekday]", "unused: [hour, minute]", "unused: no feature 'minute'"),
        ("unused: [hour, weekday]", "unused: [user_id]", "unused: user_id is what users or items are known by"),
        ("{feature: gender}", "{feature: sex}", "no feature 'sex'"),
        ("at_least: 4, scale: [1, 5]", "scale: [1, 5]", "label: scale goes with at_least"),
        ("scale: [1, 5]", "scale: [5, 1]", "scale must be [lowest, highest], with at_least in between"),
        ("scale: [1, 5]", "scale: [1]", "scale must be [lowest, highest], with at_least in between"),
        ("time: {column: timestamp}", "time: {}", "give either column or chunks"),
        ("{column: timestamp}", "{column: timestamp, earliest: 1990}", "earliest: must be of type date, not 1990"),
        (
            "{column: timestamp}",
            "{column: timestamp, earliest: 2020-01-02, latest: 2020-01-01}",
            "latest must not lie before",
        ),
        ("{column: timestamp}", "{chunks: 7, latest: 2020-01-01}", "earliest and latest go with column"),
        ("users: {files: [ml-100k.user], key: user_id}", "users: {files: [ml-100k.user]}", "users: key is missing"),
        ("users: {files: [ml-100k.user]", "users: {files: ml-100k.user", "files: must be a list"),
        ("name: movielens", "name: [", "not YAML"),
        (
            "  gender: {type",
            "  stars: {type: number, side: context, column: rating}\n  gender: {type",
            "feature 'stars': it is read from rating, the label's column",
        ),
        (
            "  gender: {type",
            "  rating: {type: number, side: context}\n  gender: {type",
            "feature 'rating': it is read from rating, the label's column",
        ),
    ],
)
def test_what_is_wrong_in_a_spec_is_named(written: str, instead: str, complaint: str) -> None:
    assert written in MOVIELENS
    with pytest.raises(WorkloadError, match=r"shop\.yaml") as fault:
        spec.parse(MOVIELENS.replace(written, instead), "shop.yaml")
    assert complaint in str(fault.value)


def test_a_column_of_another_file_may_be_called_as_the_labels() -> None:
    """A film's own rating is known before the click."""
    text = MOVIELENS.replace("  gender: {type", "  stars: {type: number, side: item, column: rating}\n  gender: {type")
    assert "stars" in spec.parse(text, "shop.yaml").features


@pytest.mark.parametrize("name", ["id", "label", "outcome", "user", "items", "rows", "top", "day", "probability"])
@pytest.mark.parametrize("side", ["user", "item", "context"])
def test_a_name_that_the_scoring_contract_refuses_is_refused_by_the_spec(name: str, side: str) -> None:
    feature = f"{name}: {{type: string, side: {side}, column: c}}"
    text, refusal, known = MOVIELENS.replace("  gender: {type", f"  {feature}\n  gender: {{type"), "", {name}
    try:
        contract = json.dumps(artefact.contract(spec.parse(text, "shop.yaml"))).encode()
        known = {feature.name for feature in read_contract(contract).features}
    except WorkloadError as error:
        refusal = str(error)
    assert refusal.startswith(f"shop.yaml: feature '{name}': ") or not refusal
    assert name in known
    assert refusal or (name, side) != ("id", "item")


ASKED_AT = "asked_at: {type: integer, side: context, of_time: hour}"


@pytest.mark.parametrize(
    ("written", "instead", "complaint"),
    [
        ("of_time: hour", "of_time: month", "asked_at: of_time must be one of hour, weekday, not 'month'"),
        ("integer, side: context", "integer, side: user", "needs type integer and side context, not integer and user"),
        ("integer, side: context", "string, side: context", "and side context, not string and context"),
        ("of_time: hour", "of_time: hour, column: h", "of_time is computed and column is read: give one of them"),
        (
            "time: {column: timestamp}",
            "time: {chunks: 7}",
            "feature 'asked_at': of_time needs time: column; rows in the order of a file have no hour",
        ),
    ],
)
def test_what_is_computed_of_the_time_is_context_and_needs_a_time(written: str, instead: str, complaint: str) -> None:
    text = re.sub(r"  (hour|weekday): .*\n|unused: .*\n", "", MOVIELENS)
    text = text.replace("features:\n", f"features:\n  {ASKED_AT}\n")
    dataset = spec.parse(text, "shop.yaml")
    assert dataset.context == dataset.of_time == ["asked_at"]
    assert dataset.features["asked_at"].span == (0, 23)
    assert text.count(written) == 1
    with pytest.raises(WorkloadError, match=r"shop\.yaml") as fault:
        spec.parse(text.replace(written, instead), "shop.yaml")
    assert complaint in str(fault.value)


def test_what_is_unused_is_left_out_with_its_crosses_and_slices_until_its_line_is_gone() -> None:
    line = "unused: [hour, weekday]\n"
    assert line in MOVIELENS
    shipped, used = spec.load("movielens"), spec.parse(MOVIELENS.replace(line, ""), "shop.yaml")
    assert (shipped.context, used.context) == ([], ["hour", "weekday"])
    assert [name for name in used.features if name not in shipped.features] == used.context
    less = spec.parse(MOVIELENS.replace(line, "unused: [gender, hour, weekday]\n"), "shop.yaml")
    assert "gender" not in {*less.features, *(part.feature for part in less.slices)}
    assert [cross for cross in shipped.crosses if "gender" not in cross] == list(less.crosses)


def test_a_spec_under_another_name_than_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "text", lambda _: MOVIELENS)
    with pytest.raises(WorkloadError, match=r"criteo\.yaml: name is 'movielens', and the file's is 'criteo'"):
        spec.load("criteo")


@pytest.mark.parametrize("entry_point", [prepare.main, train.main])
def test_an_unknown_dataset_ends_with_the_names_there_are(entry_point: object, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ["--raw", "r", "--features", "f"] if entry_point is prepare.main else ["--features", "f"]
    more = [] if entry_point is prepare.main else ["--artefact", "a", "--run-id", "1"]
    monkeypatch.setattr(sys, "argv", ["task", "--dataset", "netflix", *folders, *more])
    with pytest.raises(SystemExit) as end:
        entry_point()  # type: ignore[operator]
    assert end.value.code == f"error: no dataset 'netflix'; there are: {', '.join(spec.names())}"
