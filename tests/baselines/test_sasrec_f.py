"""SASRec_F and GRU4Rec_F rank cold items by their content; SASRec cannot."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines.gru4rec_f import Gru4RecF
from mllm_msr.baselines.sasrec import SasRec
from mllm_msr.baselines.sasrec_f import SasRecF
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

SMALL = {"hidden": 16, "epochs": 25, "batch_size": 16, "learning_rate": 0.01}
CONTENT = {"image_encoder": "none", "id_dropout": 0.3}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Users who like either cats or ships; two items of the catalog have no interactions."""
    topics = [("cat", "kitten whiskers purring"), ("ship", "harbour anchor sailing")]
    items = [
        (f"{name}{at}", f"{name} number {at}", text, None)
        for name, text in topics
        for at in range(8)
    ]
    rows = [
        (f"u{user}", f"{topics[user % 2][0]}{(user // 2 + 3 * at) % 7}", at, at)
        for user in range(40)
        for at in range(5)
    ]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=empty(CANDIDATES),
        train_users=frozenset(f"u{user}" for user in range(40)),
    )


@pytest.fixture
def cold() -> pl.DataFrame:
    """Two cold items as candidates of a user of each topic."""
    rows = [("u0", 5, "cat7"), ("u0", 5, "ship7"), ("u1", 5, "cat7"), ("u1", 5, "ship7")]
    schema = {"user_id": pl.String, "position": pl.Int32, "item_id": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize("model", [SasRecF(**SMALL, **CONTENT), Gru4RecF(**SMALL, **CONTENT)])
def test_cold_items_are_ranked_by_their_content(data, cold, model):
    scores = model.fit(data).score(cold, data.interactions)["score"].to_list()
    assert scores[0] > scores[1]
    assert scores[3] > scores[2]


def test_without_content_all_cold_items_have_the_same_score(data, cold):
    scores = SasRec(**SMALL).fit(data).score(cold, data.interactions)["score"].to_list()
    assert scores[0] == pytest.approx(scores[1])


def test_loading_needs_no_encoder(data, cold, tmp_path):
    model = SasRecF(**{**SMALL, "epochs": 1}, **CONTENT).fit(data)
    model.save(tmp_path)
    loaded = SasRecF.load(tmp_path)
    assert loaded.score(cold, data.interactions).equals(model.score(cold, data.interactions))


@pytest.mark.parametrize("model", [SasRecF, Gru4RecF])
def test_id_dropout_of_1_is_rejected(model):
    with pytest.raises(SettingsError, match=r"id_dropout must be in \[0, 1\), but is 1"):
        model(id_dropout=1)
