"""Contract of datasets, tested for every dataset in the registry.

These tests fail for a new file in `datasets/` until `FIXTURES` has a function for it. `GENERATED`
lists datasets that read no files, and `WITHOUT_TITLES` those without titles of items.
"""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from mllm_msr import registry
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Dataset, RawData
from mllm_msr.prompts.item_types import ITEM_TYPES
from mllm_msr.tables import ITEMS

# Items of each user in chronological order. Item "9" is not in the tables of items.
HISTORIES = {"1": "352", "2": "1529", "3": "42"}
TITLES = {item: f'Item "{item}", ü' for item in "12345"}


def _quoted(title: str) -> str:
    return '"' + title.replace('"', '""') + '"'


def _pairs() -> list[tuple[str, str, int]]:
    """Return interactions whose rows are not in chronological order."""
    rows = [
        (user, item, 1_500_000_000 + 60 * position + int(user))
        for user, items in HISTORIES.items()
        for position, item in enumerate(items)
    ]
    return sorted(rows, key=lambda row: (row[2] % 7, row[2]))


def _write_titles(path: Path, header: str) -> None:
    rows = [f"{item},{_quoted(title)}" for item, title in TITLES.items()]
    path.write_text("\n".join([header, *rows]) + "\n")


def _microlens(folder: Path) -> dict[str, object]:
    lines = [f"{user}\t{' '.join(items)}" for user, items in HISTORIES.items()]
    (folder / "Mini_pairs.tsv").write_text("\n".join(lines) + "\n")
    _write_titles(folder / "Mini_titles.csv", "item,title")
    return {}


def _movielens(folder: Path) -> dict[str, object]:
    rows = [f"{user},{item},4.0,{time}" for user, item, time in _pairs()]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    _write_titles(folder / "movies.csv", "movieId,title")
    return {}


def _amazon_reviews(folder: Path) -> dict[str, object]:
    reviews = [
        {"user_id": user, "parent_asin": item, "rating": 4.0, "timestamp": 1000 * time}
        for user, item, time in _pairs()
    ]
    products = [{"parent_asin": item, "title": title} for item, title in TITLES.items()]
    for name, rows in (("Baby.jsonl", reviews), ("meta_Baby.jsonl", products)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {}


def _files(folder: Path) -> dict[str, object]:
    rows = [f"{user},{item},{time}" for user, item, time in _pairs()]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    _write_titles(folder / "items.csv", "item_id,title")
    return {}


def _demo(folder: Path) -> dict[str, object]:
    return {"n_items": 30, "n_users": 8, "cover_size": 32}


FIXTURES: dict[str, Callable[[Path], dict[str, object]]] = {
    "amazon_reviews": _amazon_reviews,
    "demo": _demo,
    "files": _files,
    "microlens": _microlens,
    "movielens": _movielens,
}
# Datasets that read no files.
GENERATED = {"demo"}
# Datasets whose source has no table of items, such as a log of interactions.
WITHOUT_TITLES: set[str] = set()
NAMES = registry.names("datasets")
READ = [name for name in NAMES if name not in GENERATED]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    if param not in FIXTURES:
        pytest.fail(
            f"The dataset {param!r} has no fixture. Add a function to FIXTURES that writes a "
            "small dataset of this kind into a folder, so that the contract is tested for it."
        )
    return param


@pytest.fixture
def data_set(name: str, tmp_path: Path) -> Dataset:
    settings = FIXTURES[name](tmp_path)
    folder = "covers" if name in GENERATED else "path"
    loaded = registry.find("datasets", name)(**{folder: tmp_path}, **settings)
    assert isinstance(loaded, Dataset)
    return loaded


@pytest.fixture
def raw(data_set: Dataset) -> RawData:
    return data_set.load()


def test_constructor_takes_typed_keywords(name: str) -> None:
    parameters = inspect.signature(registry.find("datasets", name)).parameters
    # A folder with files is never taken for one that generated data are written to.
    assert ("path" in parameters) is (name not in GENERATED)
    for parameter in parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def test_classes_are_final_and_documented(name: str) -> None:
    found = registry.find("datasets", name)
    assert getattr(found, "__final__", False)
    assert "Args:" in (inspect.getdoc(found) or "")


def test_interactions_have_their_columns_and_no_nulls(raw: RawData) -> None:
    frame = raw.interactions.collect()
    assert frame.columns == ["user_id", "item_id", "timestamp"]
    assert frame.schema["user_id"] == frame.schema["item_id"] == pl.String
    assert frame.schema["timestamp"].is_integer()
    assert sum(frame.null_count().row(0)) == 0
    assert frame.height


def test_items_are_unique_and_complete(raw: RawData) -> None:
    assert dict(raw.items.schema) == dict(ITEMS)
    assert raw.items["item_id"].is_unique().all()
    assert raw.items.select("item_id", "title", "text").null_count().row(0) == (0, 0, 0)


def test_the_item_type_is_supported_by_the_prompts(raw: RawData) -> None:
    assert raw.item_type in ITEM_TYPES
    assert raw.ordered_by in {"time", "rank"}


def test_loading_is_deterministic(data_set: Dataset) -> None:
    first, second = data_set.load(), data_set.load()
    assert first.interactions.collect().equals(second.interactions.collect())
    assert first.items.equals(second.items)


def test_histories_are_chronological_and_all_items_have_a_row(name: str, raw: RawData) -> None:
    interactions, _ = prepare_interactions(
        raw.interactions, min_user_interactions=1, min_item_interactions=1
    )
    items, counts = match_items(interactions, raw.items)
    assert set(interactions["item_id"]) == set(items["item_id"])
    if name in GENERATED:
        assert counts["items_unknown"] == 0
        return
    found = interactions.group_by("user_id", maintain_order=True).agg("item_id").rows()
    assert {user: "".join(ids) for user, ids in found} == HISTORIES
    known = {} if name in WITHOUT_TITLES else TITLES
    unknown = dict.fromkeys(set("".join(HISTORIES.values())) - set(known), "")
    assert dict(items.select("item_id", "title").rows()) == known | unknown
    assert counts["items_unknown"] == len(unknown)


@pytest.mark.parametrize("read", READ)
def test_an_empty_folder_is_an_error(read: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file with .*\. It is empty\. Copy the file"):
        registry.find("datasets", read)(path=tmp_path).load()


@pytest.mark.parametrize("read", READ)
def test_a_missing_folder_is_an_error(read: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*absent does not exist\. Set data\.path"):
        registry.find("datasets", read)(path=tmp_path / "absent").load()


@pytest.mark.parametrize("name", READ, indirect=True)
def test_errors_in_new_interactions_name_no_settings(data_set: Dataset, raw: RawData) -> None:
    # The settings of a run cannot be changed.
    path = raw.sources[0].path
    with path.open("a") as file:
        file.write("\nx\n")
    with pytest.raises(DataError) as error:
        data_set.read_interactions(path)
    assert path.name in str(error.value)
    assert not re.search(r"\bdata\.\w", str(error.value))
