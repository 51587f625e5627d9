from __future__ import annotations

import math

import torch

from mllm_msr.ranker.distributed.base import ReplicatedStrategy


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return a model with a trainable and a frozen weight, and its optimizer after one step."""
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad = False
    optimizer = torch.optim.AdamW([model.weight], lr=0.1)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    return model, optimizer


def test_gradient_norm_covers_all_gradients() -> None:
    _, optimizer = trained()
    strategy = ReplicatedStrategy("auto")
    assert strategy.gradient_norm_before_step(optimizer) == 5
    assert strategy.gradient_norm_after_step(optimizer) is None
    for group in optimizer.param_groups:
        group["params"][0].grad[0, 0] = math.nan
    assert math.isnan(strategy.gradient_norm_before_step(optimizer))


def test_optimizer_resumes_from_the_saved_state() -> None:
    model, optimizer = trained()
    strategy = ReplicatedStrategy("auto")
    tensors = strategy.optimizer_state(model, optimizer)
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    names = ("step", "exp_avg", "exp_avg_sq")
    assert saved.keys() == {f"optimizer.{name}.weight" for name in names}
    assert strategy.trainable_weights(model).keys() == {"weight"}
    other = torch.nn.Linear(2, 1)
    other.load_state_dict(model.state_dict())
    other.bias.requires_grad = False
    resumed = torch.optim.AdamW([other.weight], lr=0.1)
    strategy.restore_optimizer(other, resumed, saved)
    for each, weight in ((optimizer, model.weight), (resumed, other.weight)):
        weight.grad = torch.tensor([[1.0, -1.0]])
        each.step()
    assert torch.equal(model.weight, other.weight)


def test_state_before_the_first_step_restores_nothing() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    ReplicatedStrategy("auto").restore_optimizer(model, optimizer, {})
    assert not optimizer.state
