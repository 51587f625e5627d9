"""Hybrid: its parts' scores joined, whatever they can do by themselves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.hybrid import Hybrid
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError, UnknownNameError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS

PARTS = ("item_knn", "popularity")
N_USERS, N_ITEMS, N_STEPS = 40, 16, 6


@pytest.fixture(scope="module")
def data():
    """Users of two tastes; half of them are validation users whose last item is hidden."""
    rng = np.random.default_rng(0)
    rows, lists = [], []
    for user in range(N_USERS):
        own = [f"i{at}" for at in range(N_ITEMS) if at % 2 == user % 2]
        chosen = rng.choice(own, N_STEPS, replace=False)
        hidden = user >= N_USERS // 2
        rows += [(f"u{user}", item, at, at) for at, item in enumerate(chosen[: N_STEPS - hidden])]
        if hidden:
            others = [f"i{at}" for at in range(N_ITEMS) if at % 2 != user % 2]
            listed = [(chosen[-1], 1), *((other, 0) for other in others[:4])]
            lists += [
                (0, "validation", "uniform", f"u{user}", N_STEPS - 1, item, label)
                for item, label in listed
            ]
    items = [(f"i{at}", f"film {at}", "", None) for at in range(N_ITEMS)]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=pl.DataFrame(lists, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(f"u{user}" for user in range(N_USERS // 2)),
    )


def test_validation_users_choose_the_part_that_knows(data):
    model = Hybrid(parts=PARTS).fit(data)
    assert model.blend is not None
    assert model.blend.likelihoods["item_knn"] > model.blend.likelihoods["popularity"]
    assert model.blend.chosen in {"item_knn", "combined"}


def test_without_validation_users_the_parts_count_alike(data):
    blind = TrainingData(
        data.interactions,
        data.items,
        data.candidates.with_columns(split=pl.lit("train")),
        data.train_users,
    )
    model = Hybrid(parts=PARTS).fit(blind)
    assert model.blend is not None
    assert model.blend.chosen == "equal"
    assert model.blend.weights == ((0.0, 1.0), (0.0, 1.0))


def test_the_catalogue_in_one_piece_has_the_same_scores(data):
    model = Hybrid(parts=(*PARTS, "content_knn")).fit(data)
    users = pl.DataFrame({"user_id": ["u30", "nobody"], "position": [5, 0]})
    ((chunk, whole),) = model.score_catalogue(users, data.interactions)
    assert chunk.equals(users)
    items = pl.DataFrame({"item_id": model.catalogue})
    crossed = users.join(items, how="cross")
    apart = model.score(crossed, data.interactions)["score"].to_numpy().reshape(2, -1)
    assert np.allclose(whole, apart, atol=1e-5)


def test_settings_reach_the_parts(data):
    model = Hybrid(parts=PARTS, settings={"item_knn": {"prior": 0.25}})
    assert model.fit(data)._models["item_knn"]._settings["prior"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("item_knn",)}, r"parts must be two or more distinct names, they are"),
        ({"parts": ("item_knn", "item_knn")}, r"two or more distinct names"),
        ({"parts": ("item_knn", "hybrid")}, r"hybrid is among them"),
        ({"parts": PARTS, "settings": {"sasrec": {}}}, r"settings must belong to parts, sasrec"),
    ],
)
def test_impossible_parts_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        Hybrid(**arguments)


def test_unknown_parts_are_refused():
    with pytest.raises(UnknownNameError, match="item_knn"):
        Hybrid(parts=("item_knn", "item_knm"))


def test_damage_and_missing_fits_are_told(data, tmp_path):
    with pytest.raises(TrainingError, match="a fitted hybrid model"):
        Hybrid(parts=PARTS).save(tmp_path)
    Hybrid(parts=PARTS).fit(data).save(tmp_path)
    (tmp_path / "hybrid.json").write_text("{}")
    with pytest.raises(DamagedFileError, match="a fitted model in"):
        Hybrid.load(tmp_path)
