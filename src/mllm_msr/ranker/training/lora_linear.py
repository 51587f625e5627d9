"""LoRA's linear layer with fewer passes over memory: what `add_lora` puts into a model.

PEFT's own layer writes the product of the two matrices, scales it and adds it to the frozen
layer's output in three passes, and under autocast it turns its input to float32 and back. For
small and middling widths that costs as much as the frozen product. Here the second matrix's
product is added where the frozen layer's output lies. Parameters, their names and what is saved
are PEFT's. Imported only where training starts, since it imports PEFT.
"""

from __future__ import annotations

from typing import Any, final

import torch
from peft.tuners import lora
from torch import Tensor, nn


@final
class LowRankLinear(lora.Linear):  # type: ignore[misc]
    """A frozen linear layer W and two learning matrices A, B: W x + scale * B A x.

    Whatever is more than that (merged or several adapters, variants of LoRA, a frozen layer of
    another kind) is left to PEFT's layer.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Outputs [..., out] of inputs [..., in], in the precision of the frozen layer's output."""
        if args or kwargs or not self._plain(x):
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        (name,) = self.active_adapters
        rows = x.flatten(0, -2)  # [tokens, in]
        output: Tensor = self.base_layer(rows)
        inner = self.lora_A[name](self.lora_dropout[name](rows)).to(output.dtype)
        second = self.lora_B[name].weight.to(output.dtype)
        # In place under autograd too: a linear layer's backward pass does not read its output.
        output.addmm_(inner, second.T, alpha=self.scaling[name])
        return output.view(*x.shape[:-1], -1)

    def _plain(self, x: Tensor) -> bool:
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
