from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_processor
from mllm_msr.ranker.training import module
from mllm_msr.ranker.training.checkpoint import load_newest
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.loss import example_losses
from mllm_msr.ranker.training.module import MicroBatches
from mllm_msr.ranker.training.sampler import StepSampler
from mllm_msr.ranker.training.trainer import train

Checkpoint = Callable[[str], Path]

SETTINGS = TrainSettings(
    rank=2, learning_rate=1e-3, batch_size=4, precision="fp32", max_steps=6, checkpoint_every=2
)


def infinite_loss(losses: torch.Tensor) -> torch.Tensor:
    return losses * float("inf")


def broken_gradient(losses: torch.Tensor) -> torch.Tensor:
    return losses + torch.sqrt(losses - losses.detach()) * 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (infinite_loss, "loss is inf in optimizer step 3"),
        (broken_gradient, "gradient norm is nan in optimizer step 3"),
    ],
)
def test_nan_never_reaches_the_weights(
    tiny_checkpoint: Checkpoint,
    make_examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[torch.Tensor], torch.Tensor],
    sentence: str,
) -> None:
    calls = 0

    def damaged(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        losses = example_losses(*arguments)
        return damage(losses) if calls == 4 else losses

    def run() -> Any:
        return train(
            make_examples(16),
            [],
            checkpoint=str(tiny_checkpoint("llama")),
            output=tmp_path,
            settings=SETTINGS,
        )

    monkeypatch.setattr(module, "example_losses", damaged)
    with pytest.raises(NonFiniteLossError, match=sentence):
        run()
    state = load_newest(tmp_path / "training")
    assert state is not None
    assert state.step == 2
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())
    assert not (tmp_path / "adapter").exists()
    monkeypatch.undo()
    assert run().steps == 6


def test_ranks_divide_each_step(tiny_checkpoint: Checkpoint, make_examples: Any) -> None:
    processor = load_processor(str(tiny_checkpoint("llama")))
    collator = Collator(Renderer(processor, supports_images=False), make_examples(32))
    sampler = StepSampler(collator.lengths(), 8, n_steps=5, seed=0)
    ranks = [
        MicroBatches(
            collator, sampler, first_step=1, accumulate=2, rank=rank, n_ranks=2, pixels=True
        )
        for rank in range(2)
    ]
    assert [len(rank) for rank in ranks] == [8, 8]
    for step in range(1, 5):
        seen = [rank[(step - 1) * 2 + part] for rank in ranks for part in range(2)]
        assert all(batch["step"] == step for batch in seen)
        assert [batch["part"] for batch in seen] == [0, 1, 0, 1]
        assert all(len(batch["indices"]) == len(batch["labels"]) == 2 for batch in seen)
        indices = sorted(index for batch in seen for index in batch["indices"])
        assert indices == sorted(sampler.indices(step).tolist())


def test_dropout_masks_are_a_function_of_the_seed(
    tiny_checkpoint: Checkpoint, make_examples: Any, tmp_path: Path
) -> None:
    def first_losses(seed: int, *, noise: int) -> list[str]:
        torch.manual_seed(noise)
        output = tmp_path / f"{seed}-{noise}"
        train(
            make_examples(16),
            [],
            checkpoint=str(tiny_checkpoint("llama")),
            output=output,
            settings=SETTINGS.model_copy(
                update={"dropout": 0.5, "seed": seed, "learning_rate": 1e-2}
            ),
        )
        lines = (output / "training" / "log.jsonl").read_text().splitlines()
        return [line.split(', "seconds"')[0] for line in lines]

    assert first_losses(0, noise=1) == first_losses(0, noise=2)
    assert first_losses(0, noise=3) != first_losses(1, noise=3)
