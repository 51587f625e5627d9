"""Contract of `Backend`, tested for every backend in the registry.

These tests fail for a new file in `backends/` until `FACTORIES` has a factory for it. `DECLARED`
lists backends whose responses do not depend on prompts or choices like those of a model, or that
cannot be constructed both with and without support for images.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

import pytest

from mllm_msr import registry
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.backends.smollm import SmolLMBackend
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError
from mllm_msr.interfaces import Backend
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]
CHOICES: Final = ("yes", "no")


def _huggingface(checkpoint: Checkpoint, *, images: bool) -> Backend:
    folder = checkpoint("llava_next" if images else "llama")
    return HuggingFaceBackend(str(folder), batch_size=4, device="cpu")


def _demo(checkpoint: Checkpoint, *, images: bool) -> Backend:
    folder = checkpoint("qwen2_5_vl" if images else "llama")
    return DemoBackend(weights=folder, batch_size=4, device="cpu")


def _smollm(checkpoint: Checkpoint, *, images: bool) -> Backend:
    folder = checkpoint("llava_efficientnet" if images else "llama")
    return SmolLMBackend(weights=folder, batch_size=4, device="cpu", dtype="float32")


def _mock(_: Checkpoint, *, images: bool) -> Backend:
    def answer(prompt: Prompt) -> str:
        _require_images(prompt)
        return f"An answer to {prompt.text!r} and {len(prompt.images)} images"

    def probabilities(prompt: Prompt) -> Sequence[float]:
        _require_images(prompt)
        return (1 / (2 + len(prompt.text)), 0.5)

    return MockBackend(answer, scores=probabilities, images=images)


def _require_images(prompt: Prompt) -> None:
    for path in prompt.images:
        path.stat()


@functools.cache
def _served(folder: Path) -> str:
    """Start a server for a checkpoint, which runs until the tests end, and return its address."""
    from endpoints import ModelServer, serve

    server = serve(ModelServer(folder, folder))
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__().url


def _openai(checkpoint: Checkpoint, *, images: bool) -> Backend:
    folder = checkpoint("llava_next" if images else "llama")
    return OpenAIBackend("tiny", url=_served(folder), key_variable="NO_KEY", concurrency=4)


FACTORIES: Final[Mapping[str, Callable[..., Backend]]] = {
    "demo": _demo,
    "huggingface": _huggingface,
    "openai": _openai,
    "mock": _mock,
    "smollm": _smollm,
}


@dataclass(frozen=True)
class Declaration:
    """How the contract is tested for one backend.

    Attributes:
        answers_vary: Whether the answer depends on the prompt.
        scores_follow_choices: Whether a score depends on the choice and not on its position.
        images: Whether support for images is "optional", so that both variants are tested, or the
            backend "always" or "never" supports them. Its factory ignores `images` otherwise.
    """

    answers_vary: bool = True
    scores_follow_choices: bool = True
    images: Literal["optional", "always", "never"] = "optional"


DECLARED: Final[Mapping[str, Declaration]] = {
    # The factory gives probabilities by position.
    "mock": Declaration(scores_follow_choices=False),
}


def make(name: str, checkpoint: Checkpoint, *, images: bool | None = None) -> Backend:
    """Construct a backend, by default with support for images if possible."""
    if name not in FACTORIES:
        pytest.fail(
            f"backends/{name}.py has no factory in FACTORIES. Add one to test its contract."
        )
    support = declaration(name).images != "never" if images is None else images
    return FACTORIES[name](checkpoint, images=support)


def declaration(name: str) -> Declaration:
    return DECLARED.get(name, Declaration())


@pytest.fixture(scope="module", params=registry.names("backends"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backend(name: str, tiny_checkpoint: Checkpoint) -> Iterator[Backend]:
    opened = make(name, tiny_checkpoint)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def prompts(name: str, images: Sequence[Path]) -> Sequence[Prompt]:
    """Return prompts of different lengths and limits, most with images if they are supported."""
    made = []
    for number in range(10):
        with_image = number % 3 and declaration(name).images != "never"
        image = (ImagePart(images[number % len(images)]),) if with_image else ()
        text = TextPart(f"Video {number}. " + "A calm film. " * (number * 7 % 5))
        made.append(Prompt((Message("user", (*image, text)),), max_new_tokens=4 + number % 2))
    return made


def test_the_registry_finds_the_final_class(name: str, backend: Backend) -> None:
    assert type(backend) is registry.find("backends", name)
    assert type(backend).__final__  # type: ignore[attr-defined]


def test_every_index_is_returned_exactly_once(backend: Backend, prompts: Sequence[Prompt]) -> None:
    completions = list(backend.generate(iter(prompts)))
    scores = list(backend.score(iter(prompts), CHOICES))
    assert sorted(index for index, _ in completions) == list(range(len(prompts)))
    assert sorted(index for index, _ in scores) == list(range(len(prompts)))
    assert all(completion.error is None for _, completion in completions)
    assert all(len(score.log_probs) == 2 and score.error is None for _, score in scores)


def test_completions_do_not_depend_on_the_batch(
    name: str, backend: Backend, prompts: Sequence[Prompt]
) -> None:
    together = dict(backend.generate(prompts))
    alone = [next(backend.generate([prompt]))[1] for prompt in prompts]
    assert [together[index] for index in range(len(prompts))] == alone
    if declaration(name).answers_vary:
        assert len({completion.text for completion in alone}) > len(prompts) // 2


def test_scores_do_not_depend_on_the_batch(backend: Backend, prompts: Sequence[Prompt]) -> None:
    together = dict(backend.score(prompts, CHOICES))
    for index, prompt in enumerate(prompts):
        _, alone = next(backend.score([prompt], CHOICES))
        assert together[index].log_probs == pytest.approx(alone.log_probs, abs=1e-4)
        assert together[index].prompt_tokens == alone.prompt_tokens > 0


def test_scores_follow_the_order_of_the_choices(
    name: str, backend: Backend, prompts: Sequence[Prompt]
) -> None:
    if not declaration(name).scores_follow_choices:
        pytest.skip("its scores do not depend on the choice")
    _, forth = next(backend.score(prompts[:1], ("yes", "no")))
    _, back = next(backend.score(prompts[:1], ("no", "yes")))
    assert forth.log_probs == pytest.approx(back.log_probs[::-1], abs=1e-6)
    assert forth.log_probs[0] != forth.log_probs[1]


def test_completions_respect_max_new_tokens(backend: Backend, prompts: Sequence[Prompt]) -> None:
    for index, completion in backend.generate(prompts):
        assert 0 < completion.output_tokens <= prompts[index].max_new_tokens
        assert completion.prompt_tokens > 0
        assert completion.finish_reason in {"stop", "length"}
        assert completion.text == completion.text.strip()


def test_an_unreadable_image_only_fails_its_prompt(
    name: str, backend: Backend, prompts: Sequence[Prompt], tmp_path: Path
) -> None:
    if declaration(name).images == "never":
        pytest.skip("it does not support images")
    lost = Prompt((Message("user", (ImagePart(tmp_path / "lost.png"), TextPart("What?"))),))
    mixed = [*prompts[:2], lost, *prompts[2:4]]
    completions = dict(backend.generate(mixed))
    scores = dict(backend.score(mixed, CHOICES))
    assert [i for i in range(5) if completions[i].error] == [2]
    assert [i for i in range(5) if scores[i].error] == [2]
    assert "lost.png" in str(completions[2].error)
    assert "lost.png" in str(scores[2].error)
    assert completions[2].finish_reason == "error"
    assert completions[2].text == ""
    assert scores[2].log_probs == ()


def test_images_are_rejected_by_a_text_only_model(
    name: str, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    if declaration(name).images == "always":
        pytest.skip("it always supports images")
    text_only = make(name, tiny_checkpoint, images=False)
    assert not text_only.capabilities.images
    prompt = Prompt((Message("user", (ImagePart(images[0]), TextPart("What?"))),))
    with pytest.raises(CapabilityError, match="image"):
        next(text_only.generate([prompt]))
    with pytest.raises(CapabilityError, match="image"):
        next(text_only.score([prompt], CHOICES))


def test_a_choice_of_several_tokens_is_an_error(
    backend: Backend, prompts: Sequence[Prompt]
) -> None:
    with pytest.raises(AnswerTokenError, match="zyxwvut"):
        list(backend.score(prompts[:2], ("yes", "zyxwvut")))


def test_without_prompts_there_are_no_responses(backend: Backend) -> None:
    assert list(backend.generate([])) == []
    assert list(backend.score([], CHOICES)) == []


def test_an_infinite_stream_of_prompts_is_read_lazily(
    backend: Backend, prompts: Sequence[Prompt]
) -> None:
    assert next(backend.generate(itertools.repeat(prompts[0])))[1].error is None


def test_the_fingerprint_is_stable_and_contains_the_name_but_no_path(
    name: str, backend: Backend, tiny_checkpoint: Checkpoint
) -> None:
    assert backend.fingerprint == make(name, tiny_checkpoint).fingerprint
    assert backend.fingerprint.startswith(f"{name}:")
    assert not re.search(r"(^|[:@])/", backend.fingerprint)


def test_a_closed_backend_rejects_prompts_and_can_be_closed_again(
    name: str, tiny_checkpoint: Checkpoint, prompts: Sequence[Prompt]
) -> None:
    backend = make(name, tiny_checkpoint)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="The backend is closed"):
        next(backend.generate(prompts))
    with pytest.raises(BackendError, match="The backend is closed"):
        next(backend.score(prompts, CHOICES))


def test_the_class_declares_caching_copies_and_fine_tuning(name: str, tmp_path: Path) -> None:
    kind = cast("type[Backend]", registry.find("backends", name))
    parameters = inspect.signature(kind).parameters
    assert kind.caches_image_prefixes == ("prefix_cache_bytes" in parameters)
    assert kind.default_copies(device="cuda") == 1
    arguments = {"checkpoint": "org/model"} if "checkpoint" in parameters else {}
    if kind.trainable_checkpoint(**arguments) is None:
        with pytest.raises(CapabilityError, match="cannot load the fine-tuned weights"):
            kind.with_adapter(arguments, tmp_path, "lora")
        return
    methods: tuple[Literal["lora", "full"], ...] = ("lora", "full")
    for method in methods:
        tuned = kind.with_adapter(arguments, tmp_path, method)
        assert set(tuned) <= set(parameters)
        assert str(tmp_path) in map(str, tuned.values())
