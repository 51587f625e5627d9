from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import DataError, MissingExtraError, SettingsError, StaleStageError
from mllm_msr.ranker.calibration import IDENTITY, read_calibration
from mllm_msr.ranker.training import trainer as trainer_module
from mllm_msr.ranker.training.checkpoint import load_newest
from mllm_msr.ranker.training.trainer import TrainingSummary, train
from mllm_msr.ranker.training.validation import auc_per_user

Checkpoint = Callable[[str], Path]

# Dropout is on, so that equal weights also prove equal dropout masks.
SETTINGS = TrainSettings(
    rank=2,
    alpha=8,
    dropout=0.1,
    learning_rate=1e-2,
    batch_size=4,
    epochs=2,
    precision="fp32",
    validate_every=3,
    checkpoint_every=2,
    early_stopping_patience=100,
)


def changed(settings: TrainSettings, **values: Any) -> TrainSettings:
    return settings.model_copy(update=values)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "adapter" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def log_rows(output: Path) -> list[dict[str, float]]:
    lines = (output / "training" / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    run(tiny_checkpoint, make_examples, output)
    return output


def run(
    tiny_checkpoint: Checkpoint, make_examples: Any, output: Path, **arguments: Any
) -> TrainingSummary:
    arguments = {
        "checkpoint": str(tiny_checkpoint("llama")),
        "output": output,
        "settings": SETTINGS,
        **arguments,
    }
    train_examples = make_examples(24)
    validation = make_examples(16, split="validation", seed=1)
    return train(train_examples, validation, **arguments)


def test_training_improves_and_writes_a_summary(uninterrupted: Path) -> None:
    summary = json.loads((uninterrupted / "training" / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["stopped_because"] == "all steps done"
    assert summary["weights"] == "adapter"
    assert summary["samples_per_second"] == pytest.approx(48 / summary["seconds"])
    values = {
        row["step"]: row["validation_auc"]
        for row in log_rows(uninterrupted)
        if "validation_auc" in row
    }
    assert list(values) == [3, 6, 9, 12]
    assert summary["best_auc"] == max(values.values()) == values[summary["best_step"]]
    losses = [row["loss"] for row in log_rows(uninterrupted) if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert not [p for p in uninterrupted.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_steps_and_validations_are_shown(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    shown: list[tuple[Any, ...]] = []

    @contextmanager
    def show(n_steps: int, n_done: int, part: str = "") -> Iterator[Callable[[int], None]]:
        shown.append((part, n_steps, n_done))
        yield lambda n: shown.append((part, n))

    run(
        tiny_checkpoint,
        make_examples,
        tmp_path,
        settings=changed(SETTINGS, epochs=1, validate_every=6),
        show=show,
    )
    batches = [("validation", 1)] * 4  # 16 examples, 4 per batch
    assert shown == [("", 6, 0), *[("", 1)] * 6, ("validation", 4, 0), *batches]


def test_killed_run_resumes_to_the_same_result(
    tiny_checkpoint: Checkpoint, uninterrupted: Path, tmp_path: Path
) -> None:
    """Kill the process in the middle of an epoch, then run the same call again."""
    script = Path(__file__).with_name("train_and_die.py")
    command = [sys.executable, str(script), str(tiny_checkpoint("llama")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    dead = subprocess.run([*command, "3"], env=environment, capture_output=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()[-2000:]
    states = sorted(p.name for p in (tmp_path / "training").glob("state-*"))
    assert states == ["state-00000006", "state-00000008"]
    assert not (tmp_path / "adapter").exists()
    subprocess.run([*command, "0"], env=environment, capture_output=True, check=True)
    assert same(weights(tmp_path), weights(uninterrupted))
    assert log_rows(tmp_path) == log_rows(uninterrupted)


class InterruptError(Exception):
    """Simulates an interruption."""


@pytest.mark.parametrize("validation", [1, 4])
def test_interrupted_run_resumes_to_the_same_result(
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    uninterrupted: Path,
    tmp_path: Path,
    validation: int,
) -> None:
    calls = 0

    def failing(labels: Any, scores: Any, users: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 1 + validation:  # the first call only checks the examples
            raise InterruptError
        return auc_per_user(labels, scores, users)

    with pytest.raises(InterruptError):
        run(tiny_checkpoint, make_examples, tmp_path, validation_metric=failing)
    if validation == 4:
        newest = max((tmp_path / "training").glob("state-*"))
        (newest / "tensors.safetensors").write_bytes(b"damaged")
    run(tiny_checkpoint, make_examples, tmp_path)
    assert same(weights(tmp_path), weights(uninterrupted))
    assert log_rows(tmp_path) == log_rows(uninterrupted)


def test_finished_run_is_not_trained_again(
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = changed(SETTINGS, max_steps=2)
    first = run(tiny_checkpoint, make_examples, tmp_path, settings=settings)
    before = weights(tmp_path)
    monkeypatch.setattr(trainer_module, "_fit", lambda *_, **__: pytest.fail("trained again"))
    assert run(tiny_checkpoint, make_examples, tmp_path, settings=settings) == first
    assert same(weights(tmp_path), before)


def test_states_of_other_settings_or_examples_are_rejected_by_name(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    settings = changed(SETTINGS, max_steps=2)
    run(tiny_checkpoint, make_examples, tmp_path, settings=settings)
    other = changed(settings, learning_rate=1e-3, checkpoint_every=1)
    with pytest.raises(StaleStageError, match="another run: different learning_rate"):
        run(tiny_checkpoint, make_examples, tmp_path, settings=other)
    with pytest.raises(StaleStageError, match="another run: different train_examples"):
        train(
            make_examples(24, seed=5),
            make_examples(16, split="validation", seed=1),
            checkpoint=str(tiny_checkpoint("llama")),
            output=tmp_path,
            settings=settings,
        )
    restarted = run(tiny_checkpoint, make_examples, tmp_path, settings=other, resume=False)
    assert restarted.steps == 2


@pytest.mark.parametrize("loss", ["answer", "full"])
def test_one_batch_of_eight_equals_eight_batches_of_one(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path, loss: Any
) -> None:
    base = changed(SETTINGS, dropout=0.0, loss=loss, max_steps=3, validate_every=3)
    found = []
    for batch_size, accumulate in ((8, 1), (1, 8)):
        output = tmp_path / str(batch_size)
        settings = changed(base, batch_size=batch_size, accumulate=accumulate)
        run(tiny_checkpoint, make_examples, output, settings=settings)
        found.append(weights(output))
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=2e-5), name


@pytest.mark.parametrize("sizes", [{"batch_size": 1000}, {"batch_size": 2, "accumulate": 500}])
def test_steps_larger_than_the_data_shrink_with_a_warning(
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sizes: dict[str, int],
) -> None:
    settings = changed(SETTINGS, dropout=0.0, **sizes)
    summary = run(tiny_checkpoint, make_examples, tmp_path, settings=settings)
    n_examples = round(summary.samples_per_second * summary.seconds)
    assert (summary.steps, n_examples) == (2, 48)
    assert "The effective batch has 24 examples instead of 1000" in caplog.text
    equal = changed(settings, batch_size=24, accumulate=1)
    run(tiny_checkpoint, make_examples, tmp_path / "equal", settings=equal)
    for name, tensor in weights(tmp_path).items():
        assert torch.allclose(tensor, weights(tmp_path / "equal")[name], atol=2e-5), name


def test_cached_features_train_the_same_weights(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    found = []
    for cache in (False, True):
        train(
            make_examples(16, shown=True),
            [],
            checkpoint=str(tiny_checkpoint("llava_next")),
            output=tmp_path / str(cache),
            settings=changed(SETTINGS, max_steps=3, dropout=0.0, cache_vision=cache),
        )
        found.append(weights(tmp_path / str(cache)))
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name


@pytest.mark.parametrize(("target", "opened"), [("language", 1), ("all-linear", 0)])
def test_features_of_a_vision_tower_that_learns_are_not_cached(
    target: Any,
    opened: int,
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(
        "mllm_msr.ranker.training.trainer.VisionCache.open", lambda *given: calls.append(given)
    )
    train(
        make_examples(8, shown=True),
        [],
        checkpoint=str(tiny_checkpoint("llava_next")),
        output=tmp_path,
        settings=changed(SETTINGS, max_steps=1, target=target),
    )
    assert len(calls) == opened


def test_tiny_llava_overfits_sixteen_examples(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    examples = make_examples(16, shown=True)
    settings = TrainSettings(
        method="full",
        learning_rate=3e-3,
        batch_size=8,
        epochs=40,
        precision="bf16",
        validate_every=10,
        early_stopping_patience=100,
    )
    summary = train(
        examples,
        examples,
        checkpoint=str(tiny_checkpoint("llava_next")),
        output=tmp_path,
        settings=settings,
    )
    assert summary.best_auc == 1.0
    assert summary.weights == tmp_path / "model"
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_training_stops_without_improvement_and_keeps_the_best(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    values = iter([0.5, 0.6, 0.9, 0.8, 0.9, 0.7])  # the first one only checks the examples
    settings = changed(SETTINGS, validate_every=1, early_stopping_patience=3)
    summary = run(
        tiny_checkpoint,
        make_examples,
        tmp_path,
        settings=settings,
        validation_metric=lambda *_: next(values),
    )
    assert (summary.best_auc, summary.best_step, summary.steps) == (0.9, 2, 5)
    assert summary.stopped_because == "no improvement in 3 validations"
    state = load_newest(tmp_path / "training")
    assert state is not None
    kept = weights(tmp_path)
    assert len(kept) == len(state.part("best."))
    for name, tensor in state.part("best.").items():
        assert torch.equal(kept[name.replace(".default.", ".")], tensor)
        assert not torch.equal(tensor, state.part("model.")[name])


def test_without_validation_the_last_weights_are_kept(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    summary = train(
        make_examples(8),
        [],
        checkpoint=str(tiny_checkpoint("llama")),
        output=tmp_path,
        settings=changed(
            SETTINGS, max_steps=2, loggers=("tensorboard", "csv"), gradient_checkpointing=True
        ),
    )
    assert (summary.best_auc, summary.best_step, summary.steps) == (None, 2, 2)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())
    assert list((tmp_path / "tracking" / "tensorboard").rglob("events.*"))
    (file,) = (tmp_path / "tracking" / "csv").rglob("metrics.csv")
    rows = pl.read_csv(file)
    assert rows["step"].to_list() == [1, 2]
    assert rows["train/loss"].is_finite().all()


def test_unusable_arguments_are_rejected(
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = str(tiny_checkpoint("llama"))
    arguments: dict[str, Any] = {"checkpoint": checkpoint, "output": tmp_path, "settings": SETTINGS}
    with pytest.raises(DataError, match="There are no training examples"):
        train([], [], **arguments)
    with pytest.raises(DataError, match="both a positive and a negative candidate"):
        train(make_examples(4), [replace(make_examples(1)[0], label=1)], **arguments)
    if not torch.cuda.is_available():
        half = changed(SETTINGS, precision="fp16")
        with pytest.raises(SettingsError, match="fp16 needs a GPU"):
            train(make_examples(4), [], **{**arguments, "settings": half})
    monkeypatch.setattr(trainer_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"is part of mllm-msr\[train\]. Run: pip install"):
        train(make_examples(4), [], **arguments)
    assert not list(tmp_path.rglob("adapter*"))


def test_metric_gets_scores_in_the_order_of_the_examples(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def metric(labels: Any, scores: Any, users: Any) -> float:
        seen.append((labels.tolist(), scores.tolist(), list(users)))
        return 0.5

    settings = changed(SETTINGS, max_steps=1, batch_size=3)
    run(tiny_checkpoint, make_examples, tmp_path, settings=settings, validation_metric=metric)
    validation = make_examples(16, split="validation", seed=1)
    labels, scores, users = seen[-1]
    assert labels == [example.label for example in validation]
    assert [user.rsplit("/", 1)[1] for user in users] == [e.user_id for e in validation]
    prompts = [example.prompt for example in validation]
    for index, prompt in enumerate(prompts):
        twin = prompts.index(prompt)
        assert scores[index] == pytest.approx(scores[twin], abs=1e-6)
    assert len(np.unique(np.round(scores, 6))) == len(set(prompts))


LISTWISE = changed(
    SETTINGS,
    objective="listwise",
    method="frozen-lower-layers",
    upper_layers=1,
    batch_size=2,
    learning_rate=1e-3,
    dropout=0.0,
)


def lists(make_lists: Any) -> list[Any]:
    """Return eight targets with three candidates each; the second one is the positive."""
    return [
        replace(example, label=int(number % 3 == 1))
        for number, example in enumerate(make_lists(8, 3, shown=False))
    ]


def test_lists_are_learned_and_resumed_to_the_same_full_weights(
    tiny_checkpoint: Checkpoint, make_lists: Any, tmp_path: Path
) -> None:
    examples = lists(make_lists)
    options: Any = {
        "checkpoint": str(tiny_checkpoint("llama")),
        "prompt": RecommendSettings(order="user-first"),
    }
    summary = train(examples, examples, output=tmp_path / "a", settings=LISTWISE, **options)
    assert summary.steps == 8
    assert summary.weights == tmp_path / "a" / "model"
    assert read_calibration(summary.weights) != IDENTITY
    losses = [row["loss"] for row in log_rows(tmp_path / "a") if "loss" in row]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])

    class StopError(Exception):
        pass

    def stop(*_: object) -> float:
        if (tmp_path / "b" / "training" / "state-00000002").exists():
            raise StopError
        return 0.5

    with pytest.raises(StopError):
        train(
            examples,
            examples,
            output=tmp_path / "b",
            settings=LISTWISE,
            validation_metric=stop,
            **options,
        )
    assert not (tmp_path / "b" / "model").exists()
    again = train(examples, examples, output=tmp_path / "b", settings=LISTWISE, **options)
    assert (again.best_auc, again.best_step) == (summary.best_auc, summary.best_step)
    assert read_calibration(again.weights) == read_calibration(summary.weights)
    one, other = (load_file(tmp_path / run / "model" / "model.safetensors") for run in "ab")
    assert same(one, other)
    before = load_file(tiny_checkpoint("llama") / "model.safetensors")
    changed_names = {name for name, tensor in one.items() if not torch.equal(tensor, before[name])}
    n_layers = max(int(name.split(".")[2]) for name in one if ".layers." in name)
    assert changed_names
    assert all(
        f".layers.{n_layers}." in name or name in {"model.norm.weight", "lm_head.weight"}
        for name in changed_names
    )


def test_a_batch_of_lists_equals_accumulated_lists(
    tiny_checkpoint: Checkpoint, make_lists: Any, tmp_path: Path
) -> None:
    found = []
    for batch_size, accumulate in ((4, 1), (1, 4)):
        output = tmp_path / str(batch_size)
        train(
            lists(make_lists),
            [],
            checkpoint=str(tiny_checkpoint("llama")),
            output=output,
            settings=changed(LISTWISE, batch_size=batch_size, accumulate=accumulate),
            prompt=RecommendSettings(order="user-first"),
        )
        found.append(load_file(output / "model" / "model.safetensors"))
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name
