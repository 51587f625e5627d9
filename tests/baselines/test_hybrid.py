"""Hybrid: its parts' scores joined, whatever they can do by themselves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._factory import Places
from mllm_msr.baselines.hybrid import Hybrid
from mllm_msr.errors import (
    DamagedFileError,
    DataError,
    SettingsError,
    TrainingError,
    UnknownNameError,
)
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


def test_the_catalog_in_one_piece_has_the_same_scores(data):
    model = Hybrid(parts=(*PARTS, "content_knn")).fit(data)
    users = pl.DataFrame({"user_id": ["u30", "nobody"], "position": [5, 0]})
    ((chunk, whole),) = model.score_catalog(users, data.interactions)
    assert chunk.equals(users)
    items = pl.DataFrame({"item_id": model.catalog})
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


def halves(*, told_knows: bool):
    """Even users keep to their taste, which neighbours tell; odd ones choose at random.

    Returns:
        The training data, test candidates, and scores of a model that knows the odd users'
        choices, or nobody's.
    """
    rng = np.random.default_rng(1)
    rows, lists = [], []
    for user in range(240):
        tastes = [[at for at in range(24) if at % 3 == user % 3], range(24)]
        chosen = rng.choice(tastes[user % 2], 6, replace=False)
        split = ("train", "validation", "test")[user // 6 % 3]
        visible = chosen if split == "train" else chosen[:-1]
        rows += [(f"u{user}", f"i{item}", at, at) for at, item in enumerate(visible)]
        others = rng.choice(np.setdiff1d(range(24), chosen), 8, replace=False)
        lists += [
            (0, split, "uniform", f"u{user}", 5, f"i{item}", int(item == chosen[-1]))
            for item in [chosen[-1], *others]
        ]
    items = [(f"i{at}", f"film {at}", "", None) for at in range(24)]
    candidates = pl.DataFrame(lists, schema=dict(CANDIDATES), orient="row")
    odd = pl.col("user_id").str.slice(1).cast(pl.Int64) % 2 == 1
    known = odd & (pl.col("label") == 1) & told_knows
    noise = pl.Series(rng.normal(size=candidates.height))
    told = candidates.with_columns(score=4.0 * known.cast(pl.Float64) + noise)
    data = TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=candidates.filter(pl.col("split") != "test"),
        train_users=frozenset(candidates.filter(pl.col("split") == "train")["user_id"]),
    )
    asked = candidates.filter(pl.col("split") == "test")
    return data, asked, told.filter(pl.col("split") != "train").drop("label")


def auc(scored):
    positive = pl.col("score").filter(pl.col("label") == 1).first()
    wins = (positive > pl.col("score").filter(pl.col("label") == 0)).mean()
    return scored.group_by("user_id").agg(wins.alias("auc"))["auc"].mean()


def test_what_neighbours_and_a_joined_model_know_adds_up():
    data, asked, told = halves(told_knows=True)
    parts = [
        auc(Hybrid(parts=PARTS).fit(data).score(asked, data.interactions)),
        auc(asked.join(told, on=["user_id", "item_id"])),
    ]
    model = Hybrid(parts=PARTS).join({"mllm": told}).fit(data)
    joint = auc(model.score(asked, data.interactions))
    assert min(parts) > 0.6
    assert joint > max(parts) + 0.05
    assert model.blend is not None
    assert model.blend.chosen == "combined"


def test_a_joined_model_that_knows_nothing_does_no_harm():
    data, asked, told = halves(told_knows=False)
    alone = auc(Hybrid(parts=PARTS).fit(data).score(asked, data.interactions))
    joint = Hybrid(parts=PARTS).join({"mllm": told}).fit(data).score(asked, data.interactions)
    assert auc(asked.join(told, on=["user_id", "item_id"])) < 0.55 < alone
    assert auc(joint) > alone - 0.02


def test_what_is_told_of_test_users_teaches_nothing():
    data, asked, told = halves(told_knows=True)
    tested = pl.col("user_id").is_in(asked["user_id"].unique().to_list())
    changed = told.with_columns(score=pl.when(tested).then(0.0).otherwise("score"))
    blends = [Hybrid(parts=PARTS).join({"mllm": each}).fit(data).blend for each in (told, changed)]
    assert blends[0] == blends[1]


def test_joined_models_are_kept(tmp_path):
    data, asked, told = halves(told_knows=True)
    model = Hybrid(parts=PARTS).join({"mllm": told}).fit(data)
    model.save(tmp_path)
    scores = model.score(asked, data.interactions)["score"]
    assert Hybrid.load(tmp_path).score(asked, data.interactions)["score"].equals(scores)
    everything = model.score_catalog(
        pl.DataFrame({"user_id": ["nobody"], "position": [3]}), data.interactions
    )
    with pytest.raises(DataError, match=r"a score of 'mllm' for each of 24 candidates, received"):
        next(everything)


def test_a_joined_model_cannot_have_the_name_of_a_part():
    _, _, told = halves(told_knows=True)
    with pytest.raises(SettingsError, match="parts must be other models, item_knn joins already"):
        Hybrid(parts=PARTS).join({"item_knn": told})


def test_parts_keep_their_things_where_they_are_told(data, tmp_path):
    places = Places(content=tmp_path / "content", states=tmp_path / "states")
    Hybrid(parts=("content_knn", "item_knn"), places=places).fit(data)
    assert len([*places.content.iterdir()]) == 2


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
