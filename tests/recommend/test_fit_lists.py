"""Fitting of lists: what is fitted and chosen, hidden targets, resuming, and use of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import list_worlds
from mllm_msr.errors import DamagedFileError, DataError, RunFolderError, StaleStageError, UsageError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.fit_lists import FitOptions, fit_lists
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.storage.run_folder import RunFolder

OPTIONS = FitOptions(budget=38)
FILE = "lists/0.json"


def fit(run: Path, options: FitOptions = OPTIONS, *, force: bool = False) -> Mapping[str, Any]:
    with Pipeline.open(run, force=force) as pipeline:
        return fit_lists(pipeline.context, pipeline.settings, options)[0]


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> list_worlds.Oracle:
    return list_worlds.install(monkeypatch)


def test_a_model_that_knows_the_targets_gets_calls(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    run = list_worlds.make_run(tmp_path)
    found = fit(run)
    rows = {row["budget"]: row for row in found["budgets"]}
    assert list(rows) == [0, 10, 20, 38]
    assert rows[38]["ndcg@10"]["mean"] > rows[0]["ndcg@10"]["mean"] + 0.3
    assert found["budget"] in {20, 38}
    assert found["model"]["slope"] > 0
    assert f"With {found['budget']} calls, NDCG@10 of 12 validation users is" in found["reason"]
    # Adaptive scoring loses nothing, because few candidates can pass the one with a yes.
    stopped = rows[38]["adaptive"]
    assert stopped["calls"] < 38
    assert stopped["ndcg@10"]["mean"] == pytest.approx(rows[38]["ndcg@10"]["mean"], abs=0.1)
    n_prompts = oracle.n_prompts
    assert n_prompts <= 12 * 38
    assert fit(run) == found  # finished
    assert oracle.n_prompts == n_prompts
    assert fit(run, force=True) == found
    assert oracle.n_prompts == n_prompts  # all in the response cache
    with pytest.raises(StaleStageError, match="setting budget was 38 and is now 10"):
        fit(run, FitOptions(budget=10))

    with MllmMsr.from_run(run) as model:
        assert (model.plan.order, model.plan.budget) == ("fitted", found["budget"])
        listed = model.recommend("user0", 5)
        assert 0 < listed.model_calls <= found["budget"]
        assert model.plan.adaptive
        assert listed[0].item_id == "item6"
        with pytest.raises(StaleStageError, match=r"retrieve\.generators changed after"):
            MllmMsr.from_run(
                run, overrides=["retrieve.order=fitted", "retrieve.generators=[recent]"]
            )
    for overrides, order, budget in [
        (["retrieve.generators=[recent]"], "fusion", 20),
        (["retrieve.order=fusion"], "fusion", 20),
        (["retrieve.order=model", "retrieve.budget=7"], "model", 7),
        (["retrieve.budget=3"], "fitted", 3),
    ]:
        with MllmMsr.from_run(run, overrides=overrides) as model:
            assert (model.plan.order, model.plan.budget) == (order, budget)
    for override in ("retrieve.adaptive=false", "retrieve.diversity=0.3"):
        with MllmMsr.from_run(run, overrides=[override]) as model:
            assert not model.plan.adaptive
            assert model.recommend("user0", 5, budget=30).model_calls == 30

    content = (run / FILE).read_text()
    (run / FILE).write_text(content.replace('"slope": ', '"slope": 1'))
    with pytest.raises(
        DamagedFileError, match=r"lists/0\.json .* Restore the file, or run 'mllm-msr fit-lists"
    ):
        MllmMsr.from_run(run)
    MllmMsr.from_run(run, overrides=["retrieve.order=fusion"]).close()
    assert fit(run) == found  # repairs the file
    assert (run / FILE).read_text() == content


def test_targets_of_test_users_do_not_change_the_weights(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    run = list_worlds.make_run(tmp_path / "one")
    with RunFolder.open(run, read_only=True) as folder:
        tested = folder.read("splits").filter(split="test", fold=0)["user_id"].to_list()
    other = list_worlds.make_run(tmp_path / "two", changed=tested)
    with RunFolder.open(other, read_only=True) as folder:
        assert folder.read("interactions").height == 6 * list_worlds.N_USERS
    options = FitOptions(budget=20)
    assert fit(run, options) == fit(other, options)


def test_a_model_that_knows_nothing_gets_no_calls(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    oracle.knows = False
    run = list_worlds.make_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"has no fitted weights\. Run 'mllm-msr fit-lists"):
        MllmMsr.from_run(run, overrides=["retrieve.order=fitted"])
    with MllmMsr.from_run(run) as model:  # as a run folder of an earlier version
        assert (model.plan.order, model.plan.budget) == ("fusion", 20)
    found = fit(run, FitOptions(budget=10))
    assert found["budget"] == 0
    assert found["reason"].startswith(
        "No calls, because they are not significantly better: with 10,"
    )
    with MllmMsr.from_run(run) as model:
        n_prompts = oracle.n_prompts
        listed = model.recommend("user0", 5)
        assert (listed.model_calls, listed.fallback_reason, len(listed)) == (0, None, 5)
        assert oracle.n_prompts == n_prompts
        assert model.recommend("user0", 5, budget=2).model_calls == 2
        assert model.recommend("new", 5).fallback_reason == "unknown_user"
        assert model.recommend("new", 5, budget=0).fallback_reason is None
        assert model.recommend_for_history([], 5).fallback_reason == "no_history"


def test_too_few_users_are_an_error(oracle: list_worlds.Oracle, tmp_path: Path) -> None:
    run = list_worlds.make_run(tmp_path, "data.validation_fraction=0.2")
    with pytest.raises(DataError, match=r"Fold 0 has 4 validation users .* need at least 10"):
        fit(run)
    with RunFolder.open(run, read_only=True) as folder:
        assert not folder.has(FILE)


def test_other_settings_of_the_data_are_an_error(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    with Pipeline.open(list_worlds.make_run(tmp_path)) as pipeline:
        other = pipeline.with_settings({"data.validation_fraction": 0.2})
        with pytest.raises(StaleStageError, match="validation_fraction"):
            fit_lists(other.context, other.settings, OPTIONS)


def test_weights_depend_on_preferences_that_only_a_generator_reads(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    run = list_worlds.make_run(tmp_path, "summarize.enabled=true", "infer.enabled=true")
    with Pipeline.open(run) as pipeline:
        pipeline.run_stage("summarize")
        pipeline.run_stage("infer")
    fit(run, FitOptions(budget=10))
    with RunFolder.open(run, read_only=True) as folder:
        assert "preferences" in folder.stages["fit-lists/0"]["inputs"]


def test_weights_belong_to_the_prompts_and_the_training_of_the_ranker(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    run = list_worlds.make_run(tmp_path)
    fit(run, FitOptions(users=10, budget=10))
    for override, problem in [
        ("recommend.history_items=1", r"recommend\.history_items changed after"),
        ("train.max_text_tokens=100", r"train\.max_text_tokens changed after"),
        ("train.enabled=true", "fitted before the ranker was fine-tuned"),
    ]:
        assert load_run(run, overrides=[override]).plan.order == "fusion"
        with pytest.raises(StaleStageError, match=problem):
            load_run(run, overrides=[override, "retrieve.order=fitted"])
    assert load_run(run).plan.order == "fitted"


def test_weights_depend_on_the_teacher_of_a_generator_that_is_an_ensemble(
    oracle: list_worlds.Oracle, tmp_path: Path
) -> None:
    run = list_worlds.make_run(
        tmp_path,
        "distill.enabled=true",
        "distill.budget=32",
        "baselines.student.epochs=1",
        "baselines.student.hidden=8",
        "baselines.hybrid.members=[student, popularity]",
        "retrieve.generators=[hybrid, recent]",
    )
    with Pipeline.open(run) as pipeline:
        pipeline.run_stage("distill")
    fit(run, FitOptions(users=10, budget=10))
    with RunFolder.open(run, read_only=True) as folder:
        assert "teacher/0" in folder.stages["fit-lists/0"]["inputs"]


def test_a_missing_fold_is_named(oracle: list_worlds.Oracle, tmp_path: Path) -> None:
    run = list_worlds.make_run(tmp_path)
    with (
        Pipeline.open(run) as pipeline,
        pytest.raises(UsageError, match=r"has no fold 3\. Use one of 0\."),
    ):
        fit_lists(pipeline.context, pipeline.settings, folds=[3])


def test_the_file_is_documented_json(oracle: list_worlds.Oracle, tmp_path: Path) -> None:
    run = list_worlds.make_run(tmp_path)
    found = fit(run, FitOptions(users=10, budget=10, seed=3))
    assert json.loads((run / FILE).read_text()) == found
    assert (found["users"], found["seed"], found["fold"]) == (10, 3, 0)
    assert list(found["generators"]) == ["preference", "recent"]
    assert all(set(one) == {"rank", "score"} for one in found["generators"].values())
