"""Contract of recommenders, tested for every baseline in the registry.

The data are a checkerboard: users and items have one of two colors, and users interact only with
items of their color, with all items about equally often. A model that uses a user's history or
similar users can learn this; a model that only counts cannot. New baselines are tested without
further code. `DECLARED` contains settings that make a baseline fast on this small dataset, and
whether it can learn the checkerboard.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from mllm_msr.errors import DamagedFileError
from mllm_msr.interfaces import CatalogScorer, Recommender, TrainingData
from mllm_msr.registry import find, names
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS

N_USERS, N_ITEMS, N_STEPS, N_TEST = 60, 24, 8, 12


@dataclass(frozen=True)
class Declaration:
    """How the contract is tested for one baseline.

    Attributes:
        learns: Whether the baseline can learn the checkerboard.
        settings: Constructor arguments for the small dataset.
    """

    learns: bool = True
    settings: dict[str, object] = field(default_factory=dict)


DECLARED = {
    "popularity": Declaration(learns=False),
    # Titles are numbers, which do not reveal the color.
    "content_knn": Declaration(learns=False, settings={"image_encoder": "none"}),
    "hybrid": Declaration(settings={"members": ("item_knn", "transitions")}),
    "llava_zero_shot": Declaration(learns=False, settings={"backend": "mock"}),
    # Two training steps are enough to compare two runs with the same seed.
    "tallrec": Declaration(
        learns=False,
        settings={
            "n_last": 1,
            "max_examples": 8,
            "batch_size": 4,
            "accumulate": 1,
            "max_steps": 2,
            "precision": "fp32",
        },
    ),
    "sasrec": Declaration(
        settings={"hidden": 16, "epochs": 30, "batch_size": 16, "learning_rate": 0.01}
    ),
    "gru4rec": Declaration(
        settings={
            "embedding": 16,
            "hidden": 32,
            "epochs": 30,
            "batch_size": 16,
            "learning_rate": 0.01,
        }
    ),
    "sasrec_f": Declaration(
        settings={
            "image_encoder": "none",
            "hidden": 16,
            "epochs": 30,
            "batch_size": 16,
            "learning_rate": 0.01,
        }
    ),
    "student": Declaration(
        settings={
            "image_encoder": "none",
            "hidden": 16,
            "epochs": 30,
            "batch_size": 16,
            "learning_rate": 0.01,
        }
    ),
    "gru4rec_f": Declaration(
        settings={
            "image_encoder": "none",
            "embedding": 16,
            "hidden": 32,
            "epochs": 30,
            "batch_size": 16,
            "learning_rate": 0.01,
        }
    ),
    "mgat": Declaration(
        settings={"width": 16, "epochs": 20, "learning_rate": 0.02, "image_encoder": "none"}
    ),
    "mmgcn": Declaration(
        settings={"width": 16, "epochs": 20, "learning_rate": 0.02, "image_encoder": "none"}
    ),
    "mmsr": Declaration(
        settings={"width": 16, "epochs": 12, "batch_size": 64, "n_clusters": 4, "dropout": 0.0}
    ),
    "trans2d": Declaration(
        settings={
            "width": 16,
            "epochs": 20,
            "batch_size": 128,
            "learning_rate": 0.01,
            "max_length": 3,
            "n_negatives": 4,
            "dropout": 0.0,
            "image_encoder": "none",
        }
    ),
}

pytestmark = pytest.mark.parametrize("name", names("baselines"))


@dataclass(frozen=True)
class World:
    data: TrainingData
    interactions: pl.DataFrame
    candidates: pl.DataFrame


def color(name: str) -> int:
    return int(name[1:]) % 2


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    by_color = [[f"i{at}" for at in range(N_ITEMS) if at % 2 == side] for side in (0, 1)]
    rows = [
        (f"u{user}", item, step, step)
        for user in range(N_USERS)
        for step, item in enumerate(rng.choice(by_color[user % 2], N_STEPS, replace=False))
    ]
    interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    test_users = [f"u{user}" for user in range(N_USERS - N_TEST, N_USERS)]
    is_test = pl.col("user_id").is_in(test_users)
    candidates = pl.concat(
        [
            candidate_rows(interactions.filter(~is_test), "train", rng),
            candidate_rows(interactions.filter(is_test), "test", rng, n_negatives=5),
        ]
    )
    hidden = is_test & (pl.col("position") == N_STEPS - 1)
    items = [(f"i{at}", f"film {at}", "", None) for at in range(N_ITEMS)]
    data = TrainingData(
        interactions=interactions.filter(~hidden),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=candidates.filter(pl.col("split") != "test"),
        train_users=frozenset(f"u{user}" for user in range(N_USERS - N_TEST)),
    )
    return World(data, interactions, candidates.filter(pl.col("split") == "test"))


def candidate_rows(interactions, split, rng, *, n_negatives=1):
    """Return as candidates the last item of each user and items of the other color."""
    rows = []
    for user, item, _, position in interactions.filter(position=N_STEPS - 1).iter_rows():
        others = [f"i{at}" for at in range(N_ITEMS) if at % 2 != color(user)]
        drawn = rng.choice(others, n_negatives, replace=False)
        listed = [(item, 1), *((other, 0) for other in drawn)]
        rows += [(0, split, "uniform", user, position, what, label) for what, label in listed]
    return pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")


def make(name: str) -> Recommender:
    return find("baselines", name)(seed=3, **DECLARED.get(name, Declaration()).settings)


@pytest.fixture(scope="module")
def fitted(world):
    """Return a function that fits each baseline once and returns it."""
    models: dict[str, Recommender] = {}

    def get(name: str) -> Recommender:
        if name not in models:
            models[name] = make(name).fit(world.data)
        return models[name]

    return get


def score(model, world, candidates=None, interactions=None):
    frame = world.candidates if candidates is None else candidates
    return model.score(frame, world.interactions if interactions is None else interactions)


def test_score_keeps_the_order_of_rows_and_all_columns(name, fitted, world):
    given = world.candidates.with_columns(remark=pl.lit("passed through"))
    found = score(fitted(name), world, given)
    assert found.drop("score").equals(given)
    assert found.schema["score"] == pl.Float64
    assert found["score"].is_finite().all()


def test_a_baseline_learns_the_checkerboard_if_declared(name, fitted, world):
    found = score(fitted(name), world)
    per_user = found.group_by("user_id").agg(
        # Among equal scores, the positive is ranked last, so that constant scores fail.
        label=pl.col("label").sort_by("score", "label", descending=[False, True]).last(),
    )
    hits = per_user["label"].mean()
    if DECLARED.get(name, Declaration()).learns:
        assert hits >= 0.9
    else:
        assert hits < 0.6, f"{name} learns the checkerboard. Remove learns=False from DECLARED."


def test_the_same_seed_gives_the_same_scores(name, fitted, world):
    again = make(name).fit(world.data)
    assert score(again, world).equals(score(fitted(name), world))


def test_a_loaded_model_has_the_same_scores(name, fitted, world, tmp_path):
    fitted(name).save(tmp_path / "model")
    loaded = type(fitted(name)).load(tmp_path / "model")
    assert score(loaded, world).equals(score(fitted(name), world))


def test_loading_an_empty_folder_is_an_error(name, tmp_path):
    with pytest.raises(DamagedFileError):
        find("baselines", name).load(tmp_path)


def test_the_constructor_takes_typed_keywords_and_a_seed(name):
    parameters = inspect.signature(find("baselines", name)).parameters
    assert parameters["seed"].default == 0
    for parameter in parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def test_scores_depend_neither_on_order_nor_on_other_candidates(name, fitted, world):
    whole = score(fitted(name), world)
    keys = ["user_id", "item_id"]
    shuffled = world.candidates.sample(fraction=1.0, shuffle=True, seed=5)
    assert np.allclose(
        score(fitted(name), world, shuffled).sort(keys)["score"], whole.sort(keys)["score"],
        atol=1e-6,
    )  # fmt: skip
    alone = score(fitted(name), world, world.candidates[3:4])
    assert np.allclose(alone["score"], whole["score"][3:4], atol=1e-6)


def test_scores_do_not_depend_on_interactions_at_or_after_the_target(name, fitted, world):
    earlier = world.interactions.filter(pl.col("position") < N_STEPS - 1)
    other = pl.when(pl.col("position") >= N_STEPS - 1).then(pl.lit("i0")).otherwise("item_id")
    changed = world.interactions.with_columns(item_id=other)
    with_all = score(fitted(name), world)["score"]
    for history in (earlier, changed):
        found = score(fitted(name), world, interactions=history)["score"]
        assert np.allclose(found, with_all, atol=1e-6)


def test_scores_do_not_depend_on_the_order_of_interactions(name, fitted, world):
    found = score(fitted(name), world, interactions=world.interactions.reverse())
    assert np.allclose(found["score"], score(fitted(name), world)["score"], atol=1e-6)


def test_unknown_users_and_items_get_finite_scores(name, fitted, world):
    unknown = pl.DataFrame(
        {
            "user_id": ["unknown", "unknown", "u50", "u50"],
            "position": pl.Series([0, 0, 7, 7], dtype=pl.Int32),
            "item_id": ["i1", "unknown", "i1", "unknown"],
        }
    )
    found = score(fitted(name), world, unknown)
    assert found["score"].is_finite().all()
    assert score(fitted(name), world, unknown[:0]).height == 0


def test_catalog_scores_equal_candidate_scores(name, fitted, world):
    model = fitted(name)
    if not isinstance(model, CatalogScorer):
        pytest.skip(f"{name} does not implement CatalogScorer")
    users = pl.DataFrame(
        {"user_id": ["u50", "unknown", "u3", "u50"], "position": [7, 2, 0, 3]},
        schema_overrides={"position": pl.Int32},
    )
    assert set(model.catalog) == set(world.data.items["item_id"])
    candidates = users.join(pl.DataFrame({"item_id": model.catalog}), how="cross")
    expected = score(model, world, candidates)["score"].to_numpy().reshape(users.height, -1)
    chunks = [
        (chunk, values.copy()) for chunk, values in model.score_catalog(users, world.interactions)
    ]
    assert pl.concat(chunk.select(users.columns) for chunk, _ in chunks).equals(users)
    assert np.allclose(np.concatenate([values for _, values in chunks]), expected, atol=1e-4)


def test_fit_does_not_change_the_data(name, world):
    before = [world.data.interactions.clone(), world.data.candidates.clone()]
    make(name).fit(world.data)
    assert world.data.interactions.equals(before[0])
    assert world.data.candidates.equals(before[1])


def test_every_baseline_has_a_unique_label(name):
    labels = {each: find("baselines", each).label for each in names("baselines")}
    assert labels[name].strip()
    assert list(labels.values()).count(labels[name]) == 1
    assert isinstance(find("baselines", name).remark, str)
