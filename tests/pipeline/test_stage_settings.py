"""Commands keep the settings of finished stages, and may set those of stages to come."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mock_runs
import worlds
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.errors import StaleStageError
from mllm_msr.pipeline.compare import compare
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.stage_settings import skipped_stages

OPTIONS = [
    "train.enabled=true",
    "score.baselines=[popularity, sasrec]",
    "baselines.sasrec.epochs=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    settings = mock_runs.load(worlds.write_files(folder / "data"), *OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        mock_runs.install(patch)
        with Pipeline.open(folder / "run", settings) as pipeline:
            pipeline.run_all()
    return folder / "run"


def saved(run: Path) -> str:
    return (run / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("setting", "stage"),
    [
        ("data.seed=9", "prepare"),
        ("summarize.words=9", "summarize"),
        ("infer.words=9", "infer"),
        ("item_type=film", "summarize"),
        ("train.rank=99", "train/0"),
        ("recommend.item_words=3", "train/0"),
        ("baselines.sasrec.epochs=2", "score/sasrec"),
        ("score.full_users=3", "score/popularity"),
        ("evaluate.n_resamples=60", "evaluate"),
        ("model.fingerprint=other", "summarize"),
    ],
)
def test_settings_of_finished_stages_are_not_replaced(
    setting: str, stage: str, finished: Path
) -> None:
    before = saved(finished)
    kind, _, part = stage.partition("/")
    command = f"compare --models {part}" if kind == "score" else kind
    fix = rf"'mllm-msr {command} --run {finished} --force'"
    for force in (False, True):
        with (
            Pipeline.open(finished, [setting], force=force) as pipeline,
            pytest.raises(StaleStageError, match=rf"The stage '{stage}' was finished.*{fix}"),
        ):
            pipeline.run_stage("report")
        assert saved(finished) == before


def test_other_settings_are_saved(finished: Path) -> None:
    # Of the service, of a stage that is not finished, and without an effect on the results.
    changes = ["serve.max_queue=77", "distill.budget=99", "executor.batch=8", "train.loggers=[csv]"]
    changes += ["baselines.gru4rec.epochs=1", "retrieve.depth=7"]
    with Pipeline.open(finished, changes) as pipeline:
        pipeline.run_stage("evaluate")
    settings = load_finished_settings(finished)
    assert (settings.serve.max_queue, settings.distill.budget, settings.retrieve.depth) == (
        77,
        99,
        7,
    )


def test_a_stage_that_is_redone_may_change_those_after_it(tmp_path: Path) -> None:
    settings = mock_runs.load(worlds.write_files(tmp_path / "data"))
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("infer")
    changes = ["summarize.words=9", "infer.words=8"]
    with Pipeline.open(tmp_path / "run", changes, force=True) as pipeline:
        pipeline.run_stage("summarize")
        pipeline.run_stage("infer")
    assert load_finished_settings(tmp_path / "run").infer.words == 8


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        ("serve.max_queue=7", ["prepare", "summarize", "infer", "train", "score", "evaluate"]),
        ("summarize.words=9", ["prepare"]),
        ("infer.model.fingerprint=other", ["prepare", "summarize"]),
        ("train.rank=99", ["prepare", "summarize", "infer"]),
        ("model.fingerprint=other", ["prepare"]),
    ],
)
def test_stages_with_other_settings_and_those_after_them_are_not_skipped(
    change: str, skipped: list[str], finished: Path
) -> None:
    with Pipeline.open(finished, [change]) as pipeline:
        names = skipped_stages(pipeline.context, pipeline.settings)
    assert list(dict.fromkeys(name.partition("/")[0] for name in names)) in (
        skipped,
        [*skipped, "report"],
    )


def test_another_baseline_leaves_the_scores_of_others(finished: Path) -> None:
    with Pipeline.open(finished, ["baselines.sasrec.epochs=2"]) as pipeline:
        names = skipped_stages(pipeline.context, pipeline.settings)
    assert "score/popularity" in names
    assert not {"score/sasrec", "evaluate", "report"} & {*names}


TEXT_ONLY = ["summarize.modalities=[text]", "recommend.use_images=false"]
IMAGES = {
    "recommend.use_images=true": "recommend.use_images=true",
    "summarize.modalities=[text,image]": r"summarize.modalities=\[text, image\]",
    "baselines.content=image": "baselines.content=image",
}


def test_images_that_nobody_missed_are_needed_later(tmp_path: Path) -> None:
    images = worlds.write_files(tmp_path / "data") / "images"
    images.rename(tmp_path / "elsewhere")
    run = tmp_path / "run"
    with Pipeline.open(run, mock_runs.load(images.parent, *TEXT_ONLY)) as pipeline:
        pipeline.run_stage("prepare")
    before = saved(run)
    for change, setting in IMAGES.items():
        for stage in ("prepare", "infer", "score"):
            with (
                Pipeline.open(run, [change]) as pipeline,
                pytest.raises(
                    StaleStageError, match=rf"No item .*which {setting} would read.*--force'"
                ),
            ):
                pipeline.run_stage(stage)
    assert saved(run) == before
    # The fix in the message.
    (tmp_path / "elsewhere").rename(images)
    change = "recommend.use_images=true"
    with Pipeline.open(run, [change], force=True) as pipeline:
        pipeline.run_stage("prepare")
    with Pipeline.open(run) as pipeline:
        assert pipeline.settings.recommend.use_images
        pipeline.run_stage("summarize")


def test_images_that_were_stored_can_be_read_later(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    for store in ("true", "false"):
        run = tmp_path / f"run-{store}"
        settings = mock_runs.load(data, *TEXT_ONLY, f"images.store={store}")
        with Pipeline.open(run, settings) as pipeline:
            pipeline.run_stage("prepare")
        with Pipeline.open(run, ["recommend.use_images=true"]) as pipeline:
            pipeline.run_stage("summarize")


def test_a_dataset_without_images_is_only_warned_of_at_the_start(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    shutil.rmtree(data / "images")
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_until("summarize")


def test_a_wrong_saved_value_can_be_corrected(tmp_path: Path) -> None:
    settings = mock_runs.load(worlds.write_files(tmp_path / "data"))
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("infer")
        pipeline.with_settings({"infer.words": 9}).save_settings()
    with Pipeline.open(tmp_path / "run") as pipeline, pytest.raises(StaleStageError):
        pipeline.run_stage("infer")
    words = settings.infer.words
    with Pipeline.open(tmp_path / "run", {"infer.words": words}) as pipeline:
        pipeline.run_stage("infer")
    assert load_finished_settings(tmp_path / "run").infer.words == words


def test_a_comparison_evaluates_again_with_other_settings(tmp_path: Path) -> None:
    settings = mock_runs.load(
        worlds.write_files(tmp_path / "data"),
        "score.zero_shot=false",
        "score.baselines=[popularity]",
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        for stage in ("prepare", "score", "evaluate"):
            pipeline.run_stage(stage)
    with Pipeline.open(tmp_path / "run", {"evaluate.n_resamples": 60}) as pipeline:
        compare(pipeline, ["popularity"])
        assert pipeline.run.stages["evaluate"]["settings"]["n_resamples"] == 60
