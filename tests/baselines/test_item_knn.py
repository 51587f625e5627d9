"""Item-kNN against values computed by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

# x and y share users a and b, y and z share user c; w shares its user with no other item.
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


def test_similarity_is_the_cosine_of_columns(data):
    model = ItemKnn(**PLAIN).fit(data)
    found = scores(model, data, "a", 1, "y", "z", "x", "w")
    assert found == pytest.approx([2 / np.sqrt(2 * 3), 0.0, 0.0, 0.0])


def test_older_items_of_a_history_have_lower_weight(data):
    model = ItemKnn(**PLAIN).fit(data)
    # History of c: z then y. x is similar to y only; y is similar to z, one step back.
    assert scores(model, data, "c", 2, "x", "y") == pytest.approx(
        [2 / np.sqrt(6), 0.5 / np.sqrt(3)]
    )
    short = ItemKnn(**PLAIN, n_last=1).fit(data)
    assert scores(short, data, "c", 2, "y") == [0.0]


def test_shrinkage_lowers_similarity_by_few_common_users(data):
    model = ItemKnn(**{**PLAIN, "shrinkage": 1.0}).fit(data)
    assert scores(model, data, "a", 1, "y") == pytest.approx([2 / (np.sqrt(6) + 1)])


def test_only_the_most_similar_items_are_kept(data):
    model = ItemKnn(**PLAIN, n_neighbors=1).fit(data)
    assert scores(model, data, "b", 2, "x", "z") == pytest.approx([2 / np.sqrt(6), 0.0])


def test_the_prior_ranks_items_without_similarity(data):
    model = ItemKnn(**{**PLAIN, "prior": 0.7}).fit(data)
    assert scores(model, data, "unknown", 0, "y", "w", "strange") == pytest.approx([0.3, 0.1, 0.0])


def test_catalog_scores_equal_candidate_scores(data):
    model = ItemKnn().fit(data)
    users = pl.DataFrame({"user_id": ["a", "c"], "position": [1, 2]})
    ((chunk, whole),) = model.score_catalog(users, data.interactions)
    assert chunk.equals(users)
    assert whole.dtype == np.float32
    assert whole[1].tolist() == pytest.approx(scores(model, data, "c", 2, *model.catalog))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_neighbors", 0),
        ("n_last", 0),
        ("decay", 0.0),
        ("decay", 1.1),
        ("balance", -0.1),
        ("shrinkage", -1.0),
        ("prior", float("nan")),
    ],
)
def test_settings_out_of_range_are_rejected(name, value):
    with pytest.raises(SettingsError, match=rf"{name} must .*, but is {value}"):
        ItemKnn(**{name: value})


def test_empty_data_gives_zero_scores():
    nothing = TrainingData(empty(INTERACTIONS), empty(ITEMS), empty(CANDIDATES), frozenset())
    assert scores(ItemKnn().fit(nothing), nothing, "a", 0, "x") == [0.0]


def test_unfitted_and_damaged_models_are_rejected(data, tmp_path):
    with pytest.raises(TrainingError, match="'item_knn' is not fitted"):
        ItemKnn().save(tmp_path)
    ItemKnn().fit(data).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DamagedFileError, match="Cannot load the fitted baseline"):
        ItemKnn.load(tmp_path)
