"""Shared prefixes that are computed once give the same losses, gradients and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import ANY_PREFIX, prefix_support
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import add_lora, image_token_ids
from mllm_msr.ranker.training.loss import choice_logits, example_losses
from mllm_msr.ranker.training.prefix_sharing import (
    SharedPrefixes,
    find_shared_prefixes,
    supports_shared_prefixes,
)

Checkpoint = Callable[[str], Path]

PLACEHOLDER = 9
IMAGE = (PLACEHOLDER,) * 10


def rendered(image: str | None, *ids: int) -> Rendered:
    shown = (Path(image),) if image else ()
    return Rendered((1, *(IMAGE if image else ()), *ids), shown, len(ids), trimmed=False)


def find(*prompts: Rendered) -> SharedPrefixes | None:
    return find_shared_prefixes(prompts, frozenset({PLACEHOLDER}))


class TestFind:
    def test_prompts_of_one_image_share_their_prefix(self) -> None:
        found = find(
            rendered("a", 5, 6, 2),
            rendered("b", 5, 7, 2),
            rendered("a", 5, 7, 2, 3),
            rendered("b", 5, 7, 3),
        )
        assert found == SharedPrefixes(rows=(0, 1), prefix_of_row=(0, 1, 0, 1), lengths=(12, 13))

    def test_single_prompt_is_split_to_the_longest_suffix_of_the_others(self) -> None:
        group = [rendered("a", 5, n, 2) for n in range(10, 16)]
        found = find(*group, rendered("b", *range(20, 28)))
        assert found is not None
        assert found.prefix_of_row == (0,) * 6 + (1,)
        assert found.lengths == (12, 19 - 2)

    def test_last_token_is_never_in_the_prefix(self) -> None:
        found = find(*[rendered("a", 5, 6)] * 3)
        assert found == SharedPrefixes(rows=(0,), prefix_of_row=(0, 0, 0), lengths=(12,))

    @pytest.mark.parametrize(
        "prompts",
        [
            [rendered("a", 5, 6), rendered("b", 5, 6)],
            [rendered("a", 5, 6), rendered("a", 5, 7), rendered(None, 5, 6)],
            [rendered("a", 5, 6), *[rendered(str(n), 5, 6) for n in range(8)], rendered("a", 5, 7)],
        ],
        ids=["all images differ", "one has no image", "little to save"],
    )
    def test_prompts_are_not_split_if_little_is_saved(self, prompts: Sequence[Rendered]) -> None:
        assert find(*prompts) is None

    def test_image_after_differing_text_is_not_shared(self) -> None:
        ids = [(1, word, *IMAGE, 5) for word in (20, 21, 22)]
        prompts = [Rendered(row, (Path("a"),), 3, trimmed=False) for row in ids]
        assert find(*prompts) is None


def listed(image: str | None, user: Sequence[int], *ids: int) -> Rendered:
    """Return a prompt that begins with the user."""
    shown = (Path(image),) if image else ()
    return Rendered((*user, *(IMAGE if image else ()), *ids), shown, 0, trimmed=False)


class TestFindByTarget:
    ANN, BOB = tuple(range(20, 60)), (*range(20, 35), *range(70, 100))

    def find(self, prompts: Sequence[Rendered], targets: Sequence[int]) -> SharedPrefixes | None:
        return find_shared_prefixes(prompts, frozenset({PLACEHOLDER}), targets=targets)

    def test_prompts_of_a_target_share_the_text_before_their_images(self) -> None:
        # Equal placeholders of different images are not shared, nor are those of one image.
        found = self.find(
            [
                listed("a", self.ANN, 5, 2),
                listed("b", self.BOB, 5, 2),
                listed("c", self.ANN, 5, 2),
                listed("b", self.BOB, 6, 2),
            ],
            [7, 8, 7, 8],
        )
        assert found == SharedPrefixes(
            rows=(0, 1), prefix_of_row=(0, 1, 0, 1), lengths=(40, 45), images_in_suffix=True
        )

    def test_candidates_without_an_image_share_the_prefix(self) -> None:
        prompts = [listed("a", self.ANN, 5, 2), listed(None, self.ANN, 5, 2)]
        prompts += [listed("c", self.BOB, 5, 2)]
        found = self.find(prompts, [0, 0, 1])
        assert found is not None
        assert found.lengths == (40, 45), "the single prompt is split before its image"

    def test_text_prompts_share_all_equal_tokens_but_the_last(self) -> None:
        found = self.find([listed(None, self.ANN, 5, 2)] * 2, [0, 0])
        assert found is not None
        assert found.lengths == (41,)

    def test_prompts_are_not_split_if_nothing_is_shared(self) -> None:
        prompts = [listed("a", self.ANN, 5), listed("b", self.BOB, 5)]
        assert self.find(prompts, [0, 1]) is None
        assert self.find([listed("a", (1,), *range(20, 60)), listed("b", (1,), 5)], [0, 0]) is None
        assert self.find([listed("a", (), 5), listed("b", (), 5)], [0, 0]) is None


def prepared(
    folder: Path, examples: Any, attention: Any, **options: Any
) -> tuple[Any, Collator, VisionCache]:
    loaded = load_model(str(folder), dtype="float32", device="cpu", attention=attention)
    renderer = Renderer(loaded.processor, supports_images=True)
    model = add_lora(loaded.model, rank=2, alpha=4, dropout=0.0, init="gaussian")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1, generator=generator)
    return model, Collator(renderer, examples, **options), VisionCache(model, renderer)


@dataclass
class Step:
    """Results of a forward and a backward pass over ten examples."""

    losses: torch.Tensor
    scores: torch.Tensor
    gradients: dict[str, torch.Tensor]
    n_read: int


def learn(
    model: Any, collator: Collator, vision: VisionCache | None, shared: SharedPrefixes | None
) -> Step:
    """Compute losses, gradients and scores, and count the tokens that the decoder reads."""
    read: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"][..., 0].numel()), with_kwargs=True
    )
    prompts = [collator.rendered(index) for index in range(10)]
    split = shared is not None and not shared.images_in_suffix
    shown = [prompts[row] for row in shared.rows] if shared and split else prompts
    images = {} if vision is None else vision.inputs(shown)
    pixels = vision is None
    batch = collator.training_batch(range(10), pixels=pixels)
    labels = batch.pop("labels")
    model.zero_grad()
    losses = example_losses(model, {**batch, **images}, labels, shared)
    losses.sum().backward()
    n_read = sum(read)
    hook.remove()
    scoring = {**collator.scoring_batch(range(10), pixels=pixels), **images}
    with torch.no_grad():
        scores = choice_logits(model, scoring, collator.choice_ids, shared)
    gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    return Step(losses.detach(), scores, gradients, n_read)


def require_equal(step: Step, whole: Step) -> None:
    assert step.n_read < 0.9 * whole.n_read
    assert torch.allclose(step.losses, whole.losses, atol=1e-4)
    assert torch.allclose(step.scores, whole.scores, atol=1e-4)
    assert step.gradients.keys() == whole.gradients.keys()
    for name, gradient in step.gradients.items():
        assert torch.allclose(gradient, whole.gradients[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("order", ["item-first", "user-first", "user-first, pixels"])
def test_losses_gradients_and_scores_equal_those_of_whole_prompts(
    order: str, attention: str, tiny_checkpoint: Checkpoint, make_examples: Any, make_lists: Any
) -> None:
    order, _, pixels = order.partition(", ")
    if order == "item-first":
        examples = make_examples(10, shown=True)
    else:
        # The last candidate of the list has no image.
        examples = [*make_lists(3, 3), *make_lists(3, 1, shown=False)[2:]]
    folder = tiny_checkpoint("llava_next")
    model, collator, vision = prepared(folder, examples, attention, order=order)
    assert supports_shared_prefixes(model)
    prompts = [collator.rendered(index) for index in range(10)]
    # The titles or preferences, and so the prefixes, have several lengths.
    targets = collator.targets(range(10))
    prefixes = find_shared_prefixes(prompts, image_token_ids(model), targets=targets)
    assert prefixes is not None
    assert len(set(prefixes.lengths)) > 1
    features = None if pixels else vision
    require_equal(
        learn(model, collator, features, prefixes), learn(model, collator, features, None)
    )


@pytest.mark.parametrize("order", ["item-first", "user-first"])
@pytest.mark.parametrize(
    "family",
    [
        *("aya_vision", "gemma3", "gemma4", "gemma4_bidirectional", "glm46v", "glm4v"),
        *("granite4_vision", "idefics3", "internvl", "llava", "llava_onevision"),
        *("mistral3", "pixtral", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm"),
        "llava_efficientnet",
    ],
)
def test_other_families_learn_the_same_from_shared_prefixes(
    family: str, order: str, tiny_checkpoint: Checkpoint, make_examples: Any, make_lists: Any
) -> None:
    if family in {"mistral3", "pixtral"}:
        pytest.importorskip("torchvision")
    examples = make_examples(10, shown=True) if order == "item-first" else make_lists(3, 4)[:10]
    model, collator, vision = prepared(tiny_checkpoint(family), examples, "auto", order=order)
    assert supports_shared_prefixes(model)
    prompts = [collator.rendered(index) for index in range(10)]
    targets = collator.targets(range(10))
    if prefix_support(model.config).window:  # of the tiny checkpoints, 64 tokens
        model.config.get_text_config().sliding_window = 300
    support = prefix_support(model.config)
    tokens = image_token_ids(model)
    prefixes = find_shared_prefixes(prompts, tokens, targets=targets, support=support)
    if order == "user-first" and family in {"gemma3", "gemma4_bidirectional"}:
        assert prefixes is None
        return
    assert prefixes is not None
    require_equal(learn(model, collator, vision, prefixes), learn(model, collator, vision, None))


def test_prompts_longer_than_the_sliding_window_are_not_split() -> None:
    prompts = [rendered("a", 5, 6, n) for n in range(20, 24)]
    tokens = frozenset({PLACEHOLDER})
    whole = find_shared_prefixes(prompts, tokens)
    assert whole is not None
    fits, exceeds = (dataclasses.replace(ANY_PREFIX, window=window) for window in (14, 13))
    assert find_shared_prefixes(prompts, tokens, support=fits) == whole
    assert find_shared_prefixes(prompts, tokens, support=exceeds) is None


@pytest.mark.parametrize("family", ["qwen3_5", "mllama"])
def test_other_models_are_not_supported(family: str, tiny_checkpoint: Checkpoint) -> None:
    model = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu").model
    assert not supports_shared_prefixes(model)


def test_gradient_checkpointing_does_not_support_shared_prefixes(
    tiny_checkpoint: Checkpoint,
) -> None:
    model: Any = load_model(str(tiny_checkpoint("smolvlm")), dtype="float32", device="cpu").model
    assert supports_shared_prefixes(model)
    model.gradient_checkpointing_enable()
    assert not supports_shared_prefixes(model)
