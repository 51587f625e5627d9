"""The assembled checkpoint: standard files, the weights of its sources, and their licenses."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from mllm_msr.errors import BackendError
from mllm_msr.models.loading import load_model
from mllm_msr.models.small import assembly
from mllm_msr.models.small.language import LanguageModel, read_language_model
from mllm_msr.models.small.sources import LANGUAGE, VISION
from mllm_msr.models.small.vision import read_tower


@pytest.fixture(scope="module")
def model(assembled: Path) -> Any:
    return load_model(str(assembled), dtype="float32", device="cpu")


def test_the_folder_is_a_checkpoint_of_llava(assembled: Path, model: Any) -> None:
    names = {path.name for path in assembled.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert type(model.model) is transformers.LlavaForConditionalGeneration
    assert model.supports_images
    config = json.loads((assembled / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    assert 250e6 < sum(path.stat().st_size for path in assembled.iterdir()) < 300e6


@torch.inference_mode()
def test_the_language_model_is_that_of_the_package_in_bfloat16(model: Any) -> None:
    assert LANGUAGE.path is not None
    language = read_once(LANGUAGE.path)
    plain = transformers.LlamaForCausalLM(language.config).eval()
    plain.model.load_state_dict({k: v.bfloat16().float() for k, v in language.state.items()})
    ids = torch.tensor([language.tokenizer("The capital of France is")["input_ids"]])
    logits = model.model(input_ids=ids).logits
    torch.testing.assert_close(logits, plain(ids).logits, atol=1e-4, rtol=1e-4)
    assert language.tokenizer.decode(logits[0, -1].argmax()) == " Paris"


@torch.inference_mode()
def test_images_become_the_tokens_of_the_tower(model: Any) -> None:
    assert VISION.path is not None
    gradient = Image.linear_gradient("L").convert("RGB").resize((90, 300))
    inputs = model.processor(text="<image>", images=gradient, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[model.model.config.image_token_index] * 16]
    # Pixels as EfficientNet-Lite was trained: the whole image, (pixel - 127) / 128.
    resized = np.asarray(gradient.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = (torch.tensor(resized).permute(2, 0, 1) - 127) / 128
    torch.testing.assert_close(inputs["pixel_values"][0], expected)
    tower = read_tower(VISION.path, token_grid=4)
    tokens = tower(inputs["pixel_values"]).last_hidden_state
    features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
    projected = model.model.model.multi_modal_projector(tokens)
    torch.testing.assert_close(features.pooler_output[0], projected[0])


def test_the_readme_names_the_sources_with_their_licenses(assembled: Path) -> None:
    text = (assembled / "README.md").read_text(encoding="utf-8")
    for source in (LANGUAGE, VISION):
        assert f"{source.distribution} {source.tested_version}" in text
        assert source.url in text
        assert source.license_text in text


@pytest.fixture
def fast(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the language model only once in this module."""
    monkeypatch.setattr(assembly, "read_language_model", read_once)


@functools.cache
def read_once(path: Path) -> LanguageModel:
    return read_language_model(path)


def write_projector(path: Path, *, n_in: int = 1280) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    state = {
        f"linear_{layer}.{kind}": torch.randn(shape, generator=generator).bfloat16()
        for layer, size in ((1, n_in), (2, 576))
        for kind, shape in (("weight", (576, size)), ("bias", (576,)))
    }
    save_file(state, path)
    return state


def test_the_package_contains_a_small_projector() -> None:
    assert assembly.PROJECTOR.stat().st_size < 5e6
    shapes = {name: tuple(weight.shape) for name, weight in load_file(assembly.PROJECTOR).items()}
    assert shapes == {
        "linear_1.weight": (576, 1280),
        "linear_1.bias": (576,),
        "linear_2.weight": (576, 576),
        "linear_2.bias": (576,),
    }


@pytest.mark.usefixtures("fast")
def test_the_packaged_projector_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = write_projector(tmp_path / "projector.safetensors")
    monkeypatch.setattr(assembly, "PROJECTOR", tmp_path / "projector.safetensors")
    folder = tmp_path / "assembled"
    folder.mkdir()
    assembly.assemble(folder, image_grid=5)
    weights = load_file(folder / "model.safetensors")
    for name, weight in state.items():
        (found,) = (v for k, v in weights.items() if k.endswith(f"multi_modal_projector.{name}"))
        assert torch.equal(found, weight)
    processor = load_model(str(folder), dtype="bfloat16", device="cpu").processor
    inputs = processor(text="<image>", images=Image.new("RGB", (9, 9)), return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 25)


@pytest.mark.usefixtures("fast")
def test_a_projector_that_does_not_fit_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "PROJECTOR", tmp_path / "projector.safetensors")
    write_projector(tmp_path / "projector.safetensors", n_in=640)
    with pytest.raises(BackendError, match=r"1 weights, such as .*projector\.linear_1\.weight, do"):
        assembly.assemble(tmp_path, image_grid=4)
    save_file({"linear_1.weight": torch.zeros(576, 1280)}, tmp_path / "projector.safetensors")
    with pytest.raises(BackendError, match="3 weights"):
        assembly.assemble(tmp_path, image_grid=4)


@pytest.mark.usefixtures("fast")
def test_assembly_is_deterministic(assembled: Path, tmp_path: Path) -> None:
    assembly.assemble(tmp_path, image_grid=4)
    for path in assembled.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
