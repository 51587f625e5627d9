"""Assembly of the small model: a checkpoint with the structure of LLaVA in a new folder.

The folder is an ordinary checkpoint of Transformers. Its only special part is the type of the
vision tower, which `models.efficientnet_lite` registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mllm_msr.errors import BackendError
from mllm_msr.models.efficientnet_lite import EfficientNetLiteConfig
from mllm_msr.models.small.language import IMAGE_TOKEN, LanguageModel, read_language_model
from mllm_msr.models.small.sources import LANGUAGE, PROJECTOR, VISION, verified_file
from mllm_msr.models.small.vision import read_tower

# Increase it if the same packages give other weights or files.
VERSION: Final = 1
_DTYPE: Final = torch.bfloat16
# EfficientNet-Lite was trained on (pixel - 127) / 128.
_MEAN: Final = 127 / 255
_STD: Final = 128 / 255


def assemble(folder: Path, *, image_grid: int) -> None:
    """Write the checkpoint.

    Args:
        folder: An empty folder.
        image_grid: Number of rows and of columns of image tokens.

    Raises:
        BackendError: A package is not installed or contains other files than expected.
    """
    language = read_language_model(verified_file(LANGUAGE))
    tower = read_tower(verified_file(VISION), token_grid=image_grid)
    config = _llava_config(language, tower.config)
    state: dict[str, Tensor] = {
        **{f"model.language_model.{k}": v.to(_DTYPE) for k, v in language.state.items()},
        # A small part of the weights, with values of many magnitudes: in full precision.
        **{f"model.vision_tower.{k}": v for k, v in tower.state_dict().items()},
        **{f"model.multi_modal_projector.{k}": v for k, v in load_file(PROJECTOR).items()},
    }
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    _require_same_shapes(model, state)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()  # the output embeddings are the input embeddings
    model.save_pretrained(folder)
    config.dtype = _DTYPE  # `save_pretrained` records that of the first weight
    config.save_pretrained(folder)
    _make_processor(language, tower.config).save_pretrained(folder)
    (folder / "README.md").write_text(_readme(image_grid), encoding="utf-8")


def _require_same_shapes(model: Any, state: Mapping[str, Tensor]) -> None:
    """Check that weights are those of a model, by name and shape."""
    expected = {name: weight.shape for name, weight in model.state_dict().items()}
    del expected["lm_head.weight"]  # the input embeddings
    found = {name: weight.shape for name, weight in state.items()}
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    if wrong:
        raise BackendError(
            f"The model smollm cannot be assembled: {len(wrong)} weights, such as {wrong[0]}, do "
            "not fit its configuration. Reinstall mllm-msr and the packages of the weights."
        )


def _llava_config(
    language: LanguageModel, vision: EfficientNetLiteConfig
) -> transformers.LlavaConfig:
    return transformers.LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_index=language.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=vision.token_grid**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        bos_token_id=language.tokenizer.bos_token_id,
        eos_token_id=language.tokenizer.eos_token_id,
        pad_token_id=language.tokenizer.pad_token_id,
    )


def _make_processor(
    language: LanguageModel, vision: EfficientNetLiteConfig
) -> transformers.LlavaProcessor:
    """Return the processor; images are resized without a crop, so that no part of them is lost."""
    images = ViTImageProcessorPil(
        size={"height": vision.image_size, "width": vision.image_size},
        resample=3,  # bicubic
        image_mean=[_MEAN] * 3,
        image_std=[_STD] * 3,
    )
    return transformers.LlavaProcessor(
        images,
        language.tokenizer,
        patch_size=vision.image_size // vision.token_grid,
        vision_feature_select_strategy="full",
        chat_template=language.tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
    )


def _readme(image_grid: int) -> str:
    """Return a description of the checkpoint, with the licenses of its sources."""
    parts = [
        "# SmolLM2-135M-Instruct with EfficientNet-Lite0",
        "mllm-msr assembled this checkpoint from installed packages.",
        f"An image is {image_grid**2} tokens; their projector is a part of mllm-msr.",
    ]
    for source in (LANGUAGE, VISION):
        parts += [
            f"## {source.distribution} {source.tested_version}",
            f"{source.content}. License: {source.license}. Source: {source.url}",
        ]
        if source.license_text:
            parts.append(f"```text\n{source.license_text}\n```")
    return "\n\n".join(parts) + "\n"
