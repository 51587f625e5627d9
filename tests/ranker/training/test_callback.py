from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mllm_msr.ranker.training.callback import TrainingCallback
from mllm_msr.ranker.training.checkpoint import Progress, load_newest
from mllm_msr.ranker.training.lora import trainable_tensors


class Run:
    """Minimal trainer and module for the callback, with one weight that counts the steps."""

    def __init__(self, folder: Path, values: list[float], *, n_steps: int, **options: Any) -> None:
        self.progress = Progress()
        self.folder = folder
        self.trainer: Any = SimpleNamespace(
            is_global_zero=True,
            should_stop=False,
            loggers=[],
            strategy=SimpleNamespace(barrier=lambda: None),
            precision_plugin=SimpleNamespace(state_dict=dict),
        )
        self.module: Any = SimpleNamespace(
            accumulate=2,
            sampler=SimpleNamespace(n_steps=n_steps),
            take_loss=self._take_loss,
            take_gradient_norm=lambda: 0.0,
            learning_rate=0.1,
            model=torch.nn.Linear(1, 1, bias=False),
            validation_scores=lambda batch_size, show: [float(batch_size)],
            trainable_weights=lambda: trainable_tensors(self.module.model),
            state_tensors=lambda: {"model.weight": self.module.model.weight},
        )
        self.losses: list[float] = []
        self.advanced: list[int] = []
        remaining = iter(values)
        self.callback = TrainingCallback(
            folder,
            self.progress,
            fingerprint={"seed": 3},
            metric=(lambda _: next(remaining)) if values else None,
            batch_size=4,
            advance=self.advanced.append,
            **options,
        )

    def _take_loss(self) -> float:
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        return mean

    def run(self) -> None:
        self.callback.on_train_start(self.trainer, self.module)
        for index in range(2 * self.module.sampler.n_steps):
            step, part = divmod(index, 2)
            self.losses.append(float(index))
            self.module.model.weight.data.fill_(step + 1)
            batch: Any = {"step": step, "part": part}
            self.callback.on_train_batch_end(self.trainer, self.module, None, batch, index)
            if self.trainer.should_stop:
                break

    @property
    def log(self) -> list[dict[str, float]]:
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def test_steps_are_logged_and_saved_at_whole_steps_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = Run(
        tmp_path, [], n_steps=3, validate_every=1, checkpoint_every=2, early_stopping_patience=1
    )
    run.run()
    assert [row["step"] for row in run.log] == [1, 2, 3]
    words = "step 1, loss 0.5, gradient norm 0, learning rate 0.1, seconds "
    assert caplog.messages[0].startswith(words)
    assert [row["loss"] for row in run.log] == [0.5, 2.5, 4.5]
    assert sorted(p.name for p in tmp_path.glob("state-*")) == ["state-00000002", "state-00000003"]
    assert run.progress.stopped_because == "all steps done"
    assert run.advanced == [1, 1, 1]


def test_best_weights_are_saved_and_patience_stops_training(tmp_path: Path) -> None:
    values = [0.5, 0.7, 0.7, 0.6, 0.9]
    run = Run(
        tmp_path,
        values,
        n_steps=9,
        validate_every=1,
        checkpoint_every=100,
        early_stopping_patience=2,
    )
    run.run()
    assert run.trainer.should_stop
    assert (run.progress.best, run.progress.best_step, run.progress.step) == (0.7, 2, 4)
    assert float(run.progress.best_weights["weight"]) == 2.0
    state = load_newest(tmp_path)
    assert state is not None
    assert state.fingerprint == {"seed": 3}
    assert float(state.part("best.")["weight"]) == 2.0
    assert float(state.part("model.")["weight"]) == 4.0
    restored = Progress.from_state(state)
    assert restored.stopped_because == "no improvement in 2 validations"


def test_validation_runs_when_due_and_at_the_end(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        [0.1] * 9,
        n_steps=5,
        validate_every=2,
        checkpoint_every=0,
        early_stopping_patience=9,
    )
    run.run()
    assert [row["step"] for row in run.log if "validation_auc" in row] == [2, 4, 5]
    assert not list(tmp_path.glob("state-*"))


def test_workers_of_a_failed_training_end_unobserved(tmp_path: Path) -> None:
    """Lightning kills this process if a worker in the list has failed."""
    run = Run(
        tmp_path, [], n_steps=1, validate_every=1, checkpoint_every=1, early_stopping_patience=1
    )
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    observed = [worker]
    run.trainer.strategy.launcher = SimpleNamespace(procs=observed)
    run.callback.on_exception(run.trainer, run.module, RuntimeError())
    assert worker.poll() == -signal.SIGKILL
    assert observed == []
    run.trainer.strategy.launcher = None
    run.callback.on_exception(run.trainer, run.module, RuntimeError())


def test_only_rank_zero_writes(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        [0.1] * 9,
        n_steps=2,
        validate_every=1,
        checkpoint_every=1,
        early_stopping_patience=9,
    )
    run.trainer.is_global_zero = False
    run.run()
    assert not list(tmp_path.iterdir())
