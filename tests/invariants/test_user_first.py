"""Lists of prompts that begin with the user get the same scores as whole prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mllm_msr.demo_model import weights_folder
from mllm_msr.inference.engine import engine as engine_module
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.prefix_support import TESTED_WRAPPERS, prefix_support
from mllm_msr.ranker.examples import build_prompt
from mllm_msr.types import Item, Prompt

Checkpoint = Callable[[str], Path]

CHOICES = ("yes", "no")
SHARING = (
    *(
        "aya_vision",
        "gemma4",
        "glm46v",
        "glm4v",
        "granite4_vision",
        "idefics3",
        "internvl",
        "llava",
    ),
    *("llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl"),
    *("minicpmv4_6", "qwen3_vl_moe", "smolvlm", "llava_efficientnet"),
)
# Their image processors need torchvision, which is an extra.
NEED_TORCHVISION = ("lfm2_vl", "mistral3")


def lists(n_users: int, n_items: int, images: Sequence[Path | None]) -> list[Prompt]:
    """Return the prompts of lists of candidates, with prefixes and suffixes of several lengths."""
    return [
        build_prompt(
            f"The user appears to have a preference for calm films{' on stripes' * user}.",
            Item(f"i{item}", f"title {item}{' of a film' * (item % 3)}", "", images[item]),
            item_type="video",
            order="user-first",
        )
        for user in range(n_users)
        for item in range(n_items)
    ]


def count_tokens(loaded: LoadedCheckpoint) -> list[int]:
    """Return a list to which the model appends the tokens of each forward pass."""
    counts: list[int] = []
    loaded.model.register_forward_pre_hook(
        lambda _, __, given: counts.append(given["input_ids"].numel()), with_kwargs=True
    )
    return counts


def check(loaded: LoadedCheckpoint, prompts: Sequence[Prompt], *, shares: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "can_share_prefixes", lambda _: False)
        expected = dict(Engine(loaded, batch_size=1).score(prompts, CHOICES))
    n_whole = sum(scores.prompt_tokens for scores in expected.values())
    counts = count_tokens(loaded)
    for options in ({"batch_size": 5}, {"batch_size": 32}, {"prefix_cache_bytes": 2**30}):
        counts.clear()
        found = dict(Engine(loaded, **options).score(prompts, CHOICES))
        for index, scores in expected.items():
            assert found[index].error is None
            assert found[index].log_probs == pytest.approx(scores.log_probs, abs=1e-4)
            assert found[index].prompt_tokens == scores.prompt_tokens
        assert (sum(counts) < 0.9 * n_whole) == shares


@pytest.mark.parametrize("family", [*SHARING, *NEED_TORCHVISION])
def test_candidates_of_a_user_share_the_user(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    if family in NEED_TORCHVISION:
        pytest.importorskip("torchvision")
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    # The last candidate has no image.
    check(loaded, lists(3, 7, [*images[:4], *images[:2], None]), shares=True)


def test_the_demo_model_reads_a_user_once(images: Sequence[Path]) -> None:
    loaded = load_model(str(weights_folder()), dtype="float32", device="cpu")
    check(loaded, lists(3, 7, [*images[:4], *images[:2], None]), shares=True)
    loaded = load_model(str(weights_folder()), dtype="float32", device="cpu")
    counts = count_tokens(loaded)
    prompts = lists(1, len(images), images)
    scores = dict(Engine(loaded).score(prompts, CHOICES))
    longest = max(one.prompt_tokens for one in scores.values())
    prefix, suffixes = counts
    assert prefix > 0.4 * longest
    assert suffixes == len(images) * (longest - prefix)


@pytest.mark.parametrize("family", ["llama", "qwen3", "lfm2"])
def test_text_models_share_the_user_and_the_instruction(
    family: str, tiny_checkpoint: Checkpoint
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    check(loaded, lists(3, 7, [None] * 7), shares=True)


@pytest.mark.parametrize("family", ["gemma3", "gemma4_bidirectional"])
def test_models_whose_image_tokens_attend_to_each_other_run_whole_prompts(
    family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    check(loaded, lists(2, 4, images[:4]), shares=False)


def test_every_architecture_that_shares_prefixes_is_tested(tiny_checkpoint: Checkpoint) -> None:
    folders = [tiny_checkpoint(family) for family in SHARING]
    configs = [load_model(str(folder), device="cpu").model.config for folder in folders]
    assert all(prefix_support(config).images_are_causal for config in configs)
    tested = {config.model_type for config in configs} | {*NEED_TORCHVISION}
    assert tested == TESTED_WRAPPERS - {"gemma3"}
