"""MMGCN: means over neighbours, test users through their histories, cold items by content."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines.mmgcn import MeanAggregation, Mmgcn
from mllm_msr.errors import DamagedFileError, DataError, SettingsError, TrainingError
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

WORDS = ("red apple fruit", "blue steel car")
N_USERS, N_ITEMS, N_STEPS = 20, 12, 5
# Items 10 and 11 are known, but nobody has chosen them.
COLD = ("i10", "i11")


@pytest.fixture(scope="module")
def data():
    """Users of two tastes that the items' titles tell apart."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", step, step)
        for user in range(N_USERS)
        for step, item in enumerate(rng.permutation(np.arange(user % 2, 10, 2))[:N_STEPS])
    ]
    items = [(f"i{at}", f"{WORDS[at % 2]} {at}", "", None) for at in range(N_ITEMS)]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=empty(CANDIDATES),
        train_users=frozenset(f"u{user}" for user in range(N_USERS)),
    )


@pytest.fixture(scope="module")
def fitted(data):
    return make().fit(data)


def make(**settings):
    given = {"width": 16, "epochs": 30, "learning_rate": 0.02, "image_encoder": "none", "seed": 1}
    return Mmgcn(**(given | settings))


def scores(model, data, user, *items, interactions=None):
    rows = pl.DataFrame(
        {"user_id": user, "position": N_STEPS, "item_id": items},
        schema_overrides={"position": pl.Int32},
    )
    known = data.interactions if interactions is None else interactions
    return model.score(rows, known)["score"].to_list()


def test_a_target_gathers_the_mean_of_its_neighbours():
    layer = MeanAggregation(3)
    edges = Edges.between(np.array([0, 1]), np.array([0, 0]), n_sources=2, n_targets=2)
    sources = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    found = layer(edges, torch.zeros(2, 3), sources)
    assert torch.allclose(
        found[0], torch.nn.functional.leaky_relu(layer.send(sources).mean(0)), atol=1e-6
    )
    assert not found[1].any()


def test_cold_items_are_ranked_by_their_content(fitted, data):
    for user in range(4):
        own, other = scores(fitted, data, f"u{user}", *(COLD if user % 2 == 0 else COLD[::-1]))
        assert own > other


def test_a_stranger_is_served_by_his_history(fitted, data):
    for taste in (0, 1):
        history = [("stranger", f"i{taste + 2 * step}", step, step) for step in range(3)]
        frame = pl.DataFrame(history, schema=dict(INTERACTIONS), orient="row")
        own, other = scores(
            fitted, data, "stranger", f"i{8 + taste}", f"i{9 - taste}", interactions=frame
        )
        assert own > other


def test_whole_catalogs_score_like_candidates(fitted, data):
    assert isinstance(fitted, CatalogScorer)
    users = pl.DataFrame({"user_id": ["u0", "stranger"], "position": [N_STEPS, 0]})
    chunks = list(fitted.score_catalog(users, data.interactions))
    assert pl.concat(chunk for chunk, _ in chunks).equals(users)
    found = np.concatenate([values for _, values in chunks])
    assert sorted(fitted.catalog) == sorted(f"i{at}" for at in range(N_ITEMS))
    for row, user in enumerate(users["user_id"]):
        wanted = scores(fitted, data, user, *fitted.catalog)
        if user == "u0":
            assert np.allclose(found[row], wanted, atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_model(data, tmp_path):
    whole = make(epochs=6).fit(data)
    checked = make(epochs=6, checkpoints=tmp_path).fit(data)
    again = make(epochs=6, checkpoints=tmp_path).fit(data)
    wanted = scores(whole, data, "u0", "i1", "i2", "i3")
    assert scores(checked, data, "u0", "i1", "i2", "i3") == wanted
    assert scores(again, data, "u0", "i1", "i2", "i3") == wanted


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_layers": 0}, "n_layers must be at least 1, it is 0"),
        ({"width": 0}, "width must be at least 1, it is 0"),
        ({"n_negatives": -1}, "n_negatives must be at least 1, it is -1"),
        ({"regularisation": -0.5}, "regularisation must not be negative, it is -0.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, it is 0.0"),
    ],
)
def test_bad_settings_are_refused_with_one_sentence(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        make(**settings)


def test_all_problems_come_at_once():
    with pytest.raises(SettingsError, match=r"received 2 with one \(.*epochs.*width"):
        make(width=0, epochs=0)


def test_data_without_a_pair_is_refused(data):
    alone = TrainingData(
        data.interactions.filter(pl.col("position") == 0), data.items, data.candidates, frozenset()
    )
    with pytest.raises(TrainingError, match="at least one user with two interactions"):
        make().fit(alone)


def test_no_content_is_refused(data):
    with pytest.raises(DataError, match="content vectors of at least one modality"):
        make(text_encoder="none").fit(data)


def test_scoring_and_saving_before_fitting_is_refused(data, tmp_path):
    with pytest.raises(TrainingError, match="call fit or load first"):
        scores(make(), data, "u0", "i1")
    with pytest.raises(TrainingError, match="call fit or load first"):
        make().save(tmp_path)


def test_damaged_files_are_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match="fit the baseline again"):
        Mmgcn.load(tmp_path)
    with pytest.raises(DamagedFileError, match="fit the baseline again"):
        Mmgcn.load(tmp_path / "nowhere")
