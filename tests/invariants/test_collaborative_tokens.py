"""Prompts with vectors: shared prefixes, saved weights and resumed training change no result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from mllm_msr.config.recommend_settings import PromptOrder, RecommendSettings, UserReading
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.inference.engine import engine as engine_module
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.interfaces import Recommender
from mllm_msr.models.loading import load_model
from mllm_msr.models.vector_tokens import FILE, add_vector_projector
from mllm_msr.ranker.collaborative import CollaborativeVectors
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.ranker.training import module as module_module
from mllm_msr.ranker.training.checkpoint import load_newest
from mllm_msr.ranker.training.trainer import train
from mllm_msr.ranker.training.validation import auc_per_user
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.types import Item, Prompt

Checkpoint = Callable[[str], Path]

CHOICES = ("yes", "no")
N_ITEMS = 6
SETTINGS = {
    "rank": 2,
    "alpha": 8,
    "dropout": 0.1,
    "learning_rate": 5e-3,
    "batch_size": 2,
    "epochs": 2,
    "precision": "fp32",
    "validate_every": 2,
    "checkpoint_every": 2,
    "early_stopping_patience": 100,
}


class FixedVectors:
    """Vectors of i0 to i4, which are known, and of i5, which is hardly known."""

    def item_table(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        drawn = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)
        return [f"i{n}" for n in range(N_ITEMS)], drawn, np.array([9, 7, 9, 5, 6, 1], np.float32)

    def user_states(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> np.ndarray:
        raise NotImplementedError


def fixed_vectors() -> CollaborativeVectors:
    return CollaborativeVectors(
        cast("Recommender", FixedVectors()), name="sasrec", min_interactions=5
    )


def build(
    user: int,
    item: int,
    *,
    order: PromptOrder,
    reads: UserReading = "history",
    image: Path | None = None,
) -> Prompt:
    """Return a prompt; the third user has no vector."""
    state = () if user == 2 else (0.5 * user, 1.0, -1.0, 0.25 * user)
    titles = tuple(f"title {n}" for n in range(user, user + 3))
    preference = f"The user appears to like calm films{' on stripes' * user}."
    known = UserInput(
        preference if reads != "history" else None, titles if reads != "preference" else None, state
    )
    return build_prompt(
        known,
        Item(f"i{item}", f"title {item}{' of a film' * (item % 3)}", image=image),
        item_type="video",
        order=order,
        vectors=fixed_vectors(),
    )


def scores(loaded: Any, prompts: Sequence[Prompt], **options: Any) -> list[tuple[float, ...]]:
    found = dict(Engine(loaded, **options).score(prompts, CHOICES))
    assert all(one.error is None for one in found.values())
    return [found[index].log_probs for index in range(len(prompts))]


@pytest.mark.parametrize("reads", ["preference", "history", "both"])
@pytest.mark.parametrize("order", ["item-first", "user-first", "reranker"])
@pytest.mark.parametrize("family", ["llama", "llava"])
def test_shared_prefixes_do_not_change_scores(
    family: str,
    order: PromptOrder,
    reads: UserReading,
    tiny_checkpoint: Checkpoint,
    images: Sequence[Path],
) -> None:
    check(family, order, reads, tiny_checkpoint, images)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["item-first", "user-first"])
@pytest.mark.parametrize("family", ["gemma4", "lfm2", "qwen2_5_vl", "qwen3_5", "smolvlm"])
def test_shared_prefixes_do_not_change_scores_of_other_models(
    family: str, order: PromptOrder, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    if family == "lfm2":
        images = ()
    check(family, order, "both", tiny_checkpoint, images)


def check(
    family: str,
    order: PromptOrder,
    reads: UserReading,
    tiny_checkpoint: Checkpoint,
    images: Sequence[Path],
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    add_vector_projector(loaded.model, n_dims=4, seed=0)
    shown = [*images, None, None, None] if loaded.supports_images else [None]
    prompts = [
        build(user, item, order=order, reads=reads, image=shown[item % len(shown)])
        for user in range(3)
        for item in range(N_ITEMS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "can_share_prefixes", lambda _: False)
        alone = scores(loaded, prompts, batch_size=1)
    assert len(set(alone)) == len(alone)
    for options in ({"batch_size": 4}, {"batch_size": 32}, {"prefix_cache_bytes": 2**30}):
        for one, other in zip(scores(loaded, prompts, **options), alone, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def examples(order: PromptOrder, *, split: str = "train", n_users: int = 6) -> list[Example]:
    """Return lists of three candidates; the users like items with an even number."""
    return [
        Example(
            0,
            split,
            "uniform",
            f"{split}{user}",
            5,
            f"i{item}",
            int(item == 2 * (user % 3)),
            build(user % 3, item, order=order),
        )
        for user in range(n_users)
        for item in (2 * (user % 3), 1, 5)
    ]


def fit(checkpoint: str, output: Path, *, fatal: int = 0, **changes: Any) -> Path:
    """Train on the lists, and kill this process at the n-th validation (0: never)."""
    order = changes.pop("order", "user-first")
    calls = 0

    def metric(labels: Any, found: Any, users: Any) -> float:
        nonlocal calls
        calls += 1
        if fatal and calls == 1 + fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return auc_per_user(labels, found, users)

    summary = train(
        examples(order),
        examples(order, split="validation", n_users=3),
        checkpoint=checkpoint,
        output=output,
        settings=TrainSettings(**{**SETTINGS, **changes}),
        prompt=RecommendSettings(order=order, reads="history", collaborative="sasrec"),
        n_dims=4,
        validation_metric=metric,
    )
    return summary.weights


def tensors(weights: Path) -> dict[str, torch.Tensor]:
    files = sorted(weights.glob("*.safetensors"))
    assert FILE in [file.name for file in files]
    return {f"{file.name} {k}": v for file in files for k, v in load_file(file).items()}


@pytest.mark.parametrize("objective", ["pointwise", "listwise"])
@pytest.mark.parametrize("order", ["item-first", "user-first"])
def test_training_with_shared_prefixes_gives_the_same_losses_and_gradients(
    order: str,
    objective: str,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without dropout, whose masks prompts of a prefix share."""
    options = {"order": order, "objective": objective, "dropout": 0.0, "max_steps": 3}
    logs = []
    for name in ("shared", "alone"):
        fit(str(tiny_checkpoint("llama")), tmp_path / name, learning_rate=5e-4, **options)
        lines = (tmp_path / name / "training" / "log.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        logs.append([{k: row[k] for k in row if k != "seconds"} for row in rows])
        monkeypatch.setattr(module_module, "supports_shared_prefixes", lambda _: False)
    for shared, alone in zip(*logs, strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)


def test_the_loss_over_the_whole_text_leaves_vectors_out(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    fit(str(tiny_checkpoint("llama")), tmp_path, loss="full", max_steps=2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_saved_weights_give_the_scores_of_the_training(
    method: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = str(tiny_checkpoint("llama"))
    weights = fit(checkpoint, tmp_path, method=method, dropout=0.0)
    source = weights if method == "full" else Path(checkpoint)
    adapter = weights if method == "lora" else None
    loaded = load_model(str(source), dtype="float32", device="cpu", adapter=adapter)
    rows = examples("user-first", split="validation", n_users=3)
    found = scores(loaded, [row.prompt for row in rows])
    values = [1 / (1 + np.exp(no - yes)) for yes, no in found]
    state = load_newest(tmp_path / "training")
    assert state is not None
    assert values == pytest.approx(state.progress["best_scores"], abs=1e-4)
    assert len(set(values)) == len(values)


def test_a_killed_training_resumes_to_the_same_weights(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = str(tiny_checkpoint("llama"))
    expected = tensors(fit(checkpoint, tmp_path / "whole"))
    command = [sys.executable, __file__, checkpoint, str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    dead = subprocess.run([*command, "2"], env=environment, capture_output=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()[-2000:]
    assert list((tmp_path / "killed" / "training").glob("state-*"))
    subprocess.run([*command, "0"], env=environment, capture_output=True, check=True)
    found = tensors(tmp_path / "killed" / "adapter")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_projector_learns(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint = str(tiny_checkpoint("llama"))
    before, after = (
        tensors(fit(checkpoint, tmp_path / f"{n}", max_steps=n, validate_every=n)) for n in (1, 6)
    )
    for name in ("networks.match.0.weight", "unknown.item", "networks.user.2.bias"):
        assert not torch.equal(before[f"{FILE} {name}"], after[f"{FILE} {name}"])
    assert torch.equal(before[f"{FILE} scale"], after[f"{FILE} scale"])


if __name__ == "__main__":
    fit(sys.argv[1], Path(sys.argv[2]), fatal=int(sys.argv[3]))
