"""The base of the sequence models, tested with GRU4Rec: settings, fallbacks, files, resuming."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch

from mllm_msr.baselines._sequences.losses import LOSSES
from mllm_msr.baselines.gru4rec import Gru4Rec
from mllm_msr.errors import (
    DamagedFileError,
    SettingsError,
    StaleStageError,
    TrainingError,
)
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

N_ITEMS = 7
SMALL = {
    "embedding": 8,
    "hidden": 8,
    "batch_size": 8,
    "learning_rate": 0.02,
    "dropout": 0.0,
    "max_length": 4,
}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Items on a ring, each followed by the next one; item 8 has no interactions."""
    rows = [
        (f"u{user}", f"i{(user + at) % N_ITEMS}", at, at)
        for user in range(21)
        for at in range(7 if user % 3 else 3)
    ]
    items = [(f"i{at}", "", "", None) for at in [*range(N_ITEMS), 8]]
    validation = [
        (0, "validation", "uniform", f"u{user}", 7, f"i{(user + 7 + off) % N_ITEMS}", int(off == 0))
        for user in range(21)
        if user % 3
        for off in range(N_ITEMS)
    ]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=pl.DataFrame(validation, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(f"u{user}" for user in range(21)),
    )


@pytest.fixture(scope="module")
def model(data) -> Gru4Rec:
    return Gru4Rec(**SMALL, epochs=40, early_stopping_patience=40).fit(data)


def candidates(*rows):
    schema = {"user_id": pl.String, "position": pl.Int32, "item_id": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def best(model, data, user, position):
    rows = candidates(*((user, position, f"i{at}") for at in range(N_ITEMS)))
    return model.score(rows, data.interactions).sort("score")["item_id"][-1]


def test_it_learns_the_next_item_on_a_ring(model, data):
    assert [best(model, data, f"u{user}", 5) for user in (1, 2, 4)] == ["i6", "i0", "i2"]
    assert best(model, data, "u0", 2) == "i2"
    assert model.training_log is not None
    assert model.training_log.best_value == 1.0


def test_catalog_scores_equal_candidate_scores(model, data):
    assert isinstance(model, CatalogScorer)
    assert list(model.catalog) == [f"i{at}" for at in [*range(N_ITEMS), 8]]
    users = pl.DataFrame({"user_id": ["u2", "unknown", "u1", "u2"], "position": [4, 3, 0, 2]})
    rows = users.join(pl.DataFrame({"item_id": model.catalog}), how="cross")
    expected = model.score(rows, data.interactions)["score"].to_numpy().reshape(4, -1)
    ((chunk, found),) = model.score_catalog(users, data.interactions)
    assert chunk.equals(users)
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_a_history_the_score_is_popularity(model, data):
    counts = dict(data.interactions.group_by("item_id").len().iter_rows())
    rows = candidates(
        ("unknown", 0, "i0"), ("u1", 0, "i3"), ("unknown", 0, "i8"), ("unknown", 0, "new")
    )
    scores = model.score(rows, data.interactions)["score"].exp() - 1
    assert scores.to_list() == pytest.approx([counts["i0"], counts["i3"], 0, 0], abs=1e-4)


def test_cold_and_unknown_items_have_the_same_low_score(model, data):
    rows = candidates(("u1", 5, "i8"), ("u1", 5, "new"), ("u1", 5, "i6"))
    cold, unknown, next_item = model.score(rows, data.interactions)["score"]
    assert cold == unknown < next_item


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_the_ring(loss, data):
    model = Gru4Rec(
        **SMALL, loss=loss, n_negatives=4, epochs=60, early_stopping_patience=60, precision="fp32"
    )
    assert best(model.fit(data), data, "u1", 5) == "i6"


def test_a_killed_fit_resumes_to_the_same_weights(data, tmp_path, monkeypatch):
    settings = {**SMALL, "epochs": 3, "dropout": 0.2}
    uninterrupted = Gru4Rec(**settings).fit(data)
    killed = Gru4Rec(**settings, checkpoints=tmp_path)
    validation = killed._validation

    def interrupted_in_the_second_epoch(*arguments):
        value, calls = validation(*arguments), []

        def validate():
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return value()

        return validate

    monkeypatch.setattr(killed, "_validation", interrupted_in_the_second_epoch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        killed.fit(data)
    resumed = Gru4Rec(**settings, checkpoints=tmp_path).fit(data)
    weights = [
        list(m._require_fitted().network.state_dict().values()) for m in (uninterrupted, resumed)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    with pytest.raises(StaleStageError, match="settings"):
        Gru4Rec(**{**settings, "hidden": 4}, checkpoints=tmp_path).fit(data)


def test_paths_are_not_saved_as_settings(model, data, tmp_path):
    model.save(tmp_path)
    saved = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert "checkpoints" not in saved["settings"]
    assert saved["settings"]["embedding"] == 8


@pytest.mark.parametrize("fault", ["truncated", "other sizes", "other class"])
def test_a_damaged_model_is_rejected(model, tmp_path, fault):
    model.save(tmp_path)
    path = tmp_path / "model.json"
    text = path.read_text(encoding="utf-8")
    changed = {
        "truncated": text[:50],
        "other sizes": text.replace('"embedding": 8', '"embedding": 9'),
        "other class": text.replace('"embedding"', '"n_heads"'),
    }[fault]
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"Cannot load .*Fit the baseline again"):
        Gru4Rec.load(tmp_path)


def test_data_without_a_next_item_is_rejected(data):
    first_only = data.interactions.filter(pl.col("position") == 0)
    lonely = TrainingData(first_only, data.items, empty(CANDIDATES), data.train_users)
    with pytest.raises(TrainingError, match="No user has two interactions"):
        Gru4Rec(**SMALL).fit(lonely)


def test_an_unfitted_model_is_rejected(data):
    with pytest.raises(TrainingError, match="'gru4rec' is not fitted"):
        Gru4Rec().score(candidates(), data.interactions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, but is 0"),
        ({"negative_power": 2.0}, r"negative_power must be in \[0, 1\], but is 2.0"),
        ({"loss": "mse"}, "loss must be one of softmax, .*, but is 'mse'"),
    ],
)
def test_shared_settings_out_of_range_are_rejected(settings, message):
    with pytest.raises(SettingsError, match=message):
        Gru4Rec(**settings)


@pytest.mark.parametrize("limit", [None, 1e-9])
def test_a_reached_time_limit_is_remembered(data, tmp_path, limit):
    fitted = Gru4Rec(**SMALL, epochs=2, max_minutes=limit).fit(data)
    fitted.save(tmp_path)
    expected = {} if limit is None else {"stopped_by_time_limit": 1}
    assert fitted.usage() == Gru4Rec.load(tmp_path).usage() == expected
