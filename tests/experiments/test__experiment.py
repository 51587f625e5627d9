"""Scores of systems: from the run itself, or from a variant; only what the systems need is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import mock_runs
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import RunFolderError, SettingsError
from mllm_msr.experiments._experiment import (
    System,
    last_stage,
    read_scores,
    required_models,
    score_systems,
    select_models,
)
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.recommender import DIRECT, Variant

Open = Callable[..., AbstractContextManager[Pipeline]]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> mock_runs.PromptCounter:
    return mock_runs.install(monkeypatch)


@pytest.fixture
def open_run(tmp_path: Path, counter: mock_runs.PromptCounter) -> Iterator[Open]:
    """Return a function that opens a small run with a mock model."""
    data = mock_runs.world(tmp_path / "data")
    return lambda *more: Pipeline.open(tmp_path / "run", mock_runs.load(data, *more))


def stages(pipeline: Pipeline) -> set[str]:
    """Return the names of the finished stages."""
    return set(pipeline.run.stages)


def test_a_variant_has_other_scores_for_the_same_candidates(open_run: Open) -> None:
    systems = [System("own", "own"), System("direct", "direct", variant=DIRECT)]
    with open_run() as pipeline:
        scores = score_systems(pipeline, systems)
    own, direct = scores["own"].scores, scores["direct"].scores
    assert own.drop("score").equals(direct.drop("score"))
    assert not own.equals(direct)


def test_only_variants_do_not_need_scores_of_the_run(open_run: Open) -> None:
    with open_run() as pipeline:
        score_systems(pipeline, [System("direct", "direct", variant=DIRECT)])
        with pytest.raises(RunFolderError):
            read_scores(pipeline.run, "zero_shot")


def test_a_baseline_that_the_run_does_not_score_is_scored_in_a_variant(
    open_run: Open, counter: mock_runs.PromptCounter
) -> None:
    systems = [System(name, name, model=name) for name in ("item_knn", "popularity")]
    with open_run("score.baselines=[popularity]", "train.enabled=true") as pipeline:
        scores = score_systems(pipeline, systems)
        assert stages(pipeline) == {"prepare", "score/popularity"}
        assert pipeline.settings.score.baselines == ("popularity",)
    assert list(scores) == ["item_knn", "popularity"]
    assert not scores["item_knn"].scores.equals(scores["popularity"].scores)
    assert set(counter.counts.values()) == {0}


def test_zero_shot_is_scored_without_training_even_if_the_run_trains(open_run: Open) -> None:
    systems = [System("zero_shot", "Zero-shot", model="zero_shot")]
    with open_run("train.enabled=true", "score.zero_shot=false") as pipeline:
        scores = score_systems(pipeline, systems)["zero_shot"]
        assert stages(pipeline) == {"prepare", "summarize", "infer"}
    assert scores.scores.height


def test_a_fine_tuned_system_is_trained_in_a_run_that_does_not_train(open_run: Open) -> None:
    systems = [System("own", "own"), System("tuned", "tuned", model="mllm_msr")]
    with open_run("train.enabled=false") as pipeline:
        scores = score_systems(pipeline, systems)
        assert stages(pipeline) == {"prepare", "summarize", "infer", "score/zero_shot"}
    assert not scores["own"].scores.equals(scores["tuned"].scores)


def test_a_variant_of_a_baseline_scores_only_the_baseline(open_run: Open, tmp_path: Path) -> None:
    variant = Variant(
        "few_users",
        overrides=("baselines.popularity.recent_share=0.5",),
        shares=("prepare", "summarize", "infer"),
    )
    system = System("recent", "Recent", variant=variant, model="popularity")
    with open_run("score.baselines=[]", "train.enabled=true") as pipeline:
        score_systems(pipeline, [system])
    found = {path.stem for path in (tmp_path / "run/variants/few_users/scores").iterdir()}
    assert found == {"popularity"}


@pytest.mark.parametrize("variant", [None, DIRECT])
def test_unknown_models_are_rejected_before_any_stage_runs(
    open_run: Open, variant: Variant | None
) -> None:
    for model in ("popularty", "mllm_msr_direct"):
        with open_run() as pipeline:
            with pytest.raises(SettingsError, match=f"Unknown baseline '{model}'"):
                score_systems(pipeline, [System("x", "X", variant=variant, model=model)])
            assert stages(pipeline) == set()


def test_ensembles_need_their_members_that_are_mllm_recommenders() -> None:
    settings = load_settings("default", ["train.enabled=true"], environment={})
    assert required_models(settings, ["hybrid", "sasrec"]) == ["mllm_msr", "hybrid", "sasrec"]
    settings = load_settings("default", ["train.enabled=false"], environment={})
    assert required_models(settings, ["hybrid"]) == ["hybrid"]
    members = ["baselines.hybrid.members=[zero_shot,sasrec]", "train.enabled=true"]
    settings = load_settings("default", members, environment={})
    assert required_models(settings, ["hybrid"]) == ["zero_shot", "hybrid"]


def test_only_the_selected_models_are_scored() -> None:
    assert select_models(["zero_shot", "hybrid", "sasrec"]) == [
        "train.enabled=false",
        "score.zero_shot=true",
        "score.baselines=[hybrid, sasrec]",
    ]


@pytest.mark.parametrize(
    ("models", "content", "stage"),
    [
        (["mllm_msr", "zero_shot"], "all", "train"),
        (["zero_shot", "sasrec"], "all", "infer"),
        (["sasrec"], "all", "prepare"),
        (["gru4rec_f"], "image_summary", "summarize"),
    ],
)
def test_no_stage_is_run_that_no_model_needs(models: list[str], content: str, stage: str) -> None:
    settings = load_settings("default", [f"baselines.content={content}"], environment={})
    assert last_stage(settings, models) == stage
