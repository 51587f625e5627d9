"""Training of baselines: exact resumption, best weights, early stopping and limits."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
from types import SimpleNamespace

import pytest
import torch

from mllm_msr.baselines._training.options import LoopOptions
from mllm_msr.baselines._training.train import seeded, train
from mllm_msr.errors import MissingExtraError, StaleStageError

OPTIONS = LoopOptions(epochs=4, learning_rate=0.05, precision="fp32", seed=2)


class KilledError(Exception):
    """Simulates a killed process."""


def network() -> torch.nn.Module:
    with seeded(0):
        return torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )


def batches(epoch: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(epoch)))


def run(net, *, validate=None, options=OPTIONS, loss=None, **more):
    def squared(batch):
        return ((net(batch)[:, 0] - batch.sum(1)) ** 2).mean()

    return train(net, batches, loss=loss or squared, validate=validate, options=options, **more)


def weights(net) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in net.parameters()])


def test_training_changes_weights_but_not_the_callers_random_state():
    net = network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    log = run(net)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(weights(net), weights(network()))
    assert not net.training
    assert (log.epochs, log.best_value, log.stopped_because) == (4, None, "all epochs done")


def test_killed_run_resumes_to_the_same_weights(tmp_path):
    whole, killed = network(), network()
    values = [0.1, 0.4, 0.2, 0.3]
    run(whole, validate=iter(values).__next__)
    calls = 0

    def die():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        return values[calls - 1]

    with pytest.raises(KilledError):
        run(killed, validate=die, folder=tmp_path)
    again = network()
    log = run(again, validate=iter(values[2:]).__next__, folder=tmp_path)
    assert torch.equal(weights(again), weights(whole))
    assert (log.epochs, log.best_epoch, log.best_value) == (4, 2, 0.4)
    # A finished run is neither trained nor validated again.
    assert run(network(), folder=tmp_path) == log


def test_best_weights_are_kept_and_patience_stops_training():
    net, seen = network(), []
    values = iter([0.2, 0.9, 0.8, 0.7, 0.6])

    def validate():
        assert not net.training
        seen.append(weights(net))
        return next(values)

    options = LoopOptions(epochs=50, early_stopping_patience=2, precision="fp32")
    log = run(net, validate=validate, options=options)
    assert torch.equal(weights(net), seen[1])
    assert (log.epochs, log.best_epoch) == (4, 2)
    assert log.stopped_because == "no improvement in 2 validations"


def test_last_epoch_is_always_validated():
    calls = []
    run(
        network(),
        validate=lambda: calls.append(1) or 0.5,
        options=LoopOptions(epochs=5, validate_every=2),
    )
    assert len(calls) == 3


def test_epochs_are_shown_also_those_of_a_resumed_run(tmp_path, caplog):
    shown = []

    @contextlib.contextmanager
    def show(total, done):
        steps = []
        shown.append((total, done, steps))
        yield steps.append

    caplog.set_level("INFO")
    run(network(), options=LoopOptions(epochs=4), show=show)

    def die():
        if len(shown[-1][2]) == 3:
            raise KilledError
        return 0.5

    with pytest.raises(KilledError):
        run(network(), validate=die, folder=tmp_path, show=show)
    run(network(), validate=lambda: 0.3, folder=tmp_path, show=show)
    assert shown == [(4, 0, [1] * 4), (4, 0, [1] * 3), (4, 2, [1] * 2)]
    assert "Trained 4 epochs in " in caplog.messages[0]
    assert caplog.messages[-1].endswith(
        "all epochs done; kept epoch 1 with validation value 0.500."
    )


def test_time_limit_stops_training():
    log = run(network(), options=LoopOptions(epochs=10**6, max_minutes=1e-9))
    assert (log.epochs, log.stopped_because) == (1, "time limit of 1e-09 minutes")
    assert log.is_time_limited


def test_a_reached_time_limit_is_logged_and_others_are_not(caplog):
    assert not run(network(), options=LoopOptions(epochs=2)).is_time_limited
    assert "max_minutes" not in caplog.text
    run(network(), options=LoopOptions(epochs=9, max_minutes=1e-9))
    assert "depends on the speed of the machine" in caplog.text


def test_there_is_no_time_limit_by_default(monkeypatch):
    calls = itertools.count(step=10**6)  # 12 days between two calls
    clock = SimpleNamespace(monotonic=lambda: next(calls))
    monkeypatch.setattr("mllm_msr.baselines._training.loop.time", clock)
    assert run(network(), options=LoopOptions(epochs=3)).epochs == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"options": LoopOptions(epochs=4, learning_rate=0.1)}, "learning_rate"),
        ({"fingerprint": {"data": "other"}}, "data"),
        ({"fingerprint": {}}, "data"),
        ({"fingerprint": {"data": "this", "settings": {"hidden": 3}}}, "settings"),
    ],
)
def test_state_of_another_run_is_rejected(tmp_path, changed, named):
    run(network(), folder=tmp_path, fingerprint={"data": "this"})
    with pytest.raises(StaleStageError, match=f"another run: different .*{named}"):
        run(network(), **{"folder": tmp_path, "fingerprint": {"data": "this"}, **changed})


def test_missing_lightning_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mllm-msr\[train\]"):
        run(network())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gradients_are_clipped_in_every_precision(precision):
    found = []
    for clip in (0.0, 1e-6):
        net = network()
        run(net, options=LoopOptions(epochs=1, clip=clip, beta2=0.5, precision=precision))
        found.append(weights(net))
    assert not torch.equal(*found)


def test_autocast_is_used_where_bf16_is_supported(monkeypatch):
    seen = []
    net = network()

    def loss(batch):
        seen.append(net[0](batch).dtype)
        return net(batch).float().mean()

    for supported in (True, False):
        monkeypatch.setattr(
            f"{train.__module__}.supports_bf16", lambda supported=supported: supported
        )
        run(net, loss=loss, options=LoopOptions(epochs=1))
    assert set(seen[:3]) == {torch.bfloat16}
    assert set(seen[3:]) == {torch.float32}
