"""The layer that `add_lora` inserts gives the results, parameters and gradients of PEFT's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")

from mllm_msr.ranker.training.lora_linear import LowRankLinear  # noqa: E402 - needs PEFT


class Two(nn.Module):
    """Two layers, so that gradients must pass through an adapted one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return hidden


def adapted(*, ours: bool, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["first", "second"], **options)
    if ours:
        config._register_custom_module({nn.Linear: LowRankLinear})
    model = peft.get_peft_model(Two().to(dtype), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_()
    return model


def learn(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(2)  # for the dropout mask
    output = model(x)
    output.square().sum().backward()
    return output.detach(), {n: w.grad for n, w in model.named_parameters() if w.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6)])
def test_outputs_and_gradients_equal_pefts(shape: tuple[int, ...], dropout: float) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3), requires_grad=True)
    ours = adapted(ours=True, lora_dropout=dropout).train()
    reference = adapted(ours=False, lora_dropout=dropout).train()
    assert isinstance(ours.base_model.model.first, LowRankLinear)
    assert not isinstance(reference.base_model.model.first, LowRankLinear)
    output, gradients = learn(ours, x)
    own_input_gradient, x.grad = x.grad, None
    expected, expected_gradients = learn(reference, x)
    assert output.shape == (*shape[:-1], 4)
    assert torch.allclose(output, expected, atol=1e-5)
    assert own_input_gradient is not None
    assert x.grad is not None
    assert torch.allclose(own_input_gradient, x.grad, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected_gradients[name], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("autocast", [True, False])
def test_frozen_half_precision_layer_keeps_its_dtype(autocast: bool) -> None:
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(3)).bfloat16()
    models = [adapted(ours=ours, dtype=torch.bfloat16) for ours in (True, False)]
    assert models[0].base_model.model.first.lora_A["default"].weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, expected = (model(x) for model in models)
    assert output.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected.float(), rtol=0.05, atol=0.1)


def test_merged_and_disabled_adapters_are_left_to_peft() -> None:
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    model = adapted(ours=True)
    with torch.no_grad():
        unmerged = model(x)
        with model.disable_adapter():
            assert torch.allclose(model(x), Two()(x))
        model.merge_adapter()
        assert torch.allclose(model(x), unmerged, atol=1e-4)
