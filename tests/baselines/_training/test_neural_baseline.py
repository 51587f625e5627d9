"""The base class of neural baselines, with a baseline of two weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.neural_baseline import (
    NeuralBaseline,
    TrainingSpec,
    require_two_interactions,
)
from mllm_msr.errors import SettingsError, StaleStageError, TrainingError


@dataclass(kw_only=True, eq=False)
class Line(NeuralBaseline[torch.nn.Linear]):
    """Baseline that learns that the output is twice the input plus `offset`."""

    epochs: int = 40
    learning_rate: float = 0.2
    precision: str = "fp32"
    offset: float = 1.0

    def family_problems(self):
        return ["The family has a problem."] if self.offset < 0 else []

    def own_problems(self):
        return ["offset is too large."] if abs(self.offset) > 9 else []

    def fit(self, data):
        inputs = torch.linspace(-1, 1, 8)[:, None]
        torch.manual_seed(self.seed)
        network = torch.nn.Linear(1, 1)
        spec = TrainingSpec(
            lambda epoch: torch.split(inputs, self.effective_batch_size(len(inputs))),
            lambda batch: (network(batch) - 2 * batch - self.offset).square().mean(),
        )
        self._train(network, spec, validate=None, data="eight points")
        self._fitted = network
        return self

    def score(self, candidates, interactions):
        outputs = self._require_fitted()(torch.tensor(candidates["x"].to_list())[:, None]).detach()
        return candidates.with_columns(score=pl.Series(outputs[:, 0].double().numpy()))

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


def predict(model: Line) -> list[float]:
    rows = pl.DataFrame({"x": [0.0, 0.5]})
    return model.score(rows, rows)["score"].to_list()


def test_training_log_describes_the_run():
    model = Line()
    assert model.training_log is None
    assert predict(model.fit(None)) == pytest.approx([1.0, 2.0], abs=0.1)
    assert model.training_log.epochs == 40
    assert model.training_log.stopped_because == "all epochs done"


def test_all_problems_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        Line(epochs=0, batch_size=0, offset=-10.0)
    assert len(caught.value.problems) == 4
    message = str(caught.value)
    for part in ("epochs must be", "batch_size must be", "family has a problem", "too large"):
        assert part in message


def test_states_of_other_settings_are_rejected(tmp_path):
    whole = predict(Line(checkpoints=tmp_path / "states").fit(None))
    again = Line(checkpoints=tmp_path / "states").fit(None)
    assert predict(again) == whole
    with pytest.raises(StaleStageError, match="settings"):
        Line(checkpoints=tmp_path / "states", offset=2.0).fit(None)


def test_paths_are_no_settings(tmp_path):
    assert Line(checkpoints=tmp_path)._settings() == Line()._settings()
    assert "offset" in Line()._settings()


def test_batch_size_shrinks_with_the_data_unless_set():
    assert [Line().effective_batch_size(n) for n in (8, 1600, 10**6)] == [32, 100, 256]
    assert Line(batch_size=7).effective_batch_size(10**6) == 7


def test_scoring_before_fitting_names_the_model():
    with pytest.raises(TrainingError, match="'test_neural_baseline' is not fitted"):
        predict(Line())


def test_histories_without_a_next_item_are_rejected():
    lone = Histories(np.array([1, 2, 3]), np.array([0, 1, 2, 3]))
    with pytest.raises(TrainingError, match=r"No user has two interactions \(3 in total\)"):
        require_two_interactions(lone)
    require_two_interactions(Histories(np.array([1, 2]), np.array([0, 2])))
