"""Prompts over Ray's actors: the same responses, whoever dies, and each asked once."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend, prompt_text
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError, MissingExtraError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.inference.ray import actors
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

pytest.importorskip("ray")

Wrap = Callable[[Callable[[Prompt], str]], Callable[[Prompt], str]]
Spread = Callable[[Mapping[str, Any]], RayBackend]


@pytest.fixture
def spread() -> Iterator[Spread]:
    """Makes scripted backends on two workers, with three prompts in a batch."""
    made: list[RayBackend] = []

    def make(arguments: Mapping[str, Any]) -> RayBackend:
        made.append(RayBackend("mock", arguments, workers=2, cpus=0.5, batch=3))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def test_responses_are_those_of_the_backend_itself(spread: Spread, prompts: list[Prompt]) -> None:
    def answer(prompt: Prompt) -> str:
        if "Question 5." in prompt_text(prompt):
            raise ValueError("no answer to this one")
        return f"It is {prompt_text(prompt)}"

    def odds(prompt: Prompt) -> Sequence[float]:
        return (1 / (2 + len(prompt_text(prompt))), 0.25)

    arguments = {"answers": answer, "scores": odds}
    many, one = spread(arguments), MockBackend(**arguments)
    assert many.fingerprint == one.fingerprint
    assert many.capabilities == one.capabilities
    completions = dict(many.generate(prompts))
    assert completions == dict(one.generate(prompts))
    assert [index for index in completions if completions[index].error] == [5]
    assert dict(many.score(prompts, ("yes", "no"))) == dict(one.score(prompts, ("yes", "no")))
    assert list(many.generate([])) == []


@pytest.mark.slow
def test_a_models_responses_are_those_of_one_process(
    prompts: list[Prompt], tiny_checkpoint: Callable[[str], Path]
) -> None:
    arguments = {"checkpoint": str(tiny_checkpoint("llama")), "device": "cpu"}
    many = RayBackend("huggingface", arguments, workers=2, cpus=0.5, batch=3)
    one = HuggingFaceBackend(**arguments)
    assert many.fingerprint == one.fingerprint
    assert dict(many.generate(prompts)) == dict(one.generate(prompts))
    spread, together = (dict(b.score(prompts, ("yes", "no"))) for b in (many, one))
    for index in range(len(prompts)):
        assert spread[index].log_probs == pytest.approx(together[index].log_probs, abs=1e-4)
    many.close()
    one.close()


def test_what_a_backend_refuses_is_refused_here(spread: Spread, prompts: list[Prompt]) -> None:
    blind = spread({"images": False})
    image = Prompt((Message("user", (ImagePart(Path("a.png")), TextPart("What?"))),))
    with pytest.raises(AnswerTokenError, match=r"received \['maybe'\]"):
        list(blind.score(prompts, ("yes", "maybe")))
    with pytest.raises(CapabilityError, match=r"a prompt with a\.png"):
        list(blind.generate([*prompts, image]))
    # What was under way is let go, and the workers answer again.
    assert len(list(blind.generate(prompts))) == len(prompts)


def test_a_killed_worker_costs_nothing_but_what_it_was_at(
    spread: Spread, prompts: list[Prompt], written_down: Wrap, tmp_path: Path
) -> None:
    fatal = tmp_path / "fatal"
    fatal.touch()

    def answer(prompt: Prompt) -> str:
        if "Question 4." in prompt_text(prompt) and fatal.exists():
            fatal.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return prompt_text(prompt)

    responses = list(spread({"answers": written_down(answer)}).generate(prompts))
    assert sorted(index for index, _ in responses) == list(range(12))
    assert all(response.text == f"Question {index}." for index, response in responses)
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    again = {line for line in asked if asked.count(line) > 1}
    assert "Question 4." in again
    assert again <= {"Question 3.", "Question 4.", "Question 5."}


def test_a_row_that_kills_every_worker_is_given_up_alone(
    spread: Spread, prompts: list[Prompt]
) -> None:
    def answer(prompt: Prompt) -> str:
        if "Question 7." in prompt_text(prompt):
            os.kill(os.getpid(), signal.SIGKILL)
        return prompt_text(prompt)

    responses = dict(spread({"answers": answer}).generate(prompts[6:]))
    assert responses[1].error == "3 workers died over this prompt alone"
    assert responses[1].finish_reason == "error"
    assert [responses[index].error for index in (0, 2, 3, 4, 5)] == [None] * 5


def test_workers_that_only_die_end_the_run(
    spread: Spread, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.inference.ray.backend._DEATHS_IN_A_ROW", 2)
    dying = spread({"answers": lambda _: os.kill(os.getpid(), signal.SIGKILL)})
    with pytest.raises(BackendError, match="3 deaths without an answer in between"):
        list(dying.generate(prompts))


def test_each_response_is_kept_the_moment_it_comes(
    spread: Spread, prompts: list[Prompt], written_down: Wrap, tmp_path: Path
) -> None:
    answers = {"answers": written_down(prompt_text)}
    cache = ResponseCache(tmp_path / "responses.sqlite")
    first = CachedBackend(spread(answers), cache)
    stopped = first.generate(prompts)
    early = dict(next(stopped) for _ in range(2))
    stopped.close()
    first.close()
    again = CachedBackend(spread(answers), cache)
    responses = dict(again.generate(prompts))
    assert {index: responses[index] for index in early} == early
    assert again.hits >= 2
    assert again.hits + again.misses == 12


def test_workers_with_other_weights_are_refused(
    spread: Spread, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = spread({"fingerprint": "here"})
    monkeypatch.setattr(backend, "_arguments", {"fingerprint": "there"})
    with pytest.raises(BackendError, match="workers with mock:here, received one with mock:there"):
        list(backend.generate(prompts))


def test_a_wish_that_no_cluster_meets_ends_in_a_sentence(prompts: list[Prompt]) -> None:
    greedy = RayBackend("mock", {}, workers=1, cpus=1000, startup_timeout=2)
    with pytest.raises(BackendError, match=r"1 workers with 1000 cores .* within 2 s"):
        list(greedy.generate(prompts))
    greedy.close()


def test_an_address_without_a_cluster_is_said(
    prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(BackendError, match=r"executor\.address=auto, received Could not find"):
        list(RayBackend("mock", {}, address="auto").generate(prompts))


def test_its_absence_is_one_sentence(
    prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = RayBackend("mock", {})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mllm-msr\[ray\]'"):
        list(backend.generate(prompts))


def test_started_means_that_all_workers_wait_for_work(
    spread: Spread, prompts: list[Prompt], tmp_path: Path
) -> None:
    once = tmp_path / "once"
    once.touch()

    def made_in_a_worker() -> Callable[[Prompt], str]:
        if os.getpid() != driver and once.exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return prompt_text

    driver = os.getpid()
    backend = spread({"answers": Unpacked(made_in_a_worker)})
    backend.start()
    assert backend._pool is not None
    assert len(backend._pool.idle()) == 2
    assert not once.exists()
    backend.start()
    assert dict(backend.generate(prompts))[3].text == "Question 3."


def test_workers_that_never_start_end_the_start(
    spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_msr.inference.ray.backend._DEATHS_IN_A_ROW", 1)
    dying = spread({"answers": Unpacked(lambda: os.kill(os.getpid(), signal.SIGKILL))})
    with pytest.raises(BackendError, match="2 deaths without an answer in between"):
        dying.start()
    dying.close()
    with pytest.raises(BackendError, match="received a closed one"):
        dying.start()


def test_a_closed_one_is_refused(spread: Spread, prompts: list[Prompt]) -> None:
    backend = spread({})
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="received a closed one"):
        list(backend.generate(prompts))


def test_errors_cross_processes_with_their_words() -> None:
    for error in (MissingExtraError("peft", "train"), math_error()):
        back = actors.Refusal.of(error).error()
        assert type(back) is type(error)
        assert str(back) == str(error)


class Unpacked:
    """Becomes, in the process that it is sent to, what a function makes there.

    Args:
        make: The function.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return self._make, ()

    def __call__(self, prompt: Prompt) -> str:
        raise AssertionError("it is asked in the workers only")


def math_error() -> BackendError:
    return BackendError(needed="a number", received=str(math.nan), remedy="give one")
