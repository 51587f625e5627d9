"""Stage "train": the counts of a fold."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.interfaces import TrainingData
from mllm_msr.pipeline.stages.train import train
from mllm_msr.ranker.recommender import MllmRecommender
from mllm_msr.ranker.training.trainer import TrainingSummary
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, PREFERENCES, empty


@pytest.fixture
def data() -> TrainingData:
    return TrainingData(
        empty(INTERACTIONS), empty(ITEMS), empty(CANDIDATES), frozenset(), empty(PREFERENCES)
    )


def test_counts_of_a_fold(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    def fine_tune(self: MllmRecommender, data: TrainingData) -> Path:
        self.n_examples = 7
        self.training_summary = TrainingSummary(
            best_auc=None, best_step=3, steps=4, seconds=2.0, samples_per_second=3.5,
            stopped_because="epochs", weights=Path("adapter"),
        )  # fmt: skip
        return Path("adapter")

    monkeypatch.setattr(MllmRecommender, "_fine_tune", fine_tune)
    counts = train(MllmRecommender(training=TrainSettings()), data)
    assert math.isnan(counts.pop("best_auc"))
    expected = {"examples": 7, "best_step": 3, "steps": 4, "samples_per_second": 3.5}
    assert counts == {**expected, "without_image": 0}


def test_zero_shot_trains_nothing(data: TrainingData) -> None:
    assert train(MllmRecommender(), data) == {}
