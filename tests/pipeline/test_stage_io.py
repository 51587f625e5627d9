"""Input and output of the stages: conditions, outputs, and reuse of finished work."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import mock_runs
from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.config.settings import Settings
from mllm_msr.errors import StaleStageError
from mllm_msr.pipeline import stage_io
from mllm_msr.pipeline.pipeline import STAGES, Pipeline
from mllm_msr.pipeline.stage_settings import NOT_RECORDED
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


def recorded(folder: Path, stage: str) -> dict:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest["stages"][stage]["settings"]


def test_every_stage_of_the_pipeline_has_a_function_of_its_name() -> None:
    assert [step.__name__ for step in STAGES.values()] == list(STAGES)


def test_stages_record_only_settings_that_differ_from_the_defaults(
    tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "run"
    settings = mock_runs.load(data, "infer.words=33", "summarize.scope=read", "infer.max_items=6")
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_until("infer")
    assert recorded(folder, "infer") == {"item_type": "item", "max_items": 6, "words": 33}
    assert recorded(folder, "summarize") == {
        "item_type": "item", "scope": "read", "infer.max_items": 6,
    }  # fmt: skip
    assert "infer.block_size" not in recorded(folder, "prepare")


def test_settings_of_later_stages_do_not_invalidate_earlier_ones(
    tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "run"
    with Pipeline.open(folder, mock_runs.load(data)) as pipeline:
        pipeline.run_until("infer")
    changed = mock_runs.load(data, "evaluate.ks=[1, 5]", "score.full_users=3", "train.rank=4")
    with Pipeline.open(folder, changed) as pipeline:
        pipeline.run_until("infer")
    other = mock_runs.load(data, "infer.block_size=2")
    with (
        Pipeline.open(folder, other) as pipeline,
        pytest.raises(StaleStageError, match="block_size"),
    ):
        pipeline.run_stage("prepare")  # training targets follow blocks


def test_a_later_stage_does_not_save_other_settings_of_the_data(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "run"
    with Pipeline.open(folder, mock_runs.load(data)) as pipeline:
        pipeline.run_until("infer")
    saved = (folder / layout.CONFIG).read_text(encoding="utf-8")
    other = mock_runs.load(data, "data.validation_fraction=0.3")
    with (
        Pipeline.open(folder, other, force=True) as pipeline,
        pytest.raises(StaleStageError, match=r"'prepare' .* validation_fraction .* is now 0\.3"),
    ):
        pipeline.run_stage("score")
    assert (folder / layout.CONFIG).read_text(encoding="utf-8") == saved


def test_score_can_be_limited_to_some_models(tmp_path: Path, data: Path) -> None:
    settings = mock_runs.load(data, "score.baselines=[popularity, item_knn]")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("infer")
        stage_io.score(pipeline.context, pipeline.settings, names=["item_knn"])
        assert pipeline.tables.scored_models() == ["item_knn"]
        assert not (tmp_path / "run" / "cache" / "baselines").exists()


def test_training_is_skipped_unless_enabled(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(tmp_path / "run", mock_runs.load(data, "train.enabled=false")) as pipeline:
        pipeline.run_until("train")
        assert not any(name.startswith("train/") for name in pipeline.run.stages)


@pytest.mark.parametrize("section", ["images", "summarize", "infer", "score", "evaluate", "report"])
def test_every_setting_of_a_section_is_recorded_unless_it_is_listed(section: str) -> None:
    """A stage that ignored a setting would be skipped although its outputs should change."""
    settings = getattr(Settings(), section)
    other = settings.model_copy(update={name: object() for name in type(settings).model_fields})
    listed = NOT_RECORDED.get(section, ())
    assert set(listed) <= set(type(settings).model_fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the placeholder values have the wrong type
        found = set(other.model_dump(exclude_defaults=True, exclude=set(listed)))
    assert found == set(type(settings).model_fields) - set(listed)


def test_a_changed_scoring_setting_is_not_skipped_silently(tmp_path: Path, data: Path) -> None:
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_until("score")
    with (
        Pipeline.open(tmp_path / "run", mock_runs.load(data, "score.full_users=3")) as pipeline,
        pytest.raises(StaleStageError, match=r"full_users was the default .* is now 3"),
    ):
        pipeline.run_stage("score")


@pytest.mark.parametrize("stage", ["train", "score"])
def test_the_order_of_the_prompts_identifies_training_and_scores(
    stage: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    options = ["train.enabled=true", "score.baselines=[]", "recommend.order=user-first"]
    with Pipeline.open(tmp_path / "run", mock_runs.load(data, *options)) as pipeline:
        pipeline.run_until("score")
        stages = pipeline.run.stages
    for name in ("train/0", "score/mllm_msr", "score/zero_shot"):
        assert stages[name]["settings"]["recommend.order"] == "user-first"
        assert list(stages[name]["templates"]) == ["recommend_user_first"]
    assert "recommend.order" not in stages["infer"]["settings"]
    with (
        Pipeline.open(tmp_path / "run", mock_runs.load(data, *options[:-1])) as pipeline,
        pytest.raises(StaleStageError, match=r"recommend\.order was 'user-first'"),
    ):
        pipeline.run_stage(stage)


def test_force_fits_baselines_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[ItemKnn] = []
    fit = ItemKnn.fit
    monkeypatch.setattr(ItemKnn, "fit", lambda self, data: fits.append(self) or fit(self, data))
    members = "baselines.hybrid.members=[item_knn, popularity]"
    settings = mock_runs.load(
        data, "score.zero_shot=false", "score.baselines=[item_knn, hybrid]", members
    )
    # In each of two folds, the hybrid also fits a copy of its ItemKnn on other data.
    for force, n_fits in ((False, 4), (False, 4), (True, 8)):
        with Pipeline.open(tmp_path / "run", settings, force=force) as pipeline:
            pipeline.run_until("prepare")
            pipeline.run_stage("score")
        assert len(fits) == n_fits


def test_every_stage_records_all_outputs_that_it_reads(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run all stages, with a recorder in place of the only method that opens an output."""
    mock_runs.install(monkeypatch)
    reads: list[str] = []
    verified = RunFolder.verified

    def record(self: RunFolder, name: str) -> Path:
        reads.append(name)
        return verified(self, name)

    monkeypatch.setattr(RunFolder, "verified", record)
    settings = mock_runs.load(data, "train.enabled=true", "score.baselines=[popularity, hybrid]")
    # The word for an item is recorded as a setting of the stages that use it.
    allowed = {layout.DATASET}
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        for name in STAGES:
            reads.clear()
            pipeline.run_stage(name)
            entries = [
                entry for key, entry in pipeline.run.stages.items() if key.split("/")[0] == name
            ]
            recorded = {key for entry in entries for key in entry["inputs"]}
            assert set(reads) <= recorded | allowed, name
        assert reads  # of the last stage, the report


def test_the_report_is_redone_when_anything_that_it_shows_has_changed(
    tmp_path: Path, data: Path
) -> None:
    def report() -> str:
        return (tmp_path / "run/report.html").read_text(encoding="utf-8")

    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_all()
    first = report()
    with Pipeline.open(tmp_path / "run", mock_runs.load(data), force=True) as pipeline:
        pipeline.run_stage("infer")  # with responses from the cache, so with other costs
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_all()
        counts = pipeline.counts("infer")["infer"]
    assert counts["misses"] == 0
    assert report() != first
    second = report()
    with Pipeline.open(tmp_path / "run", mock_runs.load(data, "serve.max_queue=77")) as pipeline:
        pipeline.run_all()
    assert "max_queue: 77" in report()
    assert "max_queue: 77" not in second
