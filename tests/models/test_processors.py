"""Tests of processors: video parts, missing packages, models that are not supported."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from mllm_msr.errors import BackendError
from mllm_msr.models.loading import load_model, load_processor
from mllm_msr.models.processors import (
    VideoStub,
    find_missing_packages,
    installing_command,
    require_supported,
    without_video,
)

Checkpoint = Callable[[str], Path]

without_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed"
)


class TestVideo:
    @pytest.mark.parametrize(
        "family", ["qwen2_5_vl", "qwen3_vl", "gemma4", "internvl", "minicpmv4_6"]
    )
    def test_the_signature_and_the_position_of_the_parts_remain(
        self, family: str, tiny_checkpoint: Checkpoint
    ) -> None:
        processor = load_processor(str(tiny_checkpoint(family)))
        original = type(processor).__mro__[2]
        assert type(processor).get_attributes() == original.get_attributes()
        assert isinstance(processor.video_processor, VideoStub)
        assert "Pil" in type(processor.image_processor).__name__

    def test_a_saved_processor_loads_again(
        self, tiny_checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        folder = tiny_checkpoint("gemma4")
        processor = load_processor(str(folder))
        processor.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        again = load_processor(str(tmp_path))
        text = [again.image_token]
        image = torch.zeros(3, 40, 60)
        assert (
            again(text=text, images=[image])["input_ids"]
            == (processor(text=text, images=[image])["input_ids"])
        )

    def test_processors_without_video_are_unchanged(self) -> None:
        assert without_video(transformers.LlavaNextProcessor) is transformers.LlavaNextProcessor

    def test_the_stub_has_no_settings_and_can_be_copied(self) -> None:
        stub = copy.deepcopy(VideoStub())
        assert stub.slice_mode is None
        assert list(stub.model_input_names) == []


class TestMissingPackages:
    @without_torchvision
    @pytest.mark.parametrize("family", ["mistral3", "pixtral", "lfm2_vl", "llama4"])
    def test_processors_that_need_torchvision_say_so(
        self, family: str, tiny_checkpoint: Checkpoint
    ) -> None:
        with pytest.raises(
            BackendError,
            match=r"needs torchvision, .*Run: pip install 'mllm-msr\[torchvision\]' torch==\d",
        ):
            load_processor(str(tiny_checkpoint(family)))

    def test_the_command_keeps_the_installed_torch(self) -> None:
        version = torch.__version__.partition("+")[0]
        command = f"pip install 'mllm-msr[torchvision]' torch=={version}"
        assert installing_command(["torchvision"]) == command
        assert installing_command(["torchvision", "timm"]) == f"{command} timm"
        assert installing_command(["timm"]) == "pip install timm"

    def test_only_packages_that_are_missing_are_named(self) -> None:
        error = ImportError("X requires the timm library but it was not found")
        assert find_missing_packages(error) == ["timm"]
        outer = ImportError("Could not import module 'Gemma4Processor'.")
        outer.__cause__ = ModuleNotFoundError("No module named 'timm'")
        assert find_missing_packages(outer) == ["timm"]
        assert not find_missing_packages(ImportError("cannot import name 'x' from timm"))
        assert not find_missing_packages(ValueError("the size is wrong"))


class TestUnsupported:
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (transformers.Phi4MultimodalConfig, "for speech"),
            (transformers.Qwen2_5OmniConfig, "for speech"),
            (transformers.T5Gemma2Config, "encoder"),
            (transformers.DiffusionGemmaConfig, "all words of an answer at once"),
        ],
    )
    def test_models_that_cannot_answer_are_rejected_by_name(
        self, config: type[transformers.PretrainedConfig], reason: str, tmp_path: Path
    ) -> None:
        own = config()
        with pytest.raises(BackendError, match=rf"type '{own.model_type}' are not .*{reason}"):
            require_supported(own)
        own.save_pretrained(tmp_path)
        with pytest.raises(BackendError, match=f"type '{own.model_type}' are not supported"):
            load_model(str(tmp_path))

    def test_decoders_are_supported(self) -> None:
        require_supported(transformers.Qwen3VLConfig())
        require_supported(transformers.LlamaConfig())
