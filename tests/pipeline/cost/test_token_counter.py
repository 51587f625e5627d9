"""Token counters, and the backend that counts prompts and recycles responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.errors import BackendError
from mllm_msr.pipeline.cost.token_counter import CountingBackend, token_counter
from mllm_msr.summarization.output_checks import find_fault
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


def prompt(text: str, *images: Path, new: int = 30) -> Prompt:
    parts = (*map(ImagePart, images), TextPart(text))
    return Prompt((Message("user", parts),), max_new_tokens=new)


def test_tokens_are_those_of_the_model(
    tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
) -> None:
    folder = str(tiny_checkpoint("llava_next"))
    counter = token_counter("huggingface", {"checkpoint": folder})
    prompts = [prompt("A calm film."), prompt("What is this?", images[1])]
    prompts += [prompt("What is this?", *images[:3])]
    scores = dict(HuggingFaceBackend(folder, device="cpu").score(prompts, ("yes", "no")))
    text, image, several = counted = [counter.count(prompt) for prompt in prompts]
    assert [one.n_tokens for one in counted] == [scores[n].prompt_tokens for n in range(3)]
    assert [one.n_images for one in counted] == [0, 1, 3]
    assert several.n_image_tokens > 2 * image.n_image_tokens
    assert several.tokens_per_image == round(several.n_image_tokens / 3)
    assert (text.n_image_tokens, text.tokens_per_image) == (0, 0)
    assert 0 < image.n_image_tokens == image.tokens_per_image < image.n_tokens
    assert counter.basis == "the model's own tokenizer"


def test_tokens_of_images_follow_the_options_of_the_model(
    tiny_checkpoint: Callable[[str], Path], images: Sequence[Path]
) -> None:
    arguments = {"checkpoint": str(tiny_checkpoint("smolvlm"))}
    counts = [
        token_counter("huggingface", {**arguments, **options}).count(prompt("What?", images[0]))
        for options in ({}, {"image_tokens": 20})
    ]
    assert [count.tokens_per_image for count in counts] == [34, 7]
    with pytest.raises(BackendError, match="tiles is not an option"):
        token_counter("huggingface", {**arguments, "processor": {"tiles": 1}})


def test_without_a_tokenizer_tokens_are_estimated_from_characters(tmp_path: Path) -> None:
    counter = token_counter("openai", {"checkpoint": str(tmp_path / "nowhere")})
    assert counter.basis.startswith("an estimate of 4 characters per token")
    assert counter.count(prompt("12345678")).n_tokens == 2
    assert counter.count(prompt("1234", Path("a.png"))).n_image_tokens == 576
    assert counter.count_text("1234") == 2


def test_filler_is_as_long_as_the_stage_allows_and_passes_the_output_checks() -> None:
    counting = CountingBackend(token_counter("mock", {}))
    ((_, short),) = counting.generate([prompt("Describe it.", new=30)])
    ((_, long),) = counting.generate([prompt("Describe it.", new=1200)])
    assert (short.output_tokens, long.output_tokens) == (10, 400)
    assert find_fault(long.text) is None
    assert [call.prompt.n_tokens for call in counting.calls] == [2, 2]


@pytest.mark.parametrize("language", ["German", "Russian", "Japanese"])
def test_filler_passes_the_check_of_the_language(language: str) -> None:
    counting = CountingBackend(token_counter("mock", {}), language=language)
    ((_, completion),) = counting.generate([prompt("Describe it.", new=120)])
    assert completion.output_tokens == 40
    assert find_fault(completion.text, language=language) is None


def test_responses_of_a_backend_are_recycled() -> None:
    mock = MockBackend({"film": "A calm film.", "song": "A loud and merry song."})
    pilot = CountingBackend(token_counter("mock", {}), backend=mock)
    found = dict(pilot.generate([prompt("the film"), prompt("the song"), prompt("the lost one")]))
    assert [found[0].text, found[1].text] == ["A calm film.", "A loud and merry song."]
    assert found[2].error is not None
    later = CountingBackend(token_counter("mock", {}), responses=pilot.responses)
    again = dict(later.generate([prompt("the film"), prompt("the song"), prompt("the film")]))
    assert [again[n].text for n in range(3)] == [found[0].text, found[1].text, found[0].text]
    assert [call.n_output for call in later.calls] == [3, 5, 3]


@pytest.mark.parametrize("backend", [None, MockBackend(scores=(0.8, 0.1))])
def test_scores_are_counted_with_and_without_a_backend(backend: MockBackend | None) -> None:
    counting = CountingBackend(token_counter("mock", {}), backend=backend)
    found = list(counting.score([prompt("one"), prompt("two words")], ("yes", "no")))
    assert [index for index, _ in found] == [0, 1]
    assert [call.prompt.n_tokens for call in counting.calls] == [1, 2]


def test_prompts_with_an_unreadable_image_are_counted_as_failed(
    tiny_checkpoint: Callable[[str], Path], images: Sequence[Path], tmp_path: Path
) -> None:
    counter = token_counter("huggingface", {"checkpoint": str(tiny_checkpoint("llava_next"))})
    counting = CountingBackend(counter)
    prompts = [prompt("What is this?", path) for path in (images[0], tmp_path / "absent.png")]
    assert len(list(counting.score(prompts, ("yes", "no")))) == 2
    assert (len(counting.calls), counting.n_failed) == (1, 1)
