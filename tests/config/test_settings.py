"""All settings together; the tests of single sections are in the files of these sections."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings


def test_settings_as_yaml_are_read_back(tmp_path: Path) -> None:
    settings = load_settings("demo", ["train.rank=3", "evaluate.ks=2,4"], environment={})
    file = tmp_path / "settings.yaml"
    file.write_text(settings.to_yaml())
    assert load_settings(None, file=file, environment={}) == settings
    assert settings != Settings()


def test_models_are_listed_by_the_setting_that_selects_them() -> None:
    settings = load_settings("demo", ["infer.model.backend=mock"], environment={})
    assert settings.models() == {"model": settings.model, "infer.model": settings.infer.model}
