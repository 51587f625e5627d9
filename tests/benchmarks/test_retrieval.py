"""The benchmark of retrieval and lists on a small run whose ranker reads histories."""

from __future__ import annotations

from pathlib import Path

import pytest

import list_worlds
from benchmarks import retrieval
from mllm_msr.errors import UsageError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.fit_lists import FitOptions, fit_lists


def test_recall_quality_and_adaptive_scoring_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path)
    folder = str(run)
    unfitted = retrieval.run(folder=folder, users=5, budget=20)
    assert (unfitted["users"], unfitted["items"]) == (5, list_worlds.N_ITEMS)
    assert set(unfitted["quality"]) == {"model", "fusion"}
    assert unfitted["fitted_against_fusion"] == {}
    with Pipeline.open(run) as pipeline:
        fit_lists(pipeline.context, pipeline.settings, FitOptions(budget=20))
    found = retrieval.run(folder=folder, budget=38)
    assert found["users"] == 20
    assert list(found["recall"]) == ["preference", "recent", "fusion", "fitted"]
    assert found["recall"]["fusion"]["50"]["mean"] == 1.0
    assert list(found["quality"]) == ["model", "fusion", "fitted", "fitted adaptive"]
    model = found["quality"]["model"]
    assert list(model) == [0, 10, 20, 38]
    assert model[38]["ndcg@10"]["mean"] == 1.0
    assert model[38]["p_value"] < 0.01
    assert found["quality"]["fitted adaptive"][38]["calls"] <= 38
    # Interrupted or repeated, it reads the cached responses.
    n_prompts = oracle.n_prompts
    assert retrieval.run(folder=folder, budget=38, folds="0")["quality"] == found["quality"]
    assert oracle.n_prompts == n_prompts
    with pytest.raises(UsageError, match="Unknown orders: best"):
        retrieval.run(folder=folder, orders="best")
