"""EfficientNet-Lite as a vision tower of Transformers: 16 to 49 image tokens for little time.

EfficientNet-Lite (Liu 2020) is EfficientNet (Tan and Le 2019) without squeeze-and-excitation and
with ReLU6. Batch normalization with fixed statistics is an affine map, which is a part of each
convolution here: features do not depend on the batch or on the mode, and fine-tuning cannot change
statistics. Importing this module registers the classes with Transformers, so that `AutoConfig` and
`AutoModel` load checkpoints whose tower is of this type.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

# Stages of the variant Lite0: repeats, kernel, stride, expansion of the channels, output channels.
_LITE0: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of the tower; the defaults are EfficientNet-Lite0.

    Attributes:
        image_size: Width and height of images, in pixels.
        stem_size: Output channels of the first convolution.
        stages: Repeats, kernel, stride, expansion and output channels of each stage.
        hidden_size: Channels of the features.
        token_grid: Number of rows and of columns of image tokens.
    """

    model_type = "efficientnet_lite"

    image_size: int = 224
    stem_size: int = 32
    stages: list[list[int]] | tuple[tuple[int, ...], ...] = _LITE0
    hidden_size: int = 1280
    token_grid: int = 4
    initializer_range: float = 0.02


class SameConv2d(nn.Conv2d):
    """Square convolution with TensorFlow's "same" padding: an odd pixel is added below and right.

    Args:
        n_in: Input channels.
        n_out: Output channels.
        kernel: Width and height of the kernel, odd and at least `stride`.
        stride: Stride.
        groups: Number of groups of channels.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(n_in, n_out, kernel, stride, padding, groups=groups)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return [batch, n_out, ceil(height / stride), ceil(width / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (kernel - 1 - (n - 1) % stride for n in pixels.shape[-2:])
            sides = (width // 2, width - width // 2, height // 2, height - height // 2)
            pixels = functional.pad(pixels, sides)
        return super().forward(pixels)


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection (Sandler et al. 2018).

    Args:
        n_in: Input channels.
        n_out: Output channels.
        kernel: Width and height of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        expansion: Factor of the channels in between; 1 for no expansion.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = n_in * expansion
        self.expand = SameConv2d(n_in, inner) if expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, kernel, stride=stride, groups=inner)
        self.project = SameConv2d(inner, n_out)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, features: Tensor) -> Tensor:
        """Return the features after the block, [batch, n_out, height, width]."""
        inner = features if self.expand is None else functional.relu6(self.expand(features))
        output: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return output + features if self.is_residual else output


class EfficientNetLiteModel(PreTrainedModel):  # type: ignore[misc]
    """EfficientNet-Lite without its classifier, with a square grid of image tokens.

    Args:
        config: Configuration of the tower.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # It has no attention, so that it works with every implementation of the language model's.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = SameConv2d(3, config.stem_size, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = config.stem_size
        for repeats, kernel, stride, expansion, n_out in config.stages:
            for number in range(repeats):
                block = InvertedBottleneck(
                    channels,
                    n_out,
                    kernel=kernel,
                    stride=stride if number == 0 else 1,
                    expansion=expansion,
                )
                self.blocks.append(block)
                channels = n_out
        self.head = SameConv2d(channels, config.hidden_size)
        self.post_init()

    def extract_features(self, pixel_values: Tensor) -> Tensor:
        """Return the features before pooling.

        Args:
            pixel_values: Normalized images, [batch, 3, height, width].

        Returns:
            Shape [batch, hidden, height / 32, width / 32], in [0, 6].
        """
        # Nearly twice as fast on CPUs in bfloat16, because most convolutions are depthwise.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = functional.relu6(self.stem(pixel_values))
        for block in self.blocks:
            features = block(features)
        return functional.relu6(self.head(features))

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: Normalized images, [batch, 3, height, width].
            **kwargs: Arguments that LLaVA passes to every tower; they have no effect.

        Returns:
            The tokens row by row, [batch, token_grid ** 2, hidden], also as the only hidden state,
            and the mean of the features, [batch, hidden].
        """
        del kwargs
        features = self.extract_features(pixel_values)
        grid = functional.adaptive_avg_pool2d(features, self.config.token_grid)
        tokens = grid.flatten(2).transpose(1, 2)  # [batch, tokens, hidden]
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=features.mean(dim=(2, 3)),
            hidden_states=(tokens,),
        )


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
