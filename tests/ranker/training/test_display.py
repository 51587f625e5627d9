"""Display of the progress of training."""

from __future__ import annotations

import pytest

from mllm_msr import registry
from mllm_msr.baselines import _factory
from mllm_msr.ranker.training.display import ShowsTraining, hide_progress


def test_hidden_progress_accepts_steps() -> None:
    with hide_progress(10, 3) as advance:
        advance(1)


@pytest.mark.parametrize("name", registry.names("baselines"))
def test_baselines_that_train_a_network_show_their_training(name: str) -> None:
    kind = _factory.baseline_class(name)
    trains = any("training" in part for part in _modules(kind)) or name == "tallrec"
    if name == "hybrid":
        return  # shows the training of its members
    assert isinstance(_factory.make(name, {}), ShowsTraining) == trains


def _modules(kind: type) -> list[str]:
    return [base.__module__ for base in kind.__mro__]
