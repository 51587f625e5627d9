"""Tests of the stage `align`: later stages of the run use its projector."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import CapabilityError, RunFolderError, SettingsError
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.backends import open_backend
from mllm_msr.pipeline.pipeline import Pipeline


def test_later_stages_use_the_projector_of_the_run(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    data = worlds.write_files(tmp_path / "data")
    settings = load_settings(
        "default",
        [
            *(each for each in worlds.settings(data) if not each.startswith("model.")),
            "model.backend=huggingface",
            f"model.checkpoint={tiny_checkpoint('llava_efficientnet')}",
            "align.enabled=true",
            "align.max_steps=2",
            "summarize.modalities=[image]",
            "summarize.image_words=1",
        ],
        environment={},
    )
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
        with pytest.raises(RunFolderError, match="Run the stage 'align' first"):
            pipeline.run_stage("summarize")
        pipeline.run_stage("align")
        (counts,) = pipeline.counts("align").values()
        assert (counts["images"], counts["examples"], counts["steps"]) == (15, 30, 2)
        assert counts["outputs"] == ["alignment/projector.safetensors"]
        pipeline.run_stage("summarize")
        stages = pipeline.run.stages
        model = aligned(settings, pipeline.run)
    with contextlib.closing(open_backend(model)) as backend:
        assert stages["summarize"]["model"] == backend.fingerprint
    assert stages["align"]["model"] != backend.fingerprint


def test_models_that_cannot_be_aligned_are_errors(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    settings = load_settings("default", worlds.settings(data, "align.enabled=true"), environment={})
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
        with pytest.raises(CapabilityError, match="'mock' has no projector to train"):
            pipeline.run_stage("align")
        other = pipeline.with_settings({"score.model.backend": "mock"})
        with pytest.raises(SettingsError, match="cannot be combined with score"):
            other.run_stage("align")
