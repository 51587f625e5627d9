"""Prompts with several images of an item give the results of plain calls of processor and model.

Items with two images, one image and no image are mixed, so that prompts are batched, share
prefixes and reuse features as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import family_checks
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import prefix_support
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import add_lora, image_token_ids
from mllm_msr.ranker.training.loss import example_losses
from mllm_msr.ranker.training.prefix_sharing import find_shared_prefixes
from mllm_msr.types import ImagePart, Item, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]

FAMILIES = ("llava", "qwen2_vl", "smolvlm")
ORDERS = ("item-first", "user-first")
TASTES = ("calm films", "golden lanterns on stripes", "both")


def make_examples(images: Sequence[Path], order: PromptOrder, *, blank: bool) -> list[Example]:
    """Return one example for each user and item: two images, two others, one, or none."""
    shown = [images[:2], images[2:], images[:1], *([()] if blank else [])]
    return [
        Example(
            *(0, "train", "uniform", f"u{user}", 5, f"i{number}", (user + number) % 2),
            build_prompt(
                f"The user appears to have a preference for {taste}.",
                Item(f"i{number}", f"title {number}").with_images(paths),
                item_type="product",
                order=order,
            ),
        )
        for user, taste in enumerate(TASTES)
        for number, paths in enumerate(shown)
    ]


class WrittenOrder(family_checks.Family):
    """LLaVA, whose own chat template moves all images to the beginning of a turn."""

    def plain_text(self, prompt: Prompt) -> str:
        text: str = super().plain_text(self._in_text(prompt))
        return text

    def plain_text_closed(self, prompt: Prompt) -> str:
        text: str = super().plain_text_closed(self._in_text(prompt))
        return text

    def _in_text(self, prompt: Prompt) -> Prompt:
        """Write the placeholders of images into the text."""
        image = f"{self.processor.image_token}\n"
        first, *others = prompt.messages
        texts = [image if isinstance(part, ImagePart) else part.text for part in first.parts]
        return Prompt((Message(first.role, (TextPart("".join(texts)),)), *others))


def load(name: str, folder: Path) -> family_checks.Family:
    kind = WrittenOrder if name == "llava" else family_checks.Family
    return kind(folder, vision=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores(
    family: str, order: PromptOrder, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    plain = load(family, tiny_checkpoint(family))
    prompts = [example.prompt for example in make_examples(images, order, blank=True)]
    assert [len(prompt.images) for prompt in prompts[:4]] == [2, 2, 1, 0]
    family_checks.check_scores(plain, prompts)
    # A second call reads the states and features of the first one.
    engine = Engine(plain.loaded, batch_size=5, prefix_cache_bytes=2**28)
    for _ in range(2):
        found = dict(engine.score(prompts, family_checks.CHOICES))
        for index, prompt in enumerate(prompts):
            expected = plain.plain_scores(prompt)[plain.choice_ids(prompt)].tolist()
            assert found[index].log_probs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_image_and_the_order_of_images_matter(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    engine = Engine(load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu"))
    variants = ([images[0], images[1]], [images[0], images[2]], [images[1], images[0]])
    prompts = [
        build_prompt("calm", Item("i", "title").with_images(paths), item_type="film")
        for paths in variants
    ]
    scores = dict(engine.score(prompts, family_checks.CHOICES))
    assert len({scores[index].log_probs for index in range(3)}) == 3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_with_shared_prefixes_and_cached_features(
    family: str, order: PromptOrder, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    plain = load(family, tiny_checkpoint(family))
    examples = make_examples(images, order, blank=order == "user-first")
    model: Any = add_lora(plain.model, rank=2, alpha=4, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1, generator=generator)
    collator = Collator(Renderer(plain.processor, supports_images=True), examples, order=order)
    indices = range(len(examples))
    prompts = [collator.rendered(index) for index in indices]
    prefixes = find_shared_prefixes(
        prompts,
        image_token_ids(model),
        targets=collator.targets(indices),
        support=prefix_support(model.config),
    )
    assert prefixes is not None
    assert len(prefixes.rows) == 3
    vision = VisionCache(model, Renderer(plain.processor, supports_images=True))
    rows = indices if prefixes.images_in_suffix else prefixes.rows
    features = vision.inputs([prompts[row] for row in rows])
    batch = collator.training_batch(indices, pixels=False)
    labels = batch.pop("labels")
    losses = example_losses(model, {**batch, **features}, labels, prefixes)
    expected = []
    for example in examples:
        target = plain.choice_ids(example.prompt)[1 - example.label]
        logits = model(**plain.plain_inputs(example.prompt)).logits[0, -1].float()
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
    torch.testing.assert_close(losses, torch.stack(expected), atol=1e-4, rtol=0)
