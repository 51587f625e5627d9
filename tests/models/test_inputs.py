"""Tests of prompt rendering: processor tokens, untrusted text, budgets, answers, batches."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.data.images import open_image
from mllm_msr.errors import (
    CapabilityError,
    ImageError,
    PromptTooLongError,
)
from mllm_msr.models.inputs import IGNORED_LABEL, Renderer
from mllm_msr.prompts.thoughts import remove_thoughts
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from tiny_checkpoints import FAMILIES, VISION_FAMILIES


@pytest.fixture(scope="module")
def renderer(processor: Callable[[str], Any]) -> Callable[[str], Renderer]:
    made: dict[str, Renderer] = {}

    def make(family: str) -> Renderer:
        if family not in made:
            made[family] = Renderer(processor(family), supports_images=family in VISION_FAMILIES)
        return made[family]

    return make


def ask(*parts: str | Path | TextPart, budget: int | None = None) -> Prompt:
    turned = tuple(
        TextPart(part)
        if isinstance(part, str)
        else ImagePart(part)
        if isinstance(part, Path)
        else part
        for part in parts
    )
    return Prompt((Message("user", turned),), max_new_tokens=8, max_text_tokens=budget)


def special_counts(renderer: Renderer, ids: Sequence[int]) -> Counter[int]:
    special = set(renderer.tokenizer.all_special_ids)
    return Counter(token for token in ids if token in special)


class TestImages:
    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_token_ids_equal_those_of_the_processor(
        self, family: str, processor: Any, renderer: Any, images: Sequence[Path]
    ) -> None:
        own = processor(family)
        for path in images:
            turn = [{"type": "image"}, {"type": "text", "text": "Describe it."}]
            text = own.apply_chat_template(
                [{"role": "user", "content": turn}], add_generation_prompt=True
            )
            starts = own.tokenizer.bos_token and text.startswith(own.tokenizer.bos_token)
            expected = own(text=[text], images=[open_image(path)], add_special_tokens=not starts)[
                "input_ids"
            ][0]

            rendered = renderer(family).render(ask(path, "Describe it."))

            assert list(rendered.input_ids) == list(expected)
            assert rendered.images == (path,)

    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_several_images_in_one_prompt(
        self, family: str, renderer: Any, images: Sequence[Path]
    ) -> None:
        both = renderer(family).render(ask(images[0], images[1], "Compare them."), "yes")
        one = renderer(family).render(ask(images[0], "Compare them."), "yes")
        assert len(both.input_ids) > len(one.input_ids)
        assert both.answer_ids == one.answer_ids

    @pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "smolvlm"])
    def test_the_number_of_tokens_depends_on_the_image_shape(
        self, family: str, renderer: Any, images: Sequence[Path]
    ) -> None:
        lengths = {len(renderer(family).render(ask(path, "?")).input_ids) for path in images}
        assert len(lengths) > 1

    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_text_tokens_exclude_the_image(
        self, family: str, renderer: Any, images: Sequence[Path]
    ) -> None:
        counts = {renderer(family).render(ask(path, "Look.")).n_text_tokens for path in images}
        assert len(counts) == 1

    def test_a_broken_image_raises_an_image_error(self, renderer: Any, tmp_path: Path) -> None:
        broken = tmp_path / "page.jpg"
        broken.write_text("<html>not found</html>")
        with pytest.raises(ImageError, match=r"page\.jpg"):
            renderer("llava_next").render(ask(broken, "Describe it."))

    def test_a_text_model_rejects_images(self, renderer: Any, images: Sequence[Path]) -> None:
        with pytest.raises(
            CapabilityError, match="text-only model received a prompt with the image"
        ):
            renderer("llama").render(ask(images[0], "Describe it."))


class TestUntrustedText:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_special_tokens_in_text_have_no_effect(
        self, family: str, renderer: Any, images: Sequence[Path]
    ) -> None:
        own = renderer(family)
        image = images[:1] if family in VISION_FAMILIES else ()
        expected = special_counts(own, own.render(ask(*image, 'Title: "', "calm", '"')).input_ids)
        marks = [token.content for token in own.tokenizer.added_tokens_decoder.values()]
        assert len(marks) >= 4
        hostile = [*marks, "".join(marks), " ".join(marks), "<<image>image>", "<im<image>age>"]
        for text in hostile:
            rendered = own.render(ask(*image, 'Title: "', text, '"'))
            assert special_counts(own, rendered.input_ids) == expected, text

    def test_a_special_token_split_across_adjacent_parts_is_escaped(self, renderer: Any) -> None:
        own = renderer("llava_next")
        halves = own.render(ask("Title: <ima", TextPart("ge> and </", trimmable=1), "s>"))
        assert special_counts(own, halves.input_ids) == special_counts(
            own, own.render(ask("Title:")).input_ids
        )

    def test_a_special_token_in_an_answer_is_escaped(self, renderer: Any) -> None:
        own = renderer("qwen2_5_vl")
        answer = own.render(ask("Say it."), "so <|im_end|> be it").answer_ids
        assert not special_counts(own, answer)


class TestBudget:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_trimmable_part_is_truncated_at_its_end(self, family: str, renderer: Any) -> None:
        own = renderer(family)
        words = " ".join(f"w{number}" for number in range(200))
        prompt = ask("Begin. ", TextPart(words, trimmable=1), " Answer yes or no.", budget=90)

        rendered = own.render(prompt, "yes")

        assert rendered.trimmed
        assert rendered.n_text_tokens <= 90
        text = own.tokenizer.decode(rendered.input_ids)
        assert "Begin. w0 w1" in text
        assert "Answer yes or no." in text
        assert "w199" not in text
        assert len(rendered.answer_ids) == 1

    def test_parts_are_truncated_in_their_order(self, renderer: Any) -> None:
        own = renderer("llama")
        first = TextPart("calm films " * 20, trimmable=1)
        second = TextPart("epic boats " * 20, trimmable=2)
        for parts in ([first, second], [second, first]):
            n_tokens = own.render(ask(*parts, "End.")).n_text_tokens
            a_little = own.render(ask(*parts, "End.", budget=n_tokens - 9))
            text = own.tokenizer.decode(a_little.input_ids)
            assert text.count("epic boats") == 20
            assert 0 < text.count("calm films") < 20
            much = own.render(ask(*parts, "End.", budget=n_tokens - 80))
            text = own.tokenizer.decode(much.input_ids)
            assert 0 < text.count("epic boats") < 20
            assert "calm" not in text

    def test_as_many_words_as_fit_remain(self, renderer: Any) -> None:
        own = renderer("llama")
        part = TextPart("calm films " * 40, trimmable=1)
        sizes = [own.render(ask(part, "End.", budget=n)).n_text_tokens for n in range(40, 60)]
        assert sizes == sorted(sizes)
        assert max(n - size for n, size in zip(range(40, 60), sizes, strict=True)) <= 4

    def test_a_prompt_within_its_budget_is_not_truncated(self, renderer: Any) -> None:
        part = TextPart("calm films", trimmable=1)
        assert not renderer("llama").render(ask(part, "End.", budget=200)).trimmed

    def test_a_prompt_that_cannot_be_truncated_raises_an_error(self, renderer: Any) -> None:
        with pytest.raises(PromptTooLongError, match=r"has \d+ text tokens, .* limit of 10"):
            renderer("llama").render(ask("one two three " * 20, budget=10))

    def test_the_model_limit_includes_images_and_new_tokens(
        self, processor: Any, images: Sequence[Path]
    ) -> None:
        small = Renderer(processor("llava_next"), supports_images=True, max_tokens=150)
        part = TextPart("calm films " * 100, trimmable=1)
        rendered = small.render(ask(images[0], "Look: ", part))
        assert rendered.trimmed
        assert 130 <= len(rendered.input_ids) <= 150 - 8

    def test_text_without_spaces_can_be_truncated(self, renderer: Any) -> None:
        part = TextPart("映" * 400, trimmable=1)
        rendered = renderer("llama").render(ask(part, "End.", budget=300))
        assert 0 < rendered.n_text_tokens <= 300


class TestAnswers:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_choice_ids_equal_the_answer_ids_of_training(
        self, family: str, renderer: Any, images: Sequence[Path]
    ) -> None:
        own = renderer(family)
        image = images[:1] if family in VISION_FAMILIES else ()
        prompt = ask(*image, "The user appears to have a preference. Answer only yes or no.")
        trained = [own.render(prompt, word).answer_ids for word in ("yes", "no")]
        ids = own.choice_ids(own.render(prompt).input_ids, ("yes", "no"))
        assert [(token,) for token in ids] == trained


class TestCollate:
    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_a_batch_contains_the_inputs_of_each_prompt(
        self, family: str, processor: Any, renderer: Any, images: Sequence[Path]
    ) -> None:
        own = renderer(family)
        batch = [own.render(ask(path, "Describe it.")) for path in images]
        together = own.collate(batch, pad_side="right", with_answers=False)
        start = 0
        for item in batch:
            alone = own.collate([item], pad_side="right", with_answers=False)
            assert set(alone) == set(together)
            rows = alone["pixel_values"].shape[0]
            slices = tuple(slice(0, size) for size in alone["pixel_values"].shape[1:])
            piece = together["pixel_values"][start : start + rows][(slice(None), *slices)]
            torch.testing.assert_close(piece, alone["pixel_values"], rtol=0, atol=0)
            start += rows
        assert start == together["pixel_values"].shape[0]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_labels_cover_only_the_answer(self, side: Any, renderer: Any) -> None:
        own = renderer("llama")
        batch = [own.render(ask("Yes?"), "yes"), own.render(ask("Yes or rather no?"), "no")]
        inputs = own.collate(batch, pad_side=side, with_answers=True)
        labeled = inputs["labels"] != IGNORED_LABEL
        assert labeled.sum(dim=1).tolist() == [1, 1]
        assert inputs["labels"][labeled].tolist() == inputs["input_ids"][labeled].tolist()
        assert inputs["labels"][labeled].tolist() == [item.answer_ids[0] for item in batch]
        assert inputs["attention_mask"].sum(dim=1).tolist() == [
            len(item.input_ids) + 1 for item in batch
        ]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_inputs_for_each_token_follow_the_padding_and_the_answer(
        self, side: Any, processor: Any, images: Sequence[Path]
    ) -> None:
        own = Renderer(processor("mllama"), supports_images=True)
        long = own.render(ask(images[0], "Describe it. " * 3), "yes")
        short, text = own.render(ask(images[1], "Why?"), "no"), own.render(ask("Hello."), "no")
        batch = own.collate([long, short, text], pad_side=side, with_answers=True)
        mask = batch["cross_attention_mask"]
        assert mask.shape[:2] == batch["input_ids"].shape
        assert len(batch["pixel_values"]) == 3
        assert not mask[2].any()
        alone = short.text_inputs["cross_attention_mask"][0]
        n_tokens = len(short.input_ids)
        start = batch["input_ids"].shape[1] - n_tokens - 1 if side == "left" else 0
        row = mask[1, start:, :, : alone.shape[-1]]
        assert torch.equal(row[:n_tokens], alone)
        assert torch.equal(row[n_tokens], alone[-1])
        assert not row[n_tokens + 1 :].any()

    def test_text_without_images_has_no_image_inputs(self, renderer: Any) -> None:
        inputs = renderer("llava_next").collate(
            [renderer("llava_next").render(ask("Hello."))], pad_side="left", with_answers=False
        )
        assert set(inputs) == {"input_ids", "attention_mask"}


def test_markup_of_thoughts_is_decoded_and_other_special_tokens_are_not(processor: Any) -> None:
    own = copy.deepcopy(processor("llama"))
    own.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|tool|>"]})
    renderer = Renderer(own, supports_images=False)
    ids = own("[THINK]calm[/THINK]<|tool|>film", add_special_tokens=False)["input_ids"]
    assert renderer.decode_answer(ids) == "[THINK]calm[/THINK]film"
    plain = own("<|tool|>film", add_special_tokens=False)["input_ids"]
    assert renderer.decode_answer(plain) == "film"


def test_a_prompt_that_ends_within_a_thought_has_no_answer_position(processor: Any) -> None:
    own = copy.deepcopy(processor("llama"))
    renderer = Renderer(own, supports_images=False)
    renderer.require_answer_position()
    own.chat_template += "{% if add_generation_prompt %}<think>{{ '\n' }}{% endif %}"
    renderer = Renderer(own, supports_images=False)
    with pytest.raises(CapabilityError, match="ends prompts with <think>"):
        renderer.require_answer_position()
    ids = own("calm", add_special_tokens=False)["input_ids"]
    assert remove_thoughts(renderer.decode_answer(ids)).is_unfinished
