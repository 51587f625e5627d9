from __future__ import annotations

import math

import pytest
import torch

from mllm_msr.config.settings import TrainSettings
from mllm_msr.ranker.distributed.base import Replicas, sharing_of


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model of one learning and one frozen weight after one step."""
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad = False
    optimizer = torch.optim.AdamW([model.weight], lr=0.1)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["auto", "ddp"])
def test_lightning_knows_the_plain_ways_by_name(name: str) -> None:
    assert sharing_of(TrainSettings(strategy=name)).lightning() == name


def test_full_sharding_takes_the_devices_of_all_machines() -> None:
    settings = TrainSettings(strategy="fsdp", devices=2, nodes=3)
    strategy = sharing_of(settings).lightning()
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)
    assert not sharing_of(settings).reads_beginnings


def test_the_norm_is_that_of_all_gradients() -> None:
    _, optimizer = trained()
    sharing = Replicas("auto")
    assert sharing.gradient_norm(optimizer) == 5
    assert sharing.norm_of_last_step(optimizer) is None
    for group in optimizer.param_groups:
        group["params"][0].grad[0, 0] = math.nan
    assert math.isnan(sharing.gradient_norm(optimizer))


def test_an_optimiser_goes_on_from_what_was_saved() -> None:
    model, optimizer = trained()
    sharing = Replicas("auto")
    tensors = sharing.optimizer_tensors(model, optimizer)
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    names = ("step", "exp_avg", "exp_avg_sq")
    assert saved.keys() == {f"optimizer.{name}.weight" for name in names}
    assert sharing.weights(model).keys() == {"weight"}
    other = torch.nn.Linear(2, 1)
    other.load_state_dict(model.state_dict())
    other.bias.requires_grad = False
    resumed = torch.optim.AdamW([other.weight], lr=0.1)
    sharing.restore(other, resumed, saved)
    for each, weight in ((optimizer, model.weight), (resumed, other.weight)):
        weight.grad = torch.tensor([[1.0, -1.0]])
        each.step()
    assert torch.equal(model.weight, other.weight)


def test_a_state_before_the_first_step_restores_nothing() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    Replicas("auto").restore(model, optimizer, {})
    assert not optimizer.state
