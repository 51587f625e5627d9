from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_checkpoints
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.loss import choice_logits, example_losses

Checkpoint = Callable[[str], Path]


def parts(folder: Path, examples: Any, **options: Any) -> tuple[Any, Collator]:
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    return loaded.model, Collator(renderer, examples, **options)


@pytest.mark.parametrize("loss", ["answer", "full"])
@torch.no_grad()
def test_losses_equal_those_of_the_full_logits(
    tiny_checkpoint: Checkpoint, make_examples: Any, loss: Any
) -> None:
    model, collator = parts(tiny_checkpoint("llama"), make_examples(4), loss=loss)
    batch = collator.training_batch(range(4))
    labels = batch.pop("labels")
    found = example_losses(model, batch, labels)
    logits = model(**batch).logits
    for row in range(4):
        expected = nn.functional.cross_entropy(logits[row, :-1], labels[row, 1:])
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("family", tiny_checkpoints.FAMILIES)
@torch.no_grad()
def test_choice_logits_do_not_depend_on_the_batch(
    tiny_checkpoint: Checkpoint, make_examples: Any, family: str
) -> None:
    examples = make_examples(5, shown=family in tiny_checkpoints.VISION_FAMILIES)
    model, collator = parts(tiny_checkpoint(family), examples)
    together = choice_logits(model, collator.scoring_batch(range(5)), collator.choice_ids)
    assert together.dtype == torch.float32
    for row in range(5):
        inputs = collator.scoring_batch([row])
        alone = choice_logits(model, inputs, collator.choice_ids)
        assert torch.allclose(together[row], alone[0], atol=1e-4)
        whole = model(**inputs).logits[0, -1, list(collator.choice_ids)]
        assert torch.allclose(alone[0], whole, atol=1e-4)


@torch.no_grad()
def test_choice_logits_are_float32_under_autocast(
    tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    model, collator = parts(tiny_checkpoint("llama"), make_examples(4))
    inputs = collator.scoring_batch(range(4))
    with torch.autocast("cpu", torch.bfloat16):
        logits = choice_logits(model, inputs, collator.choice_ids)
    assert logits.dtype == torch.float32
    # A bfloat16 number has 8 bits of mantissa; these have more.
    assert not torch.equal(logits, logits.bfloat16().float())
