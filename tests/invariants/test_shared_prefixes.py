"""Sharing prefixes does not change scores or texts, for every architecture that shares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import transformers

from mllm_msr.inference.engine import engine as engine_module
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.prefix_support import (
    TESTED_DECODERS,
    TESTED_WRAPPERS,
    can_share_prefixes,
    why_not_continuous,
)
from mllm_msr.types import ChoiceScores, Completion, ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]

INSTRUCTION = "You are given the image and the title of a video. Answer only yes or no. "
FAMILIES = (
    *("aya_vision", "gemma3", "gemma4", "gemma4_bidirectional", "glm46v", "glm4v"),
    *("granite4_vision", "idefics3", "internvl", "lfm2", "llama", "llava", "llava_next"),
    *("llava_onevision", "minicpmv4_6", "qwen2", "qwen2_5_vl", "qwen2_vl", "qwen3", "qwen3_5"),
    *("qwen3_vl", "qwen3_vl_moe", "smollm3", "smolvlm", "llava_efficientnet"),
)
# Their image processors need torchvision, which is an extra.
NEED_TORCHVISION = ("lfm2_vl", "mistral3", "pixtral")
RECURRENT = {"lfm2", "lfm2_vl", "minicpmv4_6", "qwen3_5"}
# Linear attention is computed in chunks of tokens, which begin at other tokens after a prefix.
ROUNDING = {"minicpmv4_6": 1e-4, "qwen3_5": 1e-4}
# Longer than the sliding windows of the tiny checkpoints, 64 tokens.
NEW_TOKENS = (3, 9, 24)


def ask(user: int, item: int, *images: Path) -> Prompt:
    """Return a question about an item, which begins with its images and the instruction."""
    taste = "calm films " * (1 + user % 3) + f"and user {user}"
    parts = (*map(ImagePart, images), TextPart(f"{INSTRUCTION}{taste}, title {item}"))
    return Prompt((Message("user", parts),), max_new_tokens=NEW_TOKENS[(user + item) % 3])


def ask_user_first(user: int, image: Path) -> Prompt:
    """Return a question that begins with the user, so that the image follows the prefix."""
    taste = "The user appears to have a preference for calm films " * 2 + f"and user {user}."
    parts = (TextPart(INSTRUCTION + taste), ImagePart(image), TextPart("Yes or no?"))
    return Prompt((Message("user", parts),), max_new_tokens=5)


def make_prompts(loaded: LoadedCheckpoint, images: Sequence[Path]) -> list[Prompt]:
    """Return groups with no, one and two images, users first, one without a group, one twice."""
    shown: list[tuple[Path, ...]] = [()]
    if loaded.supports_images:
        shown += [(images[0],), (images[3],), (images[1], images[2])]
    prompts = [ask(user, item, *each) for user in range(3) for item, each in enumerate(shown)]
    if loaded.supports_images:
        prompts += [ask_user_first(user, image) for user in range(2) for image in images[:3]]
    alone = Prompt((Message("user", (TextPart("Well?"),)),), max_new_tokens=5)
    return [*prompts, alone, prompts[0]]


def whole(
    loaded: LoadedCheckpoint, prompts: Sequence[Prompt]
) -> tuple[dict[int, ChoiceScores], dict[int, Completion]]:
    """Run every prompt alone and without sharing, and generate with Transformers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "can_share_prefixes", lambda _: False)
        patch.setattr(engine_module, "why_not_continuous", lambda _: "reference")
        engine = Engine(loaded, batch_size=1)
        return dict(engine.score(prompts, ("yes", "no"))), dict(engine.generate(prompts))


@pytest.mark.parametrize("family", [*FAMILIES, *NEED_TORCHVISION])
def test_scores_and_texts_equal_those_of_whole_prompts(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    if family in NEED_TORCHVISION:
        pytest.importorskip("torchvision")
    loaded = load_model(str(tiny_checkpoint(family)), device="cpu")
    assert can_share_prefixes(loaded.model.config)
    assert bool(why_not_continuous(loaded.model)) == (family in RECURRENT)
    prompts = make_prompts(loaded, images)
    scores, texts = whole(loaded, prompts)
    n_tokens = 0

    def count(_: object, __: object, given: dict[str, object]) -> None:
        nonlocal n_tokens
        n_tokens += given["input_ids"].numel()  # type: ignore[attr-defined]

    hook = loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    small = Engine(loaded, batch_size=3)
    caching = Engine(loaded, batch_size=16, prefix_cache_bytes=2**30)
    for engine in (small, caching, caching):
        n_tokens = 0
        found = dict(engine.score(prompts, ("yes", "no")))
        for index, score in scores.items():
            tolerance = ROUNDING.get(family, 1e-5)
            assert found[index].log_probs == pytest.approx(score.log_probs, abs=tolerance)
            assert found[index].prompt_tokens == score.prompt_tokens
        # Padding costs less than sharing saves.
        assert n_tokens < sum(score.prompt_tokens for score in scores.values())
    hook.remove()
    for _ in range(2):  # the second time, tokens of the first are drafts
        assert dict(small.generate(prompts)) == texts


def test_a_prefix_of_one_call_serves_the_next(
    tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    """Positions after an image, and recurrent states, are kept with the prefix."""
    for family in ("qwen2_5_vl", "qwen3_5"):
        loaded = load_model(str(tiny_checkpoint(family)), device="cpu")
        engine = Engine(loaded, prefix_cache_bytes=2**30)
        list(engine.score([ask(user, 0, images[0]) for user in range(3)], ("yes", "no")))
        later = [ask(7, 0, images[0])]
        lengths: list[int] = []
        loaded.model.register_forward_pre_hook(
            lambda _, __, given, lengths=lengths: lengths.append(given["input_ids"].shape[1]),
            with_kwargs=True,
        )
        ((_, found),) = engine.score(later, ("yes", "no"))
        assert len(lengths) == 1
        assert lengths[0] < found.prompt_tokens
        expected = whole(loaded, later)[0][0]
        tolerance = ROUNDING.get(family, 1e-5)
        assert found.log_probs == pytest.approx(expected.log_probs, abs=tolerance)


def test_a_mistral_model_with_a_sliding_window(
    tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    like = load_model(str(tiny_checkpoint("llama")), device="cpu")
    settings = {k: v for k, v in like.model.config.to_dict().items() if k != "model_type"}
    config = transformers.MistralConfig(**{**settings, "sliding_window": 24})
    model = transformers.MistralForCausalLM(config).eval()
    model.load_state_dict(like.model.state_dict())
    loaded = LoadedCheckpoint(model, like.processor, supports_images=False, fingerprint="mistral")
    prompts = make_prompts(loaded, images)
    scores, texts = whole(loaded, prompts)
    found = dict(Engine(loaded).score(prompts, ("yes", "no")))
    for index, score in scores.items():
        assert found[index].log_probs == pytest.approx(score.log_probs, abs=1e-5)
    assert dict(Engine(loaded, batch_size=3).generate(prompts)) == texts


def test_every_architecture_that_shares_prefixes_is_tested(tiny_checkpoint: Checkpoint) -> None:
    wrappers, decoders = set(), {"mistral"}
    for family in FAMILIES:
        config = transformers.AutoConfig.from_pretrained(tiny_checkpoint(family))
        text = config.get_text_config()
        decoders.add(text.model_type)
        if text is not config:
            wrappers.add(config.model_type)
    assert wrappers | {"lfm2_vl", "mistral3"} == TESTED_WRAPPERS
    assert decoders == TESTED_DECODERS
