"""The Lightning module of the baselines: optimizer state, saved states and NaN."""

from __future__ import annotations

import pytest
import torch

from mllm_msr.baselines._training.options import LoopOptions
from mllm_msr.baselines._training.train import seeded, train
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.ranker.training.checkpoint import load_newest

OPTIONS = LoopOptions(epochs=3, learning_rate=0.05, precision="fp32")


def line() -> torch.nn.Linear:
    with seeded(0):
        return torch.nn.Linear(2, 1)


def run(net, folder, *, loss=None):
    def squared(batch):
        return (net(batch)[:, 0] - 1).square().mean()

    batches = [torch.ones(4, 2), torch.zeros(4, 2)]
    return train(
        net,
        lambda epoch: batches,
        loss=loss or squared,
        validate=None,
        options=OPTIONS,
        folder=folder,
    )


def test_states_use_the_checkpoint_format_of_the_ranker(tmp_path):
    net = line()
    run(net, tmp_path)
    states = sorted(path.name for path in tmp_path.iterdir())
    assert states == ["state-00000002", "state-00000003"]
    state = load_newest(tmp_path)
    assert state.fingerprint == {"epochs": 3, "learning_rate": 0.05, "precision": "fp32"}
    assert state.progress["stopped_because"] == "all epochs done"
    assert torch.equal(state.part("model.")["weight"], net.weight)
    # Two parameters, three tensors of AdamW each.
    assert len(state.part("optimizer.")) == 6
    assert float(state.tensors["optimizer.0.step"]) == 6


def test_nan_loss_stops_training_and_keeps_the_last_state(tmp_path):
    net = line()
    calls = 0

    def loss(batch):
        nonlocal calls
        calls += 1
        return net(batch).sum() * (torch.nan if calls == 4 else 1.0)

    with pytest.raises(NonFiniteLossError, match="loss is nan in batch 1 of epoch 2"):
        run(net, tmp_path, loss=loss)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001"]


def test_nan_weights_are_not_saved(tmp_path):
    net = line()
    calls = 0

    def loss(batch):
        nonlocal calls
        calls += 1
        outputs = net(batch)
        # Of the last batch, a finite loss with a NaN gradient.
        damage = torch.sqrt(outputs - outputs.detach()).sum() * 0 if calls == 2 else 0
        return outputs.sum() + damage

    with pytest.raises(NonFiniteLossError, match="contains NaN or infinity at step 1"):
        run(net, tmp_path, loss=loss)
    assert not list(tmp_path.iterdir())
