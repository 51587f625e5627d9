"""Item-kNN against values worked out by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

# x and y share users a and b, y and z share user c; w is chosen by nobody else.
ROWS = [
    *(("a", "x", 0, 0), ("a", "y", 1, 1)),
    *(("b", "x", 0, 0), ("b", "y", 1, 1)),
    *(("c", "z", 0, 0), ("c", "y", 1, 1)),
    ("d", "w", 0, 0),
]
PLAIN = {"shrinkage": 0.0, "decay": 0.5, "balance": 0.5, "prior": 0.0}


@pytest.fixture
def data():
    interactions = pl.DataFrame(ROWS, schema=dict(INTERACTIONS), orient="row")
    return TrainingData(interactions, empty(ITEMS), empty(CANDIDATES), frozenset("abcd"))


def scores(model, data, user, position, *items):
    candidates = pl.DataFrame({"user_id": user, "position": position, "item_id": list(items)})
    return model.score(candidates, data.interactions)["score"].to_list()


def test_likeness_is_the_cosine_of_columns(data):
    model = ItemKnn(**PLAIN).fit(data)
    found = scores(model, data, "a", 1, "y", "z", "x", "w")
    assert found == pytest.approx([2 / np.sqrt(2 * 3), 0.0, 0.0, 0.0])


def test_earlier_items_of_a_history_weigh_less(data):
    model = ItemKnn(**PLAIN).fit(data)
    # History of c: z then y. x is like y alone; y is like z, one step back.
    assert scores(model, data, "c", 2, "x", "y") == pytest.approx(
        [2 / np.sqrt(6), 0.5 / np.sqrt(3)]
    )
    short = ItemKnn(**PLAIN, n_last=1).fit(data)
    assert scores(short, data, "c", 2, "y") == [0.0]


def test_shrinkage_takes_more_from_what_few_users_share(data):
    model = ItemKnn(**{**PLAIN, "shrinkage": 1.0}).fit(data)
    assert scores(model, data, "a", 1, "y") == pytest.approx([2 / (np.sqrt(6) + 1)])


def test_only_the_nearest_neighbours_stay(data):
    model = ItemKnn(**PLAIN, n_neighbours=1).fit(data)
    assert scores(model, data, "b", 2, "x", "z") == pytest.approx([2 / np.sqrt(6), 0.0])


def test_the_prior_orders_what_resembles_nothing(data):
    model = ItemKnn(**{**PLAIN, "prior": 0.7}).fit(data)
    assert scores(model, data, "nobody", 0, "y", "w", "strange") == pytest.approx([0.3, 0.1, 0.0])


def test_the_catalog_in_one_piece_has_the_same_scores(data):
    model = ItemKnn().fit(data)
    users = pl.DataFrame({"user_id": ["a", "c"], "position": [1, 2]})
    ((chunk, whole),) = model.score_catalog(users, data.interactions)
    assert chunk.equals(users)
    assert whole.dtype == np.float32
    assert whole[1].tolist() == pytest.approx(scores(model, data, "c", 2, *model.catalog))


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_neighbours", 0), ("n_last", 0), ("decay", 0.0), ("decay", 1.1), ("balance", -0.1),
     ("shrinkage", -1.0), ("prior", float("nan"))],
)  # fmt: skip
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(SettingsError, match=rf"{name} must .*, it is {value}"):
        ItemKnn(**{name: value})


def test_an_empty_world_is_served():
    nothing = TrainingData(empty(INTERACTIONS), empty(ITEMS), empty(CANDIDATES), frozenset())
    assert scores(ItemKnn().fit(nothing), nothing, "a", 0, "x") == [0.0]


def test_damage_and_missing_fits_are_told(data, tmp_path):
    with pytest.raises(TrainingError, match="a fitted item_knn model"):
        ItemKnn().save(tmp_path)
    ItemKnn().fit(data).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DamagedFileError, match="fit the baseline again"):
        ItemKnn.load(tmp_path)
