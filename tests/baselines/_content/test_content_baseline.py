"""The base of the baselines with content, tested with MMGCN: settings, resuming, files."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._content.content_baseline import TrainingContext
from mllm_msr.baselines._training.histories import Histories, ItemCodes
from mllm_msr.baselines._training.validation import ValidationUsers
from mllm_msr.baselines.mmgcn import Mmgcn
from mllm_msr.errors import DamagedFileError, DataError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

N_USERS, N_ITEMS, N_STEPS = 12, 10, 4


@pytest.fixture(scope="module")
def data():
    """Users of two tastes; half of them are validation users."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", step, step)
        for user in range(N_USERS)
        for step, item in enumerate(rng.permutation(np.arange(user % 2, N_ITEMS, 2))[:N_STEPS])
    ]
    items = [(f"i{at}", ("red fruit", "blue car")[at % 2], "", None) for at in range(N_ITEMS)]
    validation = [
        (0, "validation", "uniform", f"u{user}", N_STEPS, f"i{item}", int(item % 2 == user % 2))
        for user in range(N_USERS // 2)
        for item in (8, 9)
    ]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=pl.DataFrame(validation, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(f"u{user}" for user in range(N_USERS)),
    )


def make(**settings):
    defaults = {"width": 8, "epochs": 4, "learning_rate": 0.02, "image_encoder": "none", "seed": 1}
    return Mmgcn(**(defaults | settings))


def scores(model, data, *items):
    candidates = pl.DataFrame({"user_id": "u0", "position": N_STEPS, "item_id": items})
    return model.score(candidates, data.interactions)["score"].to_list()


def test_validation_users_select_the_weights(data, monkeypatch):
    values = iter([0.1, 0.9, 0.2, 0.3])
    monkeypatch.setattr(ValidationUsers, "value", lambda *_: next(values))
    selected = make(epochs=4).fit(data)
    assert selected.training_log is not None
    assert (selected.training_log.best_epoch, selected.training_log.best_value) == (2, 0.9)
    two_epochs = make(epochs=2).fit(
        TrainingData(data.interactions, data.items, empty(CANDIDATES), data.train_users)
    )
    assert scores(selected, data, "i1", "i2") == scores(two_epochs, data, "i1", "i2")


def test_a_resumed_fit_gives_the_same_model(data, tmp_path):
    uninterrupted = make().fit(data)
    saving = make(checkpoints=tmp_path).fit(data)
    resumed = make(checkpoints=tmp_path).fit(data)
    expected = scores(uninterrupted, data, "i1", "i2", "i3")
    assert scores(saving, data, "i1", "i2", "i3") == expected
    assert scores(resumed, data, "i1", "i2", "i3") == expected


def test_all_problems_of_the_settings_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        make(width=0, epochs=0)
    assert caught.value.problems == (
        "epochs must be at least 1, but is 0.",
        "width must be at least 1, but is 0.",
    )


def test_data_without_a_next_item_is_rejected(data):
    first_only = data.interactions.filter(pl.col("position") == 0)
    lonely = TrainingData(first_only, data.items, data.candidates, frozenset())
    with pytest.raises(TrainingError, match="No user has two interactions"):
        make().fit(lonely)


def test_leaving_out_all_content_is_rejected(data):
    with pytest.raises(DataError, match="content vectors of at least one modality"):
        make(text_encoder="none").fit(data)


def test_scoring_and_saving_before_fitting_is_rejected(data, tmp_path):
    with pytest.raises(TrainingError, match=r"'mmgcn' is not fitted\. Call fit or load first"):
        scores(make(), data, "i1")
    with pytest.raises(TrainingError, match="is not fitted"):
        make().save(tmp_path)


def test_a_loaded_model_needs_no_encoder_and_scores_alike(data, tmp_path, monkeypatch):
    model = make().fit(data)
    model.save(tmp_path)
    monkeypatch.setattr("mllm_msr.baselines._content.tensors.content_vectors", None)
    loaded = Mmgcn.load(tmp_path)
    assert scores(loaded, data, "i1", "i2") == scores(model, data, "i1", "i2")


def test_damaged_files_are_rejected(data, tmp_path):
    make().fit(data).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DamagedFileError, match="Cannot load the fitted baseline"):
            Mmgcn.load(folder)


def test_the_digest_depends_on_users_items_and_order():
    def digest(users=("a", "b"), items=(1, 2, 3), ids=("x", "y", "z")):
        histories = Histories(np.array(items), np.array([0, 2, 3]))
        return TrainingContext(ItemCodes(ids), {}, users, histories).digest()

    assert digest() == digest()
    others = [digest(users=("a", "c")), digest(items=(2, 1, 3)), digest(ids=("x", "y", "w"))]
    assert len({digest(), *others}) == 4


@pytest.mark.parametrize("limit", [None, 1e-9])
def test_a_reached_time_limit_is_remembered(data, tmp_path, limit):
    fitted = make(epochs=2, max_minutes=limit).fit(data)
    fitted.save(tmp_path)
    expected = {} if limit is None else {"stopped_by_time_limit": 1}
    assert fitted.usage() == Mmgcn.load(tmp_path).usage() == expected
