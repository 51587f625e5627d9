"""EfficientNet-Lite: padding, tokens, and the same features in every batch and mode.

`small/test_vision.py` compares the pretrained tower with the reference implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn import functional

from mllm_msr.models.efficientnet_lite import (
    EfficientNetLiteConfig,
    EfficientNetLiteModel,
    SameConv2d,
)

HALVES = (slice(0, 2), slice(2, 4))


@pytest.fixture(scope="module")
def tower() -> EfficientNetLiteModel:
    """Return a small tower whose features are 4 x 4."""
    config = EfficientNetLiteConfig(
        image_size=32,
        stem_size=8,
        stages=[[1, 3, 1, 1, 8], [2, 5, 2, 3, 12], [2, 3, 2, 2, 16]],
        hidden_size=24,
        token_grid=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EfficientNetLiteModel(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=1 / weight[0].numel() ** 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(6, 6), (7, 8), (9, 5)])
def test_padding_is_that_of_tensorflow(size: tuple[int, int], kernel: int, stride: int) -> None:
    """The output has ceil(n / stride) positions; the smaller half of the padding comes first."""
    layer = SameConv2d(2, 3, kernel, stride=stride)
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    sides = []
    for n in reversed(size):
        n_out = -(-n // stride)
        total = max((n_out - 1) * stride + kernel - n, 0)
        sides += [total // 2, total - total // 2]
    expected = functional.conv2d(functional.pad(image, sides), layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(image), expected)


def test_blocks_are_residual_where_the_shape_stays(tower: EfficientNetLiteModel) -> None:
    assert [block.is_residual for block in tower.blocks] == [True, False, True, False, True]
    block = tower.blocks[2]
    features = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(2))
    inner = functional.relu6(block.depthwise(functional.relu6(block.expand(features))))
    torch.testing.assert_close(block(features), features + block.project(inner))


def test_tokens_are_the_pooled_features_row_by_row(
    tower: EfficientNetLiteModel, pixels: torch.Tensor
) -> None:
    output = tower(pixels)
    features = tower.extract_features(pixels)
    assert features.shape == (3, 24, 4, 4)
    assert output.last_hidden_state.shape == (3, 4, 24)
    quarters = [features[:, :, rows, columns] for rows in HALVES for columns in HALVES]
    for token, quarter in enumerate(quarters):
        torch.testing.assert_close(output.last_hidden_state[:, token], quarter.mean(dim=(2, 3)))
    torch.testing.assert_close(output.pooler_output, features.mean(dim=(2, 3)))
    assert output.hidden_states == (output.last_hidden_state,)


def test_features_depend_neither_on_the_batch_nor_on_the_mode(
    tower: EfficientNetLiteModel, pixels: torch.Tensor
) -> None:
    together = tower(pixels).last_hidden_state
    assert (together.std(dim=0) > 0).any(), "the features of different images are equal"
    alone = torch.cat([tower(image[None]).last_hidden_state for image in pixels])
    torch.testing.assert_close(together, alone)
    before = {name: weight.clone() for name, weight in tower.state_dict().items()}
    training = tower.train()(pixels).last_hidden_state
    tower.eval()
    torch.testing.assert_close(training, together)
    assert all(torch.equal(before[name], weight) for name, weight in tower.state_dict().items())


def test_transformers_saves_and_loads_it(
    tower: EfficientNetLiteModel, pixels: torch.Tensor, tmp_path: Path
) -> None:
    tower.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is EfficientNetLiteModel
    assert loaded.config.stages == tower.config.stages
    assert loaded.config.token_grid == 2
    assert torch.equal(loaded(pixels).last_hidden_state, tower(pixels).last_hidden_state)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_it_works_with_every_attention_of_the_language_model(
    attention: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        tiny_checkpoint("llava_efficientnet"), attn_implementation=attention
    )
    assert model.get_decoder().config._attn_implementation == attention


def test_the_language_model_can_be_trained_with_gradient_checkpointing(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    folder = tiny_checkpoint("llava_efficientnet")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).train()
    model.gradient_checkpointing_enable()
    ids = torch.tensor([[model.config.image_token_index] * 4 + [8, 9, 10]])
    model(input_ids=ids, pixel_values=torch.zeros(1, 3, 36, 36), labels=ids).loss.backward()
    layer = model.get_decoder().layers[0]
    assert layer.gradient_checkpointing
    assert layer.self_attn.q_proj.weight.grad.abs().sum() > 0


def test_the_defaults_are_lite0() -> None:
    with torch.device("meta"):
        tower = EfficientNetLiteModel(EfficientNetLiteConfig())
        output = tower(torch.empty(2, 3, 224, 224))
        features = tower.extract_features(torch.empty(2, 3, 224, 224))
    assert len(tower.blocks) == 16
    # 4,652,008 weights of Lite0 (Liu 2020), without those of the classifier and with one bias
    # for the two weights of each normalization.
    layers = [layer for layer in tower.modules() if isinstance(layer, SameConv2d)]
    n_channels = sum(layer.out_channels for layer in layers)
    n_weights = sum(weight.numel() for weight in tower.parameters())
    assert n_weights + n_channels == 4_652_008 - 1000 * 1281
    assert features.shape == (2, 1280, 7, 7)
    assert output.last_hidden_state.shape == (2, 16, 1280)
