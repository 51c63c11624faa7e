"""Dataset specs: all shipped specs are valid, and errors in a spec are named."""

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
def test_every_shipped_spec_is_valid(name: str) -> None:
    dataset = spec.load(name)
    assert dataset.name == name
    assert dataset.terms
    assert len(dataset.model_columns) == len(dataset.features) + len(dataset.categoricals) + 2 * len(dataset.crosses)


def test_criteo_has_forty_columns_and_no_tables_to_join() -> None:
    dataset = spec.load("criteo")
    assert len(dataset.interactions.columns) == 40
    assert list(dataset.features) == list(dataset.interactions.columns[1:])
    assert (dataset.users, dataset.items, dataset.item_id) == (None, None, None)


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("name: movielens", "nome: movielens", "unknown key 'nome'"),
        ("title: MovieLens 100K", "", "title is missing"),
        ("learning_rate: 0.05", "learning_rte: 0.05", "model: unknown key 'learning_rte'"),
        ("num_leaves: 7", "num_leaves: seven", "num_leaves: must be of type int, not 'seven'"),
        ("num_leaves: 7", "num_leaves: true", "num_leaves: must be of type int, not True"),
        ("num_leaves: 7", "num_leaves: 1", "num_leaves must be 2 or more"),
        ("parts: 20", "parts: 1", "parts must be between 2 and 50"),
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
        ("malformed_share: 0.01", "malformed_share: 2", "a share must be between 0 and 1"),
        ("age: {type: integer", "age: {type: decimal", "age: type must be one of integer, number, string, strings"),
        ("gender: {type: string, side: user", "gender: {type: string, side: shop", "side must be one of"),
        (', separator: " "', "", "separator goes with type strings"),
        ("age: {type", "day: {type", "this name is taken"),
        ("age: {type", "a b: {type", "letters, digits"),
        ("item_id: item_id\n", "item_id: genres\n", "item_id must be a feature of type string"),
        ("unused: [hour, weekday]", "unused: [hour, minute]", "unused: no feature 'minute'"),
        ("unused: [hour, weekday]", "unused: [user_id]", "unused: user_id identifies users or items"),
        ("{feature: gender}", "{feature: sex}", "no feature 'sex'"),
        ("at_least: 4, scale: [1, 5]", "scale: [1, 5]", "label: scale goes with at_least"),
        ("scale: [1, 5]", "scale: [5, 1]", "scale must be [lowest, highest], with at_least in between"),
        ("scale: [1, 5]", "scale: [1]", "scale must be [lowest, highest], with at_least in between"),
        ("time: {column: timestamp}", "time: {}", "give either column or chunks"),
        ("{column: timestamp}", "{column: timestamp, earliest: 1990}", "earliest: must be of type date, not 1990"),
        (
            "{column: timestamp}",
            "{column: timestamp, earliest: 2020-01-02, latest: 2020-01-01}",
            "latest must not be before",
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
def test_errors_in_a_spec_are_named(written: str, instead: str, message: str) -> None:
    assert written in MOVIELENS
    with pytest.raises(WorkloadError, match=r"shop\.yaml") as fault:
        spec.parse(MOVIELENS.replace(written, instead), "shop.yaml")
    assert message in str(fault.value)


def test_column_of_another_file_may_have_the_name_of_the_label_column() -> None:
    """A film's own rating is known before the click."""
    text = MOVIELENS.replace("  gender: {type", "  stars: {type: number, side: item, column: rating}\n  gender: {type")
    assert "stars" in spec.parse(text, "shop.yaml").features


@pytest.mark.parametrize("name", ["id", "label", "outcome", "user", "items", "rows", "top", "day", "probability"])
@pytest.mark.parametrize("side", ["user", "item", "context"])
def test_name_that_the_scoring_contract_refuses_is_refused_by_the_spec(name: str, side: str) -> None:
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
    ("written", "instead", "message"),
    [
        ("of_time: hour", "of_time: month", "asked_at: of_time must be one of hour, weekday, not 'month'"),
        ("integer, side: context", "integer, side: user", "needs type integer and side context, not integer and user"),
        ("integer, side: context", "string, side: context", "and side context, not string and context"),
        ("of_time: hour", "of_time: hour, column: h", "of_time is computed and column is read: give one of them"),
        (
            "time: {column: timestamp}",
            "time: {chunks: 7}",
            "feature 'asked_at': of_time needs time: column; rows ordered by file have no hour",
        ),
    ],
)
def test_time_feature_is_context_and_needs_a_time_column(written: str, instead: str, message: str) -> None:
    text = re.sub(r"  (hour|weekday): .*\n|unused: .*\n", "", MOVIELENS)
    text = text.replace("features:\n", f"features:\n  {ASKED_AT}\n")
    dataset = spec.parse(text, "shop.yaml")
    assert dataset.context == dataset.of_time == ["asked_at"]
    assert dataset.features["asked_at"].span == (0, 23)
    assert text.count(written) == 1
    with pytest.raises(WorkloadError, match=r"shop\.yaml") as fault:
        spec.parse(text.replace(written, instead), "shop.yaml")
    assert message in str(fault.value)


def test_unused_features_are_left_out_with_their_crosses_and_slices() -> None:
    line = "unused: [hour, weekday]\n"
    assert line in MOVIELENS
    shipped, used = spec.load("movielens"), spec.parse(MOVIELENS.replace(line, ""), "shop.yaml")
    assert (shipped.context, used.context) == ([], ["hour", "weekday"])
    assert [name for name in used.features if name not in shipped.features] == used.context
    less = spec.parse(MOVIELENS.replace(line, "unused: [gender, hour, weekday]\n"), "shop.yaml")
    assert "gender" not in {*less.features, *(part.feature for part in less.slices)}
    assert [cross for cross in shipped.crosses if "gender" not in cross] == list(less.crosses)


def test_spec_whose_name_differs_from_its_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "text", lambda _: MOVIELENS)
    with pytest.raises(WorkloadError, match=r"criteo\.yaml: name is 'movielens', but the file is called 'criteo'"):
        spec.load("criteo")


@pytest.mark.parametrize("entry_point", [prepare.main, train.main])
def test_unknown_dataset_is_refused_with_known_names(entry_point: object, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ["--raw", "r", "--features", "f"] if entry_point is prepare.main else ["--features", "f"]
    more = [] if entry_point is prepare.main else ["--artefact", "a", "--run-id", "1"]
    monkeypatch.setattr(sys, "argv", ["task", "--dataset", "netflix", *folders, *more])
    with pytest.raises(SystemExit) as end:
        entry_point()  # type: ignore[operator]
    assert end.value.code == f"error: no dataset 'netflix'; there are: {', '.join(spec.names())}"
