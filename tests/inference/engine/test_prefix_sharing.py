"""Tests of prefix sharing: exact scores, groups, each prefix computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mllm_msr.demo_model import weights_folder
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.inference.engine.prefix_sharing import (
    PrefixStates,
    group_by_prefix,
    prefix_key,
    split_prefix,
)
from mllm_msr.models.inputs import Rendered
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.states import States
from mllm_msr.types import ChoiceScores, ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]

INSTRUCTION = "You are given the image and the title of a video. Answer only yes or no. "
IMAGE = 9


def question(user: int, item: int, image: Path | None) -> Prompt:
    taste = "calm films " * (1 + user % 3) + f"and user {user}"
    image = (ImagePart(image),) if image is not None else ()
    text = TextPart(f"{INSTRUCTION}{taste}, title {item}")
    return Prompt((Message("user", (*image, text)),), max_new_tokens=1)


def rendered(ids: Sequence[int], *images: str) -> Rendered:
    return Rendered(tuple(ids), tuple(map(Path, images)), len(ids), trimmed=False)


@dataclass
class Work:
    """Amount of computation of a model."""

    decoder_tokens: int = 0
    tower_images: int = 0
    rows: list[int] = field(default_factory=list)


def observe(model: Any) -> Work:
    work = Work()

    def decoder(_: Any, args: Any, kwargs: Any) -> None:
        embedded = kwargs["inputs_embeds"]
        if embedded is None:
            embedded = kwargs["input_ids"]
        rows, length = embedded.shape[:2]
        work.decoder_tokens += rows * length
        work.rows.append(rows)

    def tower(_: Any, args: Any, output: Any) -> None:
        work.tower_images += len(output.last_hidden_state)

    model.get_decoder().register_forward_pre_hook(decoder, with_kwargs=True)
    if hasattr(model.model, "vision_tower"):
        model.model.vision_tower.register_forward_hook(tower)
    return work


def reference(
    loaded: LoadedCheckpoint, prompts: Sequence[Prompt], **options: Any
) -> dict[int, ChoiceScores]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_msr.inference.engine.engine.can_share_prefixes", lambda _: False)
        return dict(Engine(loaded, **options).score(prompts, ("yes", "no")))


class TestScores:
    @pytest.mark.parametrize("family", ["llava_next", "llama", "mistral", "packaged"])
    def test_scores_equal_those_of_whole_prompts(
        self, family: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
    ) -> None:
        loaded = load(family, tiny_checkpoint)
        shown: list[Path | None] = [*images, None] if loaded.supports_images else [None]
        # Groups of several sizes, prompts with and without images, one prompt without a group.
        prompts = [
            question(user, item, shown[item % len(shown)])
            for user in range(5)
            for item in range(len(shown))
        ]
        prompts += [Prompt((Message("user", (TextPart("Well?"),)),), max_new_tokens=1), prompts[0]]
        expected = reference(loaded, prompts)
        work = observe(loaded.model)
        for batch_size in (3, 16):
            scores = dict(Engine(loaded, batch_size=batch_size).score(prompts, ("yes", "no")))
            assert scores.keys() == expected.keys()
            for index, score in scores.items():
                assert score.log_probs == pytest.approx(expected[index].log_probs, abs=1e-4)
                assert score.prompt_tokens == expected[index].prompt_tokens
        if family != "mistral":  # models of this type are checked first, which costs tokens
            assert work.decoder_tokens < 2 * sum(score.prompt_tokens for score in expected.values())

    def test_prefixes_are_computed_once(
        self, tiny_checkpoint: Checkpoint, images: Sequence[Path]
    ) -> None:
        loaded = load("packaged", tiny_checkpoint)
        prompts = [question(user, item, images[item]) for user in range(8) for item in range(3)]
        work = observe(loaded.model)
        plain = reference(loaded, prompts, batch_size=6)
        whole = sum(score.prompt_tokens for score in plain.values())
        assert work.tower_images == 3  # their features are reused
        assert work.decoder_tokens >= whole

        work.decoder_tokens = work.tower_images = 0
        list(Engine(loaded, batch_size=6).score(prompts, ("yes", "no")))

        assert work.tower_images == 3
        assert work.decoder_tokens < 0.6 * whole

    def test_a_failing_prompt_does_not_fail_its_batch(
        self, tiny_checkpoint: Checkpoint, images: Sequence[Path]
    ) -> None:
        loaded = load("llava_next", tiny_checkpoint)
        prompts = [question(user, 0, images[0]) for user in range(6)]
        expected = reference(loaded, prompts)
        failing = max(expected.values(), key=lambda score: score.prompt_tokens).prompt_tokens

        def fail(_: Any, args: Any, kwargs: Any) -> None:
            if int(kwargs["attention_mask"].sum(dim=1).max()) == failing:
                raise RuntimeError("the kernel says no")

        loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
        scores = dict(Engine(loaded).score(prompts, ("yes", "no")))
        for index, score in scores.items():
            bad = expected[index].prompt_tokens == failing
            assert score.error == ("the kernel says no" if bad else None)
            if not bad:
                assert score.log_probs == pytest.approx(expected[index].log_probs, abs=1e-4)

    def test_out_of_memory_halves_the_batch(
        self, tiny_checkpoint: Checkpoint, images: Sequence[Path]
    ) -> None:
        loaded = load("llava_next", tiny_checkpoint)
        prompts = [question(user, 0, images[0]) for user in range(8)]
        expected = reference(loaded, prompts)

        def small(_: Any, args: Any, kwargs: Any) -> None:
            if len(kwargs["input_ids"]) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")

        loaded.model.register_forward_pre_hook(small, with_kwargs=True)
        work = observe(loaded.model)
        scores = dict(Engine(loaded).score(prompts, ("yes", "no")))
        assert work.rows == [1, 1, 4, 4]  # the prefix twice, since memory was freed in between
        for index, score in scores.items():
            assert score.log_probs == pytest.approx(expected[index].log_probs, abs=1e-4)


class TestGroupByPrefix:
    def test_prompts_with_equal_images_form_groups(self) -> None:
        a, b = [IMAGE] * 4 + list(range(20, 36)), [IMAGE] * 4 + list(range(40, 56))
        prompts = [
            rendered([*b, 1, 1], "b"),
            rendered([*a, 1, 1], "a"),
            rendered([*b, 2, 2], "b"),
            rendered([*a, 1, 2], "a"),
            rendered([*a, 3, 2], "a"),
            rendered([*a, 3, 2], "c"),
        ]
        order = group_by_prefix(prompts, image_token_id=IMAGE)
        assert order == [(1, 16), (3, 16), (4, 16), (0, 16), (2, 16), (5, 0)]

    def test_an_image_is_never_cut(self) -> None:
        prompts = [rendered([*[IMAGE] * 21, n, n], "a") for n in (1, 2)]
        assert group_by_prefix(prompts, image_token_id=IMAGE) == [(0, 21), (1, 21)]
        early = [rendered([*range(20, 40), n, *[IMAGE] * 4, 1], "a") for n in (1, 2)]
        assert group_by_prefix(early, image_token_id=IMAGE) == [(0, 0), (1, 0)]

    def test_a_short_common_instruction_does_not_merge_groups(self) -> None:
        instruction = list(range(100, 120))
        histories = [[*instruction, *[user] * 60] for user in range(3)]
        prompts = [rendered([*history, n]) for history in histories for n in range(4)]
        assert {shared for _, shared in group_by_prefix(prompts, image_token_id=None)} == {80}

    def test_the_last_token_is_never_shared(self) -> None:
        same = [rendered(range(33)) for _ in range(3)]
        assert [shared for _, shared in group_by_prefix(same, image_token_id=None)] == [32, 32, 32]
        inside = [rendered(range(32)), rendered(range(40))]
        assert [shared for _, shared in group_by_prefix(inside, image_token_id=None)] == [16, 16]

    def test_short_prefixes_are_not_shared(self) -> None:
        prompts = [rendered([*range(15), n]) for n in range(5)]
        assert group_by_prefix(prompts, image_token_id=None) == [(n, 0) for n in range(5)]
        assert group_by_prefix([], image_token_id=None) == []

    def test_prefix_and_suffix_form_the_prompt(self) -> None:
        prompt = rendered([IMAGE, IMAGE, 1, 2, 3], "a")
        prefix, suffix = split_prefix(prompt, 3, image_token_id=IMAGE)
        assert prefix.input_ids + suffix.input_ids == prompt.input_ids
        assert prefix.images == prompt.images
        assert suffix.images == ()


class TestTextBeforeImages:
    """Prompts that begin with the user: their images may follow the shared prefix."""

    INSTRUCTION = tuple(range(100, 140))

    def listed(self, user: int, item: int, *, n_own: int = 8) -> Rendered:
        own = [200 + user] * n_own
        return rendered([*self.INSTRUCTION, *own, IMAGE, IMAGE, 300 + item, 7], f"{item}")

    def group(self, prompts: Sequence[Rendered]) -> list[tuple[int, int]]:
        return group_by_prefix(prompts, image_token_id=IMAGE, images_may_follow=True)

    def test_candidates_of_a_user_share_the_text_before_their_images(self) -> None:
        # Half of a prompt is the instruction, which all users share; still, each is a group.
        prompts = [self.listed(user, item) for item in range(20) for user in range(3)]
        found = self.group(prompts)
        assert sorted(index for index, _ in found) == list(range(60))
        assert {shared for _, shared in found} == {48}
        users = [index % 3 for index, _ in found]
        assert users == [0] * 20 + [1] * 20 + [2] * 20

    def test_lengths_of_small_groups_are_rounded_so_that_they_fit_into_one_batch(self) -> None:
        prompts = [
            self.listed(user, item, n_own=12 + user) for user in range(2) for item in range(5)
        ]
        assert {shared for _, shared in self.group(prompts)} == {48}
        large = [self.listed(0, item, n_own=12) for item in range(16)]
        assert {shared for _, shared in self.group(large)} == {52}

    def test_users_with_few_candidates_share_the_instruction(self) -> None:
        prompts = [self.listed(user, user) for user in range(6)]
        assert {shared for _, shared in self.group(prompts)} == {32}

    def test_candidates_without_an_image_are_in_the_group_of_their_user(self) -> None:
        prompts = [self.listed(0, item) for item in range(4)]
        prompts.append(rendered([*self.INSTRUCTION, *[200] * 8, 400, 7]))
        assert {shared for _, shared in self.group(prompts)} == {48}

    def test_prompts_of_one_image_and_user_share_both(self) -> None:
        same = [self.listed(0, 1) for _ in range(3)]
        assert {shared for _, shared in self.group(same)} == {51}

    def test_an_image_is_not_cut(self) -> None:
        cut = rendered([*self.INSTRUCTION, IMAGE, IMAGE, IMAGE, 7], "a", "b")
        other = rendered([*self.INSTRUCTION, IMAGE, 5, 6, 7], "a", "b")
        assert {shared for _, shared in self.group([cut, other])} == {32}

    def test_prompts_that_begin_with_the_image_are_grouped_as_before(self) -> None:
        prompts = [
            rendered([1, IMAGE, IMAGE, *range(20, 60), user, 7], f"{item}")
            for user in range(3)
            for item in range(3)
        ] + [rendered([1, *range(20, 60), 7]), rendered([1, *range(20, 60), 8])]
        assert self.group(prompts) == group_by_prefix(prompts, image_token_id=IMAGE)

    def test_prompt_is_split_before_its_images(self) -> None:
        prompt = self.listed(0, 1)
        prefix, suffix = split_prefix(prompt, 48, image_token_id=IMAGE)
        assert prefix.input_ids + suffix.input_ids == prompt.input_ids
        assert (prefix.images, suffix.images) == ((), prompt.images)
        prefix, suffix = split_prefix(prompt, 50, image_token_id=IMAGE)
        assert (prefix.images, suffix.images) == (prompt.images, ())

    def test_large_windows_take_little_time(self) -> None:
        # Each prompt shares one token more with the next one than with the one before.
        prompts = [rendered([*range(n), 10_000 + n, 7]) for n in range(20, 1020)]
        start = time.perf_counter()
        found = self.group(prompts)
        assert time.perf_counter() - start < 10
        assert len(found) == 1000


class TestPrefixStates:
    def test_prefixes_of_the_previous_batch_are_reused(self) -> None:
        states, computed = PrefixStates(PrefixCache(0)), []
        a, b, c = (prefix_key(rendered([n])) for n in range(3))

        def give(batch: Sequence[Any]) -> list[float]:
            def prefill(rows: Sequence[int]) -> States:
                computed.append([batch[row] for row in rows])
                values = torch.tensor([float(batch[row][1][0]) for row in rows])
                keys = values.reshape(-1, 1, 1, 1).expand(-1, 2, 3, 4)
                return States([(keys, -keys)], values)

            found = states.for_rows(batch, prefill)
            ((keys, values),) = found.layers
            assert keys.shape == (len(batch), 2, 3, 4)
            assert torch.equal(values, -keys)
            assert torch.equal(found.offsets, keys[:, 0, 0, 0])
            return found.offsets.tolist()

        assert give([b, a, b]) == [1.0, 0.0, 1.0]
        assert give([a, c, a]) == [0.0, 2.0, 0.0]
        assert give([c, b]) == [2.0, 1.0]
        assert [sorted(batch) for batch in computed] == [[a, b], [c], [b]]
        states.clear()
        assert give([c]) == [2.0]
        assert computed[-1] == [c]


def load(family: str, tiny_checkpoint: Checkpoint) -> LoadedCheckpoint:
    if family == "packaged":
        return load_model(str(weights_folder()), dtype="float32", device="cpu")
    if family != "mistral":
        return load_model(str(tiny_checkpoint(family)), device="cpu")
    like = load_model(str(tiny_checkpoint("llama")), device="cpu")
    settings = like.model.config.to_dict()
    settings = {name: value for name, value in settings.items() if name != "model_type"}
    config = transformers.MistralConfig(**{**settings, "sliding_window": None})
    model = transformers.MistralForCausalLM(config).eval()
    model.load_state_dict(like.model.state_dict())
    return LoadedCheckpoint(model, like.processor, supports_images=False, fingerprint="mistral")
