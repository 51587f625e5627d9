"""Linear layer with LoRA that makes fewer passes over memory than PEFT's; used by `add_lora`.

PEFT's own layer writes the product of the two matrices, scales it and adds it to the output of the
frozen layer in three passes, and converts its input to float32 and back under autocast. For small
and medium widths this costs as much as the frozen product. Here the product with the second matrix
is added to the output of the frozen layer in place. Parameters, their names and saved files are the
same as PEFT's. This module imports PEFT, so it is imported only when training starts.
"""

from __future__ import annotations

from typing import Any, final

import torch
from peft.tuners import lora
from torch import Tensor, nn


@final
class LowRankLinear(lora.Linear):  # type: ignore[misc]
    """Frozen linear layer W with trainable matrices A and B: W x + scale * B A x.

    All other cases (merged or several adapters, variants of LoRA, a frozen layer of another type)
    fall back to PEFT's layer.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map inputs [..., in] to outputs [..., out] in the dtype of the frozen layer's output."""
        if args or kwargs or not self._is_plain(x):
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        (name,) = self.active_adapters
        rows = x.flatten(0, -2)  # [tokens, in]
        output: Tensor = self.base_layer(rows)
        inner = self.lora_A[name](self.lora_dropout[name](rows)).to(output.dtype)
        second = self.lora_B[name].weight.to(output.dtype)
        # In place is safe: the backward pass of a linear layer does not read its output.
        output.addmm_(inner, second.T, alpha=self.scaling[name])
        return output.view(*x.shape[:-1], -1)

    def _is_plain(self, x: Tensor) -> bool:
        names = self.active_adapters
        return (
            len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant
            and not (self.disable_adapters or self.merged or self.lora_bias[names[0]])
            and type(self.base_layer) is nn.Linear
            and (
                torch.is_autocast_enabled(x.device.type)
                or x.dtype == self.lora_A[names[0]].weight.dtype
            )
        )
