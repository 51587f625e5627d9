"""Beginnings that are read once: the same losses, gradients and scores, for less work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import add_lora, image_token_ids
from mllm_msr.ranker.training.loss import choice_logits, example_losses
from mllm_msr.ranker.training.prefix_sharing import Beginnings, can_read_beginnings, find_beginnings
from mllm_msr.ranker.training.vision_cache import VisionCache

Checkpoint = Callable[[str], Path]

IMAGE = 9
IMAGE = (IMAGE,) * 10


def rendered(image: str | None, *ids: int) -> Rendered:
    shown = (Path(image),) if image else ()
    return Rendered((1, *(IMAGE if image else ()), *ids), shown, len(ids), trimmed=False)


def find(*prompts: Rendered) -> Beginnings | None:
    return find_beginnings(prompts, frozenset({IMAGE}))


class TestFind:
    def test_prompts_of_one_image_share_what_they_begin_with(self) -> None:
        found = find(
            rendered("a", 5, 6, 2),
            rendered("b", 5, 7, 2),
            rendered("a", 5, 7, 2, 3),
            rendered("b", 5, 7, 3),
        )
        assert found == Beginnings(rows=(0, 1), owners=(0, 1, 0, 1), lengths=(12, 13))

    def test_one_that_stands_alone_leaves_no_longer_rest_than_the_others(self) -> None:
        group = [rendered("a", 5, n, 2) for n in range(10, 16)]
        found = find(*group, rendered("b", *range(20, 28)))
        assert found is not None
        assert found.owners == (0,) * 6 + (1,)
        assert found.lengths == (12, 19 - 2)

    def test_the_last_token_stays_outside(self) -> None:
        found = find(*[rendered("a", 5, 6)] * 3)
        assert found == Beginnings(rows=(0,), owners=(0, 0, 0), lengths=(12,))

    @pytest.mark.parametrize(
        "prompts",
        [
            [rendered("a", 5, 6), rendered("b", 5, 6)],
            [rendered("a", 5, 6), rendered("a", 5, 7), rendered(None, 5, 6)],
            [rendered("a", 5, 6), *[rendered(str(n), 5, 6) for n in range(8)], rendered("a", 5, 7)],
        ],
        ids=["no two of a image", "one without a image", "little to save"],
    )
    def test_whole_prompts_where_that_is_no_worse(self, prompts: Sequence[Rendered]) -> None:
        assert find(*prompts) is None

    def test_a_image_behind_what_differs_is_not_cut(self) -> None:
        ids = [(1, taste, *IMAGE, 5) for taste in (20, 21, 22)]
        prompts = [Rendered(row, (Path("a"),), 3, trimmed=False) for row in ids]
        assert find(*prompts) is None


def prepared(
    tiny_checkpoint: Checkpoint, make_examples: Any, attention: Any
) -> tuple[Any, Collator, VisionCache]:
    folder = str(tiny_checkpoint("llava_next"))
    loaded = load_model(folder, dtype="float32", device="cpu", attention=attention)
    renderer = Renderer(loaded.processor, supports_images=True)
    model = add_lora(loaded.model, rank=2, alpha=4, dropout=0.0, init="gaussian")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    return model, Collator(renderer, make_examples(10, shown=True)), VisionCache(model, renderer)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_gradients_and_scores_are_those_of_whole_prompts(
    attention: str, tiny_checkpoint: Checkpoint, make_examples: Any
) -> None:
    model, collator, vision = prepared(tiny_checkpoint, make_examples, attention)
    assert can_read_beginnings(model)
    prompts = [collator.rendered(index) for index in range(10)]
    # Their texts, and so what they share, are of several lengths.
    beginnings = find_beginnings(prompts, image_token_ids(model))
    assert beginnings is not None
    assert len(set(beginnings.lengths)) > 1
    read: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"][..., 0].numel()), with_kwargs=True
    )

    def learn(
        shared: Beginnings | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor, int]:
        shown = prompts if shared is None else [prompts[row] for row in shared.rows]
        batch = collator.training_batch(range(10), pixels=False)
        labels = batch.pop("labels")
        model.zero_grad()
        read.clear()
        losses = example_losses(model, {**batch, **vision.inputs(shown)}, labels, shared)
        losses.sum().backward()
        n_read = sum(read)
        scoring = {**collator.scoring_batch(range(10), pixels=False), **vision.inputs(shown)}
        with torch.no_grad():
            scores = choice_logits(model, scoring, collator.choice_ids, shared)
        gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.requires_grad}
        return losses.detach(), gradients, scores, n_read

    losses, gradients, scores, n_read = learn(beginnings)
    whole_losses, whole_gradients, whole_scores, n_whole = learn(None)
    assert n_read < 0.9 * n_whole
    assert torch.allclose(losses, whole_losses, atol=1e-4)
    assert torch.allclose(scores, whole_scores, atol=1e-4)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, whole_gradients[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_other_models_read_whole_prompts(family: str, tiny_checkpoint: Checkpoint) -> None:
    model = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu").model
    assert not can_read_beginnings(model)
