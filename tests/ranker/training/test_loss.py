from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_checkpoints
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import prefix_support
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.loss import choice_logits, example_losses, list_losses
from mllm_msr.ranker.training.prefix_sharing import find_shared_prefixes

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


def test_loss_of_lists_is_softmax_over_candidates_and_a_share_of_cross_entropy() -> None:
    differences = torch.tensor([0.3, -1.2, 2.0, 0.5, -0.5])
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    found = list_losses(differences, labels, [3, 2], pointwise_share=0.2)
    weights = differences.exp()
    probability = torch.sigmoid(differences)
    cross_entropy = -torch.where(labels == 1, probability, 1 - probability).log()
    first = -(weights[1] / weights[:3].sum()).log() + 0.2 * cross_entropy[:3].mean()
    second = -(weights[3] / weights[3:].sum()).log() + 0.2 * cross_entropy[3:].mean()
    assert torch.allclose(found, torch.stack([first, second]), atol=1e-6)
    # Without the share, only differences between candidates matter.
    shifted = list_losses(differences + 5, labels, [3, 2], pointwise_share=0.0)
    plain = list_losses(differences, labels, [3, 2], pointwise_share=0.0)
    assert torch.allclose(shifted, plain, atol=1e-5)


@pytest.mark.parametrize("shown", [False, True])
def test_lists_learn_the_same_from_shared_prefixes_as_from_plain_prompts(
    shown: bool, tiny_checkpoint: Checkpoint, make_lists: Any
) -> None:
    """The reference runs each prompt alone, without sharing, padding or selected positions."""
    examples = [
        replace(example, label=int(number % 3 == 1))
        for number, example in enumerate(make_lists(3, 3, shown=shown))
    ]
    folder = tiny_checkpoint("llava_next" if shown else "llama")
    model, collator = parts(folder, examples, order="user-first")
    lists = collator.lists()
    assert [len(one) for one in lists] == [3, 3, 3]
    labels, ids = collator.labels(range(9)), collator.choice_ids
    prompts = [collator.rendered(index) for index in range(9)]
    prefixes = find_shared_prefixes(
        prompts,
        frozenset({model.config.image_token_id} if shown else ()),
        targets=collator.targets(range(9)),
        support=prefix_support(model.config),
    )
    assert prefixes is not None

    def learn(logits: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        differences = logits[:, 0] - logits[:, 1]
        losses = list_losses(differences, labels, [3, 3, 3], pointwise_share=0.2)
        model.zero_grad()
        losses.mean().backward()
        gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
        return losses.detach(), gradients

    losses, gradients = learn(choice_logits(model, collator.scoring_batch(range(9)), ids, prefixes))
    alone = [model(**collator.scoring_batch([row])).logits[0, -1, list(ids)] for row in range(9)]
    expected, expected_gradients = learn(torch.stack(alone))
    assert torch.allclose(losses, expected, atol=1e-4)
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-4, rtol=1e-3), name
