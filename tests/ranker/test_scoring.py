from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import final

import pytest

from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.ranker.scoring import score_examples
from mllm_msr.tables import SCORES
from mllm_msr.types import ChoiceScores, Completion, Item, Prompt


def example(user: str, item: str, label: int = 0) -> Example:
    prompt = build_prompt(f"{user} likes it", Item(item, item), item_type="item")
    return Example(0, "test", "uniform", user, 3, item, label, prompt)


@final
class FakeBackend(Backend):
    """Backend that returns given scores, last prompt first."""

    def __init__(self, scores: dict[str, ChoiceScores], *, choices: bool = True) -> None:
        self.scores = scores
        self.texts: list[str] = []
        self._choices = choices

    @property
    def fingerprint(self) -> str:
        return "fake"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=False, choices=self._choices, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        raise NotImplementedError

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        assert tuple(choices) == ("yes", "no")
        texts = [prompt.text for prompt in prompts]
        self.texts += texts
        for index in reversed(range(len(texts))):
            name = next(key for key in self.scores if f'"{key}"' in texts[index])
            yield index, self.scores[name]

    def close(self) -> None:
        pass


def logs(yes: float, no: float) -> ChoiceScores:
    return ChoiceScores((yes, no), prompt_tokens=10)


def test_score_is_p_yes_over_p_yes_plus_p_no() -> None:
    backend = MockBackend(scores=lambda prompt: (0.3, 0.1) if "b" in prompt.text else (0.1, 0.1))
    frame, counts = score_examples([example("u", "b", 1), example("u", "x")], backend)
    assert frame.schema == SCORES
    assert frame["score"].to_list() == pytest.approx([0.75, 0.5])
    assert frame["label"].to_list() == [1, 0]
    assert counts.examples == 2
    assert counts.failed == 0


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("item-first", ["u", "v", "v", "u"]),
        ("user-first", ["u", "u", "v", "v"]),
        ("reranker", ["u", "u", "v", "v"]),
    ],
)
def test_the_backend_gets_prompts_that_begin_alike_together(
    order: PromptOrder, expected: list[str]
) -> None:
    backend = MockBackend(scores=(0.3, 0.1))
    examples = [example(user, item) for user, item in ("ux", "vx", "vy", "uy")]
    frame, _ = score_examples(examples, backend, order=order)
    assert frame["user_id"].to_list() == ["u", "v", "v", "u"]
    found = [prompt.text.partition(" likes it")[0][-1] for prompt in backend.history]
    assert found == expected


def test_rows_are_in_the_given_order_regardless_of_the_backend() -> None:
    backend = FakeBackend({f"i{n}": logs(math.log(0.1 + 0.1 * n), math.log(0.4)) for n in range(5)})
    order = [3, 0, 4, 1, 2]
    examples = [example("u", f"i{n}") for n in order]
    for window in (2, 100):
        frame, counts = score_examples(examples, backend, window=window)
        assert frame["item_id"].to_list() == [f"i{n}" for n in order]
        expected = [(0.1 + 0.1 * n) / (0.5 + 0.1 * n) for n in order]
        assert frame["score"].to_list() == pytest.approx(expected)
        assert counts.prompt_tokens == 50


def test_backend_gets_prompts_sorted_by_item() -> None:
    backend = FakeBackend({"a": logs(0, 0), "b": logs(0, 0)})
    score_examples([example(u, i) for u in ("u1", "u2") for i in ("b", "a")], backend)
    assert [text.rsplit('"', 2)[1] for text in backend.texts] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("yes", "no", "expected"),
    [(-800.0, 0.0, 0.0), (0.0, -800.0, 1.0), (-math.inf, 0.0, 0.0), (-50.0, -49.0, 0.2689414214)],
)
def test_extreme_log_probabilities_stay_finite(yes: float, no: float, expected: float) -> None:
    frame, _ = score_examples([example("u", "a")], FakeBackend({"a": logs(yes, no)}))
    assert frame["score"][0] == pytest.approx(expected)


def test_tiny_differences_are_no_ties() -> None:
    backend = FakeBackend({"a": logs(-20.0, -20.0 - 1e-9), "b": logs(-20.0, -20.0)})
    frame, _ = score_examples([example("u", "a"), example("u", "b")], backend)
    assert frame["score"][0] > frame["score"][1]


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (ChoiceScores((), error="the image is damaged"), "the image is damaged"),
        (logs(-math.inf, -math.inf), "have no ratio"),
        (logs(math.nan, 0.0), "have no ratio"),
    ],
)
def test_failures_are_counted_and_limited(failure: ChoiceScores, sentence: str) -> None:
    backend = FakeBackend({"a": logs(0, 0), "bad": failure})
    examples = [example("u", "a"), example("u", "bad")]
    with pytest.raises(BackendError, match=f"1 of 2 examples failed.* first failure: .*{sentence}"):
        score_examples(examples, backend, max_error_rate=0.49)
    frame, counts = score_examples(examples, backend, max_error_rate=0.5)
    assert frame["score"].to_list() == [0.5, None]
    assert counts.failed == 1


def test_backend_without_choices_is_rejected_before_the_first_call() -> None:
    backend = FakeBackend({"a": logs(0, 0)}, choices=False)
    with pytest.raises(CapabilityError, match="backend fake only generates text"):
        score_examples([example("u", "a")], backend)
    assert not backend.texts


def test_progress_counts_all_examples_and_no_examples_are_allowed() -> None:
    seen: list[int] = []
    backend = FakeBackend({"a": logs(0, 0)})
    score_examples([example("u", "a")] * 3, backend, progress=seen.append)
    assert sum(seen) == 3
    frame, counts = score_examples([], backend)
    assert frame.height == counts.examples == 0
    assert frame.schema == SCORES
