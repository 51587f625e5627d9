"""All settings together; the tests of single sections are in the files of these sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings


def test_settings_as_yaml_are_read_back(tmp_path: Path) -> None:
    settings = load_settings("demo", ["train.rank=3", "evaluate.ks=2,4"], environment={})
    file = tmp_path / "settings.yaml"
    file.write_text(settings.to_yaml())
    assert load_settings(None, file=file, environment={}) == settings
    assert settings != Settings()


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        ([], True),
        (["recommend.use_images=false"], True),  # the summaries describe images
        (["recommend.use_images=false", "summarize.modalities=[text]"], False),
        (["model.preset=smollm2-135m"], False),
        (["model.preset=smollm2-135m", "recommend.use_images=true"], True),
        (["model.preset=smollm2-135m", "baselines.content=image"], True),
        (["model.preset=smollm2-135m", "align.enabled=true"], True),
    ],
)
def test_settings_say_whether_a_model_reads_images(changes: list[str], reads: bool) -> None:
    assert load_settings("default", changes, environment={}).reads_images is reads
