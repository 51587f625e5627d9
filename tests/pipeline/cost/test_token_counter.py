"""Counting what stages ask: by the model's tokenizer, by words, by a guess; answers from a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.pipeline.cost.token_counter import CountingBackend, counter_for
from mllm_msr.summarization.output_checks import find_fault
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


def ask(text: str, *images: Path, new: int = 30) -> Prompt:
    parts = (*map(ImagePart, images), TextPart(text))
    return Prompt((Message("user", parts),), max_new_tokens=new)


def test_tokens_are_those_that_the_model_reads(
    tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
) -> None:
    folder = str(tiny_checkpoint("llava_next"))
    counter = counter_for("huggingface", {"checkpoint": folder})
    prompts = [ask("A calm film."), ask("What is this?", images[1])]
    read = dict(HuggingFaceBackend(folder, device="cpu").score(prompts, ("yes", "no")))
    counted = [counter.count(prompt) for prompt in prompts]
    assert [one.n_tokens for one in counted] == [read[0].prompt_tokens, read[1].prompt_tokens]
    assert counted[0].n_image_tokens == 0
    assert 0 < counted[1].n_image_tokens < counted[1].n_tokens
    assert counter.basis == "the model's own tokenizer"


def test_without_a_tokenizer_characters_are_counted(tmp_path: Path) -> None:
    counter = counter_for("openai", {"checkpoint": str(tmp_path / "nowhere")})
    assert counter.basis.startswith("a guess: 4 characters")
    assert counter.count(ask("12345678")).n_tokens == 2
    assert counter.count(ask("1234", Path("a.png"))).n_image_tokens == 576
    assert counter.count_text("1234") == 2


def test_filler_is_as_long_as_the_stage_allows_and_passes_for_an_answer() -> None:
    counting_backend = CountingBackend(counter_for("mock", {}))
    ((_, short),) = counting_backend.generate([ask("Describe it.", new=30)])
    ((_, long),) = counting_backend.generate([ask("Describe it.", new=1200)])
    assert (short.output_tokens, long.output_tokens) == (10, 400)
    assert find_fault(long.text) is None
    assert [call.counted.n_tokens for call in counting_backend.calls] == [2, 2]


def test_an_engine_answers_and_its_answers_are_given_again() -> None:
    script = MockBackend({"film": "A calm film.", "song": "A loud and merry song."})
    pilot = CountingBackend(counter_for("mock", {}), engine=script)
    found = dict(pilot.generate([ask("the film"), ask("the song"), ask("the lost one")]))
    assert [found[0].text, found[1].text] == ["A calm film.", "A loud and merry song."]
    assert found[2].error is not None
    later = CountingBackend(counter_for("mock", {}), pool=pilot.pool)
    answers = dict(later.generate([ask("the film"), ask("the song"), ask("the film")]))
    assert [answers[n].text for n in range(3)] == [found[0].text, found[1].text, found[0].text]
    assert [call.n_output for call in later.calls] == [3, 5, 3]


@pytest.mark.parametrize("engine", [None, MockBackend(scores=(0.8, 0.1))])
def test_scores_are_counted_with_or_without_an_engine(engine: MockBackend | None) -> None:
    counting_backend = CountingBackend(counter_for("mock", {}), engine=engine)
    found = list(counting_backend.score([ask("one"), ask("two words")], ("yes", "no")))
    assert [index for index, _ in found] == [0, 1]
    assert [call.counted.n_tokens for call in counting_backend.calls] == [1, 2]
