"""Recommenders of a run by name: labels, conditions, fitting and reuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr import registry
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.config.settings import Settings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import UnknownNameError
from mllm_msr.pipeline.compare import compare
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.recommenders import Recommenders, label_of, ranker_name, remark_of
from mllm_msr.ranker.recommender import VARIANTS, MllmRecommender
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


def test_every_model_has_a_distinct_label() -> None:
    names = [*VARIANTS, *registry.names("baselines")]
    labels = [label_of(name) for name in names]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert label_of("mllm_msr") == MllmRecommender.label == "MLLM-MSR"
    assert remark_of("zero_shot") == "without fine-tuning"


def test_the_ranker_is_zero_shot_without_training() -> None:
    assert ranker_name(Settings()) == "mllm_msr"
    assert ranker_name(Settings(train=TrainSettings(enabled=False))) == "zero_shot"


def test_training_of_baselines_is_shown(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    shown: list[tuple[str, int | None, list[int]]] = []

    @contextlib.contextmanager
    def progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        steps: list[int] = []
        shown.append((name, total, steps))
        yield steps.append

    settings = mock_runs.load(
        data, "baselines.gru4rec.epochs=2", "baselines.llava_zero_shot.backend=mock"
    )
    with Pipeline.open(tmp_path / "run", settings, progress=progress) as pipeline:
        pipeline.run_until("prepare")
        pipeline.recommenders.fitted("gru4rec", 0)
        assert shown[-1] == ("gru4rec epochs", 2, [0, 1, 1])
        test = pipeline.tables.candidates(0, "test")
        with contextlib.closing(pipeline.recommenders.fitted("llava_zero_shot", 0)) as model:
            model.score(test, pipeline.tables.interactions())
    assert shown[-1][:2] == ("llava_zero_shot", test.height)
    assert sum(shown[-1][2]) == test.height


def test_external_models_are_labeled_by_their_name() -> None:
    assert label_of("my_model") == "my_model"
    assert remark_of("my_model") == ""


def test_a_fitted_mllm_scores_what_the_stage_wrote(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    settings = mock_runs.load(data, "train.enabled=true")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("score")
        for name in ("mllm_msr", "zero_shot"):
            stored = pipeline.run.read(f"scores/{name}").filter(fold=0)
            test = pipeline.tables.candidates(0, "test")
            with contextlib.closing(pipeline.recommenders.fitted(name, 0)) as model:
                scored = model.score(test, pipeline.tables.interactions())
                assert model.usage()["misses"] == 0  # all from the response cache
            keys = ["negatives", "user_id", "item_id"]
            joined = scored.join(stored.select(*keys, stored="score"), on=keys)
            assert joined.height == test.height
            assert joined["score"].equals(joined["stored"], null_equal=True)


def test_fine_tuning_changes_the_conditions(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    settings = mock_runs.load(data, "train.enabled=true", "train.max_text_tokens=50")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("prepare")
        recommenders = pipeline.recommenders
        tuned, zero_shot = (recommenders.conditions(name) for name in ("mllm_msr", "zero_shot"))
    weights = {"folds/0/adapter", "folds/1/adapter"}
    assert set(tuned.inputs) - set(zero_shot.inputs) == weights
    assert tuned.settings == {"train.max_text_tokens": 50}
    assert tuned.prompt_templates == ("recommend",)


def test_a_baseline_is_fitted_once_and_damage_is_noticed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_msr.baselines.item_knn import ItemKnn

    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_until("prepare")
        recommenders = pipeline.recommenders
        test = pipeline.tables.candidates(0, "test")
        visible = recommenders.training_data("item_knn", 0).interactions
        first = recommenders.fitted("item_knn", 0).score(test, visible)
        fits = []
        fit = ItemKnn.fit
        monkeypatch.setattr(ItemKnn, "fit", lambda self, data: fits.append(1) or fit(self, data))
        assert recommenders.fitted("item_knn", 0).score(test, visible).equals(first)
        assert not fits
        stored = next((tmp_path / "run" / "cache" / "fitted").rglob("*.safetensors"))
        content = bytearray(stored.read_bytes())
        content[-1] ^= 1
        stored.write_bytes(content)
        assert recommenders.fitted("item_knn", 0).score(test, visible).equals(first)
        assert fits == [1]
        assert pl.Series(first["score"]).is_finite().all()


def test_an_endpoint_of_a_baseline_is_never_stored_or_read(tmp_path: Path, data: Path) -> None:
    url = "https://mine.example/v1"
    settings = mock_runs.load(
        data,
        "baselines.llava_zero_shot.backend=openai",
        f"baselines.llava_zero_shot.options={{checkpoint: tiny, url: '{url}'}}",
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("prepare")
        pipeline.recommenders.fitted("llava_zero_shot", 0)
    assert not (tmp_path / "run" / "cache" / "fitted").exists()


def test_members_have_the_settings_of_their_own_section_and_are_reused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_msr.baselines.item_knn import ItemKnn

    settings = mock_runs.load(
        data,
        "score.zero_shot=false",
        "train.enabled=false",
        "baselines.item_knn.n_neighbors=3",
        "baselines.hybrid.members=[item_knn, popularity]",
    )
    fitted: list[int] = []
    fit = ItemKnn.fit
    monkeypatch.setattr(
        ItemKnn,
        "fit",
        lambda self, data: fitted.append(self._settings["n_neighbors"]) or fit(self, data),
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("prepare")
        compare(pipeline, ["item_knn", "hybrid"])
        n_folds = len(pipeline.tables.folds())
        assert fitted == [3] * 2 * n_folds  # the model and its copy, with the section's value
        (tmp_path / "run" / "scores" / "hybrid.parquet").unlink()
        compare(pipeline, ["hybrid"])
    assert fitted == [3] * 2 * n_folds  # both are in the cache of the run


def test_a_time_limit_is_shown_in_the_table_and_the_report(tmp_path: Path, data: Path) -> None:
    settings = mock_runs.load(
        data,
        "score.zero_shot=false",
        "train.enabled=false",
        "baselines.gru4rec.epochs=2",
        "baselines.gru4rec.max_minutes=1e-9",
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("prepare")
        result = compare(pipeline, ["gru4rec", "popularity"])
    assert set(result["notes"]) == {"gru4rec"}
    for name in ("report.html", "report.md"):
        report = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert result["notes"]["gru4rec"] in report


def test_unknown_members_of_an_ensemble_stop_a_run_before_its_first_stage(
    tmp_path: Path, data: Path
) -> None:
    settings = mock_runs.load(
        data, "score.baselines=[popularity, hybrid]", "baselines.hybrid.members=[item_knn, sasrek]"
    )
    with (
        Pipeline.open(tmp_path / "run", settings) as pipeline,
        pytest.raises(UnknownNameError, match=r"'sasrek'. Did you mean 'sasrec'"),
    ):
        pipeline.run_all()
    assert not (tmp_path / "run" / "interactions.parquet").exists()


def test_only_rank_zero_fits_again_with_force(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Popularity] = []
    fit = Popularity.fit
    monkeypatch.setattr(
        Popularity, "fit", lambda self, data: fitted.append(self) or fit(self, data)
    )
    settings = mock_runs.load(data)
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_until("prepare")
        for is_worker in (False, True):
            run = RunFolder.open(tmp_path / "run", worker=True) if is_worker else pipeline.run
            recommenders = Recommenders(RunContext(run, force=True), settings)
            recommenders.fitted("popularity", 0)
    assert len(fitted) == 1
