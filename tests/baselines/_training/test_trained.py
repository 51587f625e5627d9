"""What the base of all neural baselines does for a baseline of two numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.trained import (
    TrainedRecommender,
    TrainingSpec,
    refuse_lone_interactions,
)
from mllm_msr.errors import SettingsError, StaleStageError, TrainingError


@dataclass(kw_only=True, eq=False)
class Line(TrainedRecommender[torch.nn.Linear]):
    """Learns that the answer is twice the question, plus `offset`."""

    epochs: int = 40
    learning_rate: float = 0.2
    precision: str = "fp32"
    offset: float = 1.0

    def family_problems(self):
        return ["the family is unwell"] if self.offset < 0 else []

    def own_problems(self):
        return ["offset is too far"] if abs(self.offset) > 9 else []

    def fit(self, data):
        asked = torch.linspace(-1, 1, 8)[:, None]
        torch.manual_seed(self.seed)
        network = torch.nn.Linear(1, 1)
        course = TrainingSpec(
            lambda epoch: torch.split(asked, self.step_size(len(asked))),
            lambda batch: (network(batch) - 2 * batch - self.offset).square().mean(),
        )
        self._train(network, course, judge=None, data="eight points")
        self._fitted = network
        return self

    def score(self, candidates, interactions):
        answers = self._ready()(torch.tensor(candidates["x"].to_list())[:, None]).detach()
        return candidates.with_columns(score=pl.Series(answers[:, 0].double().numpy()))

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


def answers(model: Line) -> list[float]:
    asked = pl.DataFrame({"x": [0.0, 0.5]})
    return model.score(asked, asked)["score"].to_list()


def test_trains_and_tells_how_it_ended():
    model = Line()
    assert model.training_log is None
    assert answers(model.fit(None)) == pytest.approx([1.0, 2.0], abs=0.1)
    assert model.training_log.epochs == 40
    assert model.training_log.stopped_because == "all epochs done"


def test_all_problems_come_at_once():
    with pytest.raises(SettingsError) as caught:
        Line(epochs=0, batch_size=0, offset=-10.0)
    assert len(caught.value.problems) == 4
    for part in ("epochs must be at least 1", "batch_size must", "family is unwell", "too far"):
        assert part in str(caught.value)


def test_a_run_goes_on_only_under_its_own_settings(tmp_path):
    whole = answers(Line(checkpoints=tmp_path / "states").fit(None))
    again = Line(checkpoints=tmp_path / "states").fit(None)
    assert answers(again) == whole
    with pytest.raises(StaleStageError, match="settings"):
        Line(checkpoints=tmp_path / "states", offset=2.0).fit(None)


def test_places_are_no_settings(tmp_path):
    assert Line(checkpoints=tmp_path)._settings() == Line()._settings()
    assert "offset" in Line()._settings()


def test_steps_shrink_with_the_data_unless_they_are_set():
    assert [Line().step_size(n) for n in (8, 1600, 10**6)] == [32, 100, 256]
    assert Line(batch_size=7).step_size(10**6) == 7


def test_an_unfitted_model_is_named_as_users_name_it():
    with pytest.raises(TrainingError, match="a fitted test_trained model"):
        answers(Line())


def test_histories_without_anything_to_predict_are_refused():
    lone = Histories(np.array([1, 2, 3]), np.array([0, 1, 2, 3]))
    with pytest.raises(TrainingError, match="received 3 interactions of which nobody has two"):
        refuse_lone_interactions(lone)
    refuse_lone_interactions(Histories(np.array([1, 2]), np.array([0, 2])))
