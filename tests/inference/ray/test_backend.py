"""Tests of the Ray backend: equal responses, killed workers, errors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError, MissingExtraError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

pytest.importorskip("ray")

Wrap = Callable[[Callable[[Prompt], str]], Callable[[Prompt], str]]
MakeRay = Callable[[Mapping[str, Any]], RayBackend]


@pytest.fixture
def ray_backend() -> Iterator[MakeRay]:
    """Return a factory of mock backends with two workers and batches of three prompts."""
    made: list[RayBackend] = []

    def make(arguments: Mapping[str, Any]) -> RayBackend:
        made.append(RayBackend("mock", arguments, workers=2, cpus=0.5, batch=3))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def test_responses_equal_those_of_the_wrapped_backend(
    ray_backend: MakeRay, prompts: list[Prompt]
) -> None:
    def answer(prompt: Prompt) -> str:
        if "Question 5." in prompt.text:
            raise ValueError("no answer to this prompt")
        return f"It is {prompt.text}"

    def probabilities(prompt: Prompt) -> Sequence[float]:
        return (1 / (2 + len(prompt.text)), 0.25)

    arguments = {"answers": answer, "scores": probabilities}
    many, one = ray_backend(arguments), MockBackend(**arguments)
    assert many.fingerprint == one.fingerprint
    assert many.capabilities == one.capabilities
    completions = dict(many.generate(prompts))
    assert completions == dict(one.generate(prompts))
    assert [index for index in completions if completions[index].error] == [5]
    assert dict(many.score(prompts, ("yes", "no"))) == dict(one.score(prompts, ("yes", "no")))
    assert list(many.generate([])) == []


@pytest.mark.slow
def test_responses_of_a_model_equal_those_of_one_process(
    prompts: list[Prompt], tiny_checkpoint: Callable[[str], Path]
) -> None:
    arguments = {"checkpoint": str(tiny_checkpoint("llama")), "device": "cpu"}
    many = RayBackend("huggingface", arguments, workers=2, cpus=0.5, batch=3)
    one = HuggingFaceBackend(**arguments)
    assert many.fingerprint == one.fingerprint
    assert dict(many.generate(prompts)) == dict(one.generate(prompts))
    distributed, local = (dict(b.score(prompts, ("yes", "no"))) for b in (many, one))
    for index in range(len(prompts)):
        assert distributed[index].log_probs == pytest.approx(local[index].log_probs, abs=1e-4)
    many.close()
    one.close()


def test_errors_of_the_wrapped_backend_are_raised(
    ray_backend: MakeRay, prompts: list[Prompt]
) -> None:
    text_only = ray_backend({"images": False})
    image = Prompt((Message("user", (ImagePart(Path("a.png")), TextPart("What?"))),))
    with pytest.raises(AnswerTokenError, match=r"does not know the choices \['maybe'\]"):
        list(text_only.score(prompts, ("yes", "maybe")))
    with pytest.raises(CapabilityError, match=r"a prompt with the image a\.png"):
        list(text_only.generate([*prompts, image]))
    # Running batches are canceled, and the workers accept new prompts.
    assert len(list(text_only.generate(prompts))) == len(prompts)


def test_a_killed_worker_repeats_only_its_unfinished_prompts(
    ray_backend: MakeRay, prompts: list[Prompt], logged: Wrap, tmp_path: Path
) -> None:
    fatal = tmp_path / "fatal"
    fatal.touch()

    def answer(prompt: Prompt) -> str:
        if "Question 4." in prompt.text and fatal.exists():
            fatal.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return prompt.text

    responses = list(ray_backend({"answers": logged(answer)}).generate(prompts))
    assert sorted(index for index, _ in responses) == list(range(12))
    assert all(response.text == f"Question {index}." for index, response in responses)
    log = (tmp_path / "prompts.txt").read_text().splitlines()
    repeated = {line for line in log if log.count(line) > 1}
    assert "Question 4." in repeated
    assert repeated <= {"Question 3.", "Question 4.", "Question 5."}


def test_a_prompt_that_kills_every_worker_is_abandoned(
    ray_backend: MakeRay, prompts: list[Prompt]
) -> None:
    def answer(prompt: Prompt) -> str:
        if "Question 7." in prompt.text:
            os.kill(os.getpid(), signal.SIGKILL)
        return prompt.text

    responses = dict(ray_backend({"answers": answer}).generate(prompts[6:]))
    assert responses[1].error == "3 workers died while running only this prompt."
    assert responses[1].finish_reason == "error"
    assert [responses[index].error for index in (0, 2, 3, 4, 5)] == [None] * 5


def test_too_many_consecutive_deaths_end_the_run(
    ray_backend: MakeRay, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.inference.ray.backend._MAX_CONSECUTIVE_DEATHS", 2)
    dying = ray_backend({"answers": lambda _: os.kill(os.getpid(), signal.SIGKILL)})
    with pytest.raises(BackendError, match="3 workers died in a row without a response"):
        list(dying.generate(prompts))


def test_each_response_is_cached_immediately(
    ray_backend: MakeRay, prompts: list[Prompt], logged: Wrap, tmp_path: Path
) -> None:
    answers = {"answers": logged(attrgetter("text"))}
    cache = ResponseCache(tmp_path / "responses.sqlite")
    first = CachedBackend(ray_backend(answers), cache)
    interrupted = first.generate(prompts)
    early = dict(next(interrupted) for _ in range(2))
    interrupted.close()
    first.close()
    again = CachedBackend(ray_backend(answers), cache)
    responses = dict(again.generate(prompts))
    assert {index: responses[index] for index in early} == early
    assert again.hits >= 2
    assert again.hits + again.misses == 12


def test_workers_with_other_weights_raise_an_error(
    ray_backend: MakeRay, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ray_backend({"fingerprint": "here"})
    monkeypatch.setattr(backend, "_arguments", {"fingerprint": "there"})
    with pytest.raises(BackendError, match="model mock:there, but the driver expects mock:here"):
        list(backend.generate(prompts))


def test_unavailable_resources_raise_an_error(prompts: list[Prompt]) -> None:
    greedy = RayBackend("mock", {}, workers=1, cpus=1000, startup_timeout=2)
    with pytest.raises(
        BackendError, match=r"within 2 seconds. Requested: 1 workers with 1000 cores"
    ):
        list(greedy.generate(prompts))
    greedy.close()


def test_an_address_without_a_cluster_raises_an_error(
    prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(BackendError, match=r"executor\.address=auto: Could not find"):
        list(RayBackend("mock", {}, address="auto").generate(prompts))


def test_a_missing_ray_package_raises_an_error(
    prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = RayBackend("mock", {})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"is part of mllm-msr\[ray\]. Run: pip install"):
        list(backend.generate(prompts))


def test_start_waits_for_all_workers(
    ray_backend: MakeRay, prompts: list[Prompt], tmp_path: Path
) -> None:
    once = tmp_path / "once"
    once.touch()

    def make_in_worker() -> Callable[[Prompt], str]:
        if os.getpid() != driver and once.exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return attrgetter("text")

    driver = os.getpid()
    backend = ray_backend({"answers": Unpickled(make_in_worker)})
    backend.start()
    assert backend._pool is not None
    assert len(backend._pool.idle()) == 2
    assert not once.exists()
    backend.start()
    assert dict(backend.generate(prompts))[3].text == "Question 3."


def test_workers_that_never_start_raise_an_error(
    ray_backend: MakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.inference.ray.backend._MAX_CONSECUTIVE_DEATHS", 1)
    dying = ray_backend({"answers": Unpickled(lambda: os.kill(os.getpid(), signal.SIGKILL))})
    with pytest.raises(BackendError, match="2 workers died in a row without a response"):
        dying.start()
    dying.close()
    with pytest.raises(BackendError, match="The backend is closed"):
        dying.start()


def test_a_closed_backend_raises_an_error(ray_backend: MakeRay, prompts: list[Prompt]) -> None:
    backend = ray_backend({})
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="The backend is closed"):
        list(backend.generate(prompts))


class Unpickled:
    """Object that a function replaces when it is unpickled in another process.

    Args:
        make: Returns the replacement.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return self._make, ()

    def __call__(self, prompt: Prompt) -> str:
        raise AssertionError("only workers call this object")
