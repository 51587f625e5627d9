"""Checkpoints: saving, loading and replacing."""

import torch
from torch import nn

from recipes.demo_model import training_state


def make_parts():
    module = nn.Linear(3, 2)
    average = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return module, average, {"adamw": torch.optim.AdamW(module.parameters(), lr=0.1)}


def train_step(module, optimizers):
    module(torch.ones(1, 3)).sum().backward()
    optimizers["adamw"].step()
    optimizers["adamw"].zero_grad()


def test_loading_restores_weights_average_and_optimizer(tmp_path):
    module, average, optimizers = make_parts()
    train_step(module, optimizers)
    training_state.save(
        tmp_path, 7, module=module, average=average, optimizers=optimizers, metadata={"seed": 3}
    )
    other, other_average, other_optimizers = make_parts()
    state = training_state.load(
        tmp_path, module=other, average=other_average, optimizers=other_optimizers
    )
    assert (state.step, state.fingerprint) == (7, {"seed": 3})
    train_step(module, optimizers)
    train_step(other, other_optimizers)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(average[name], other_average[name])


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    module, average, optimizers = make_parts()
    parts = {"module": module, "average": average, "optimizers": optimizers}
    for seed in (1, 2):
        training_state.save(tmp_path, 1, **parts, metadata={"seed": seed})
    assert training_state.load(tmp_path, **parts).fingerprint == {"seed": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    module, average, optimizers = make_parts()
    assert (
        training_state.load(tmp_path, module=module, average=average, optimizers=optimizers) is None
    )
