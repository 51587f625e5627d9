"""Tests for opening the models of a run."""

from __future__ import annotations

import contextlib
import functools
import shutil
from pathlib import Path

import pytest

import online_worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import RunFolderError, SettingsError
from mllm_msr.ranker.calibration import Calibration, write_calibration
from mllm_msr.ranker.prompt_record import write_prompt_record
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("models"))


def models_of(*overrides: str) -> RunModels:
    settings = load_settings("demo", overrides, environment={})
    return RunModels(settings, weights=lambda: Path("adapter"))


def test_adapter_is_not_applied_to_another_base_model(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with RunFolder.open(copy) as folder, folder.stage("train/0", model="mock:others"):
        pass
    models = load_run(copy, overrides=["train.enabled=true"]).models
    with pytest.raises(RunFolderError, match=r"fine-tuned from mock:others, but .* mock"):
        models.open_ranker()


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_weights_of_another_order_are_rejected(enabled: str, tmp_path: Path) -> None:
    write_prompt_record(tmp_path, RecommendSettings(order="user-first"))

    def models(*overrides: str) -> RunModels:
        given = [f"train.enabled={enabled}", *overrides]
        if enabled == "false":
            given.append(f"model.adapter={tmp_path}")
        return RunModels(load_settings("demo", given, environment={}), weights=lambda: tmp_path)

    models("recommend.order=user-first").open_ranker().close()
    with pytest.raises(SettingsError, match=r"Set recommend\.order=user-first, or fine-tune again"):
        models().open_ranker()


def test_exported_adapter_has_its_calibration(tmp_path: Path) -> None:
    write_calibration(tmp_path, Calibration(temperature=2.0, bias=0.5))
    models = models_of("train.enabled=false", f"model.adapter={tmp_path}")
    models.open_ranker().close()
    assert models.calibration == Calibration(temperature=2.0, bias=0.5)


def test_zero_shot_ranker_is_offered_if_it_writes_the_preferences() -> None:
    assert models_of().has_zero_shot
    assert not models_of("train.enabled=false").has_zero_shot
    assert not models_of("infer.model.backend=demo").has_zero_shot


def test_the_model_that_has_scored_the_run_ranks(run: Path) -> None:
    other = "score.model.fingerprint=other"
    load = functools.partial(load_run, run)
    with contextlib.closing(load(overrides=[other]).models.open_ranker()) as ranker:
        assert ranker.fingerprint == "mock:other"
    with contextlib.closing(load(overrides=[other]).models.open_preference_model()) as model:
        assert model.fingerprint == load().models.open_preference_model().fingerprint
    endpoint = ["score.model.backend=mock", "model.device=cpu"]
    assert not models_of(*endpoint).has_zero_shot
    assert not models_of(*endpoint).caches_images
    assert models_of(*endpoint).default_copies == 1


def test_image_cache_needs_a_backend_that_has_one(run: Path) -> None:
    assert models_of().caches_images
    assert not models_of("retrieve.prefix_cache_bytes=0").caches_images
    assert models_of("retrieve.prefix_cache_bytes=0", "recommend.order=user-first").caches_images
    assert not load_run(run).models.caches_images  # mock backend


def test_default_number_of_copies(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert load_run(run).models.default_copies == 1  # mock backend
    assert models_of("model.device=cpu").default_copies == 4
    assert models_of("model.device=cuda:1").default_copies == 1
