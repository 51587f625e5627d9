"""Tests of the prefix cache: exact scores, cut where prompts differ, limited memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mllm_msr.demo_model import weights_folder
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.models.inputs import Rendered
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.states import States
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

INSTRUCTION = "You are given the image and the title of a video. Answer only yes or no. "
IMAGE = 9
PLENTY = 10**9


def questions(user: int, images: Sequence[Path]) -> list[Prompt]:
    """Return prompts of one user about every item, without common prefixes."""
    taste = "calm films " * (1 + user % 3) + f"and user {user}"
    return [
        Prompt(
            (Message("user", (ImagePart(image), TextPart(f"{INSTRUCTION}{taste}, title {n}"))),),
            max_new_tokens=1,
        )
        for n, image in enumerate(images)
    ]


def rendered(ids: Sequence[int], *images: str) -> Rendered:
    return Rendered(tuple(ids), tuple(map(Path, images)), len(ids), trimmed=False)


def states(n_tokens: int) -> States:
    """Return one row of two layers with 2 heads of size 4: 128 bytes per token."""
    keys = torch.arange(float(n_tokens))[None, None, :, None].expand(1, 2, -1, 4)
    return States([(keys, -keys), (keys + 1, keys - 1)], torch.tensor([7]))


@pytest.fixture(scope="module")
def packaged() -> LoadedCheckpoint:
    return load_model(str(weights_folder()), dtype="float32", device="cpu")


class TestScores:
    @pytest.mark.parametrize("family", ["packaged", "llava_next"])
    def test_scores_equal_those_of_whole_prompts(
        self, family: str, tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
    ) -> None:
        checkpoint = weights_folder() if family == "packaged" else tiny_checkpoint(family)
        loaded = load_model(str(checkpoint), dtype="float32", device="cpu")
        plain, caching = Engine(loaded), Engine(loaded, prefix_cache_bytes=PLENTY)
        for user in (0, 1, 2, 1):
            prompts = questions(user, images)
            expected = dict(plain.score(prompts, ("yes", "no")))
            found = dict(caching.score(prompts, ("yes", "no")))
            for n, score in expected.items():
                assert found[n].log_probs == pytest.approx(score.log_probs, abs=1e-4)
                assert found[n].prompt_tokens == score.prompt_tokens

    def test_later_calls_compute_only_what_is_new(
        self, packaged: LoadedCheckpoint, images: Sequence[Path]
    ) -> None:
        engine = Engine(packaged, prefix_cache_bytes=PLENTY)
        read, seen = [], []
        tower = packaged.model.model.vision_tower
        hooks = [
            packaged.model.get_decoder().register_forward_pre_hook(
                lambda _, __, given: read.append(given["inputs_embeds"].shape[:2].numel()),
                with_kwargs=True,
            ),
            tower.register_forward_hook(lambda _, __, out: seen.append(out[0].shape[0])),
        ]
        try:
            whole = [
                sum(score.prompt_tokens for _, score in engine.score(prompts, ("yes", "no")))
                for prompts in (questions(user, images) for user in range(3))
            ]
        finally:
            for hook in hooks:
                hook.remove()
        assert sum(seen) == len(images)  # each image once, all in the first call
        assert read[0] >= whole[0]
        assert sum(read[1:]) < 0.5 * sum(whole[1:])

    def test_a_single_prompt_uses_the_cache(
        self, packaged: LoadedCheckpoint, images: Sequence[Path]
    ) -> None:
        engine = Engine(packaged, prefix_cache_bytes=PLENTY)
        one, other = (questions(user, images[:1]) for user in (0, 1))
        list(engine.score(one, ("yes", "no")))
        found = dict(engine.score(other, ("yes", "no")))[0]
        plain = dict(Engine(packaged).score(other, ("yes", "no")))[0]
        assert found.log_probs == pytest.approx(plain.log_probs, abs=1e-4)


class TestPrefixCache:
    def test_an_entry_is_cut_where_the_second_prompt_differs(self) -> None:
        cache = PrefixCache(PLENTY)
        ids = [*[IMAGE] * 4, *range(20, 80)]
        cache.put((Path("a"),), ids, states(64))
        other = rendered([*ids[:40], *range(200, 230)], "a")
        assert cache.match_length(other, image_token_id=IMAGE) == 40
        known = cache.get((Path("a"),), other.input_ids[:40])
        assert known is not None
        assert [keys.shape for keys, _ in known.layers] == [(1, 2, 40, 4)] * 2
        assert torch.equal(known.layers[1][1], states(40).layers[1][1])
        assert known.offsets.tolist() == [7]
        assert cache.n_bytes == 40 * 128

    def test_an_image_is_never_cut(self) -> None:
        cache = PrefixCache(PLENTY)
        cache.put((Path("a"),), [*[IMAGE] * 40, 1, 2, 3], states(43))
        assert cache.match_length(rendered([*[IMAGE] * 40, 5, 6], "a"), image_token_id=IMAGE) == 40
        early = rendered([7, *[IMAGE] * 40, 5], "a")
        assert cache.match_length(early, image_token_id=IMAGE) == 0

    def test_the_last_token_is_not_matched(self) -> None:
        cache = PrefixCache(PLENTY)
        ids = [*[IMAGE] * 4, *range(20, 48)]
        cache.put((Path("a"),), ids, states(32))
        assert cache.match_length(rendered(ids, "a"), image_token_id=IMAGE) == 24

    def test_other_images_and_other_prefixes_do_not_match(self) -> None:
        cache = PrefixCache(PLENTY)
        ids = [*[IMAGE] * 4, *range(20, 60)]
        cache.put((Path("a"),), ids, states(44))
        assert cache.match_length(rendered(ids, "b"), image_token_id=IMAGE) == 0
        assert cache.get((Path("b"),), ids) is None
        assert cache.get((Path("a"),), [*ids[:10], 99]) is None
        assert cache.get((Path("a"),), [*ids, 99]) is None

    def test_prefixes_without_images_are_not_stored(self) -> None:
        cache = PrefixCache(PLENTY)
        cache.put((), range(40), states(40))
        assert (len(cache), cache.n_bytes) == (0, 0)

    def test_the_least_recently_used_entry_is_evicted(self) -> None:
        cache = PrefixCache(2 * 10 * 128)
        for name in "abc":
            cache.put((Path(name),), [IMAGE] * 10, states(10))
            cache.get((Path("a"),), [IMAGE] * 10)
        assert cache.n_bytes == cache.max_bytes
        cached = [cache.get((Path(name),), [IMAGE] * 10) is not None for name in "abc"]
        assert cached == [True, False, True]
        cache.put((Path("d"),), [IMAGE] * 21, states(21))  # larger than the cache
        assert len(cache) == 2
        cache.clear()
        assert (len(cache), cache.n_bytes) == (0, 0)

    def test_states_that_cannot_be_cut_match_completely_or_not_at_all(self) -> None:
        cache = PrefixCache(PLENTY, can_cut=False)
        ids = [*[IMAGE] * 4, *range(20, 56)]
        cache.put((Path("a"),), ids, states(40))
        assert cache.match_length(rendered([*ids, 7], "a"), image_token_id=IMAGE) == 40
        assert cache.match_length(rendered([*ids[:39], 7, 7], "a"), image_token_id=IMAGE) == 0
        assert cache.match_length(rendered(ids, "a"), image_token_id=IMAGE) == 0
        assert cache.get((Path("a"),), ids[:32]) is None
        assert cache.get((Path("a"),), ids) is not None

    def test_a_cache_without_memory_stores_nothing(self) -> None:
        cache = PrefixCache(0)
        cache.put((Path("a"),), [IMAGE] * 10, states(10))
        assert len(cache) == 0
