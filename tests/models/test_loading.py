"""Tests of loading checkpoints: model families, fingerprints, adapters, errors."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mllm_msr.errors import BackendError, MissingExtraError
from mllm_msr.models.loading import load_model, load_processor
from tiny_checkpoints import FAMILIES, VISION_FAMILIES

Checkpoint = Callable[[str], Path]


@pytest.fixture
def copy(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a copy of the llama checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint("llama"), tmp_path / "llama")


@pytest.fixture
def adapter(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a LoRA adapter that changes the answers of the llama checkpoint."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


class TestLoadModel:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_loads_without_torchvision(
        self, family: str, tiny_checkpoint: Checkpoint
    ) -> None:
        assert importlib.util.find_spec("torchvision") is None
        loaded = load_model(str(tiny_checkpoint(family)))
        assert loaded.supports_images == (family in VISION_FAMILIES)
        assert loaded.model.dtype == torch.float32
        assert not loaded.model.training
        assert loaded.fingerprint.startswith(f"{family}@")
        if loaded.supports_images:
            assert "Pil" in type(loaded.processor.image_processor).__name__

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_precision_is_part_of_the_fingerprint(
        self, precision: str, tiny_checkpoint: Checkpoint
    ) -> None:
        folder = str(tiny_checkpoint("llama"))
        half = load_model(folder, dtype=precision)  # type: ignore[arg-type]
        assert half.model.dtype == getattr(torch, precision)
        assert half.fingerprint.endswith(f"/{precision}")
        assert half.fingerprint != load_model(folder).fingerprint

    def test_the_attention_implementation_is_applied(self, tiny_checkpoint: Checkpoint) -> None:
        loaded = load_model(str(tiny_checkpoint("llama")), attention="eager")
        assert loaded.model.config._attn_implementation == "eager"

    def test_the_fingerprint_depends_on_the_weights_and_not_on_the_path(self, copy: Path) -> None:
        before = load_model(str(copy)).fingerprint
        moved = copy.rename(copy.parent / "elsewhere") / "model.safetensors"
        assert load_model(str(moved.parent)).fingerprint.split("@")[1] == before.split("@")[1]
        weights = load_file(moved)
        weights["model.norm.weight"] += 1
        save_file(weights, moved, metadata={"format": "pt"})
        assert load_model(str(moved.parent)).fingerprint.split("@")[1] != before.split("@")[1]

    def test_the_chat_template_is_part_of_the_fingerprint(self, copy: Path) -> None:
        before = load_model(str(copy)).fingerprint
        (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        assert load_model(str(copy)).fingerprint != before


class TestErrors:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"cannot load the checkpoint '.*nothing'"):
            load_model(str(tmp_path / "nothing"))

    def test_pickled_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(
            BackendError, match=r"pickle files \(pytorch_model\.bin\), not \*\.safetensors"
        ):
            load_model(str(copy))

    def test_no_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        with pytest.raises(BackendError, match="contains no weights"):
            load_model(str(copy))

    def test_incomplete_weights(self, copy: Path) -> None:
        weights = load_file(copy / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BackendError, match=r"lacks 1 weights \(model\.norm\.weight\)"):
            load_model(str(copy))

    def test_truncated_weights(self, copy: Path) -> None:
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(BackendError, match="Transformers cannot load the checkpoint"):
            load_model(str(copy))

    def test_remote_code_is_not_executed(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
        (copy / "config.json").write_text(json.dumps(config))
        (copy / "code.py").write_text("raise SystemExit('ran')")
        with pytest.raises(BackendError, match="Transformers cannot load the checkpoint"):
            load_model(str(copy))

    @pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
    )
    def test_four_bits_without_the_package(self, tiny_checkpoint: Checkpoint) -> None:
        with pytest.raises(
            MissingExtraError, match=r"is part of mllm-msr\[quantize\]. Run: pip install"
        ):
            load_model(str(tiny_checkpoint("llama")), dtype="4bit")


class TestAdapters:
    def test_an_adapter_changes_the_logits_and_the_fingerprint(
        self, tiny_checkpoint: Checkpoint, adapter: Path
    ) -> None:
        folder = str(tiny_checkpoint("llama"))
        plain, adapted = load_model(folder), load_model(folder, adapter=adapter)
        ids = torch.arange(20).unsqueeze(0)
        with torch.inference_mode():
            difference = plain.model(ids).logits - adapted.model(ids).logits
        assert difference.abs().max() > 1e-3
        assert adapted.fingerprint.startswith(plain.fingerprint.rsplit("/", 1)[0] + "+")
        assert type(adapted.model) is type(plain.model)

    def test_an_adapter_of_another_model(self, tiny_checkpoint: Checkpoint, adapter: Path) -> None:
        weights = load_file(adapter / "adapter_model.safetensors")
        renamed = {name.replace("q_proj", "x_proj"): value for name, value in weights.items()}
        save_file(renamed, adapter / "adapter_model.safetensors")
        with pytest.raises(BackendError, match="missing adapter keys"):
            load_model(str(tiny_checkpoint("llama")), adapter=adapter)

    def test_a_folder_without_adapter(self, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"it has no adapter_config\.json"):
            load_model(str(tiny_checkpoint("llama")), adapter=tmp_path)

    def test_a_pickled_adapter(self, tiny_checkpoint: Checkpoint, adapter: Path) -> None:
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(BackendError, match=r"pickle files \(adapter_model\.bin\)"):
            load_model(str(tiny_checkpoint("llama")), adapter=adapter)


class TestProcessors:
    def test_a_text_model_has_a_plain_tokenizer(self, tiny_checkpoint: Checkpoint) -> None:
        assert not hasattr(load_processor(str(tiny_checkpoint("llama"))), "image_processor")

    def test_smolvlm_uses_the_idefics3_processor(self, tiny_checkpoint: Checkpoint) -> None:
        processor = load_processor(str(tiny_checkpoint("smolvlm")))
        assert type(processor).__name__ == "Idefics3Processor"


def test_a_gpu_that_does_not_exist_is_named(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(
        BackendError, match=r"model\.device is 'cuda:99', but PyTorch finds \d+ CUDA"
    ):
        load_model(str(tiny_checkpoint("llama")), device="cuda:99")
