"""The shared loop: it resumes to the same weights, keeps the best ones, and ends in time."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from mllm_msr.baselines._training.train import LoopOptions, seeded, train
from mllm_msr.errors import MissingExtraError, NonFiniteLossError, StaleStageError

OPTIONS = LoopOptions(epochs=4, learning_rate=0.05, precision="fp32", seed=2)


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def network() -> torch.nn.Module:
    with seeded(0):
        return torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )


def batches(epoch: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(epoch)))


def run(net, *, judge=None, options=OPTIONS, loss=None, **more):
    def squared(batch):
        return ((net(batch)[:, 0] - batch.sum(1)) ** 2).mean()

    return train(net, batches, loss=loss or squared, judge=judge, options=options, **more)


def weights(net) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in net.parameters()])


def test_it_learns_and_leaves_the_callers_chance_alone():
    net = network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    log = run(net)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(weights(net), weights(network()))
    assert not net.training
    assert (log.epochs, log.best_value, log.stopped_because) == (4, None, "all epochs done")


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole, killed = network(), network()
    values = [0.1, 0.4, 0.2, 0.3]
    run(whole, judge=iter(values).__next__)
    calls = 0

    def die():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        return values[calls - 1]

    with pytest.raises(KilledError):
        run(killed, judge=die, folder=tmp_path)
    again = network()
    log = run(again, judge=iter(values[2:]).__next__, folder=tmp_path)
    assert torch.equal(weights(again), weights(whole))
    assert (log.epochs, log.best_epoch, log.best_value) == (4, 2, 0.4)
    # Finished is finished: nothing is trained or judged a third time.
    assert run(network(), judge=None, folder=tmp_path).epochs == 4


def test_the_weights_that_the_judge_liked_best_are_kept_and_early_stopping_patience_ends_it():
    net, seen = network(), []
    values = iter([0.2, 0.9, 0.8, 0.7, 0.6])

    def judge():
        assert not net.training
        seen.append(weights(net))
        return next(values)

    options = LoopOptions(epochs=50, early_stopping_patience=2, precision="fp32")
    log = run(net, judge=judge, options=options)
    assert torch.equal(weights(net), seen[1])
    assert (log.epochs, log.best_epoch) == (4, 2)
    assert log.stopped_because == "no gain in 2 validations"


def test_validation_may_be_rarer_than_epochs_but_never_misses_the_last():
    calls = []
    run(
        network(),
        judge=lambda: calls.append(1) or 0.5,
        options=LoopOptions(epochs=5, validate_every=2),
    )
    assert len(calls) == 3


def test_time_is_bounded():
    log = run(network(), options=LoopOptions(epochs=10**6, max_minutes=1e-9))
    assert (log.epochs, log.stopped_because) == (1, "1e-09 minutes are over")


def test_a_loss_that_is_not_finite_stops_training():
    net = network()
    with pytest.raises(NonFiniteLossError, match="received nan in batch 0 of epoch 1"):
        run(net, loss=lambda batch: net(batch).sum() * torch.nan)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"options": LoopOptions(epochs=4, learning_rate=0.1)}, "learning_rate"),
        ({"facts": {"data": "other"}}, "data"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, changed, named):
    run(network(), folder=tmp_path, facts={"data": "this"})
    with pytest.raises(StaleStageError, match=f"another .*{named}"):
        run(network(), **{"folder": tmp_path, "facts": {"data": "this"}, **changed})


def test_without_lightning_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mllm-msr\[train\]"):
        run(network())


def test_autocast_is_used_where_bfloat16_is_fast(monkeypatch):
    seen = []
    net = network()

    def loss(batch):
        seen.append(net[0](batch).dtype)
        return net(batch).float().mean()

    for fast in (True, False):
        monkeypatch.setattr(f"{train.__module__}.runs_bf16", lambda fast=fast: fast)
        run(net, loss=loss, options=LoopOptions(epochs=1))
    assert set(seen[:3]) == {torch.bfloat16}
    assert set(seen[3:]) == {torch.float32}


def test_all_settings_out_of_range_are_named_at_once():
    wrong = LoopOptions(
        epochs=0, learning_rate=0.0, beta2=1.0, weight_decay=-1.0, max_minutes=0.0, precision="int8"
    )
    problems = " ".join(wrong.problems())
    for name in ("epochs", "learning_rate", "beta2", "weight_decay", "max_minutes", "precision"):
        assert f"{name} must" in problems
    assert LoopOptions().problems() == []
