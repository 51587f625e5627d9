"""The benchmark `faithfulness`: values computed by hand, and a model that depends on one word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

import online_worlds
import worlds
from benchmarks.faithfulness import Case, measure, run
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.types import ChoiceScores, Completion, Prompt

FAITHFUL = [Case(f"u{n}", 0.9, cited=(0.2, 0.3), others=(0.8,)) for n in range(9)]
UNFAITHFUL = Case("v", 0.9, cited=(0.8,), others=(0.1,))


def test_measures_equal_those_computed_by_hand() -> None:
    found = measure([*FAITHFUL, UNFAITHFUL, Case("v", 0.5, (0.4,), (0.4,))], seed=0)
    assert (found["n_cases"], found["n_users"]) == (11, 10)
    assert found["share"] == 0.925  # nine users at 1, one at (0 + 1/2) / 2
    assert found["share_of_cases"] == round(9.5 / 11, 4)
    assert (found["users_more"], found["users_less"]) == (9, 1)
    assert found["sign_test_p"] == pytest.approx(22 / 1024)  # P(<= 1 or >= 9 of 10 heads)
    assert found["share_low"] < 0.925 < found["share_high"] <= 1.0
    assert found["fall_without_cited"] == round((9 * 0.65 + 0.1 + 0.1) / 11, 4)


def test_ties_count_as_one_half() -> None:
    found = measure([Case(f"u{n}", 0.9, (0.5,), (0.5,)) for n in range(5)], seed=0)
    assert (found["share"], found["sign_test_p"]) == (0.5, 1.0)


def test_no_cases_are_an_error() -> None:
    with pytest.raises(DataError, match=r"No recommendation cites some but.*Use more users"):
        measure([], seed=0)


class OneWordBackend(Backend):
    """Backend that answers yes if the prompt contains its word, else no."""

    def __init__(self, word: str) -> None:
        self._word = word

    @property
    def fingerprint(self) -> str:
        return "one word"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        raise NotImplementedError

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(prompts):
            text = "".join(getattr(p, "text", "") for m in prompt.messages for p in m.parts)
            yield index, ChoiceScores((-0.1, -3.0) if self._word in text else (-3.0, -0.1))

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose preferences have two clauses."""
    text = "The user appears to have a preference for calm things that show boats."
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds.ANSWERS, "preferences", text)
        return online_worlds.make_run(tmp_path_factory.mktemp("faithfulness"))


@pytest.mark.parametrize(("word", "share"), [("calm", 1.0), ("boats", 0.0), ("zebra", 0.5)])
def test_the_share_depends_on_whether_the_model_uses_the_cited_clause(
    folder: Path, monkeypatch: pytest.MonkeyPatch, word: str, share: float
) -> None:
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: OneWordBackend(word))
    monkeypatch.setattr(
        ItemCatalog, "matches", lambda self, user, _: ("calm",) * ("calm" in str(user))
    )
    found = run(folder=str(folder), users=3, k=2, budget=2)
    assert found["n_users"] == 3
    assert found["share"] == share


class HighestNumberBackend(OneWordBackend):
    """Backend whose P(yes) grows with the highest number in the titles of a history."""

    def __init__(self) -> None:
        super().__init__("")

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(prompts):
            text = "".join(getattr(p, "text", "") for m in prompt.messages for p in m.parts)
            (titles,) = re.findall(r"(?:Thing \d+; )+Thing \d+", text)
            yield index, ChoiceScores((-1.0, -0.01 * max(map(int, re.findall(r"\d+", titles)))))


@pytest.mark.parametrize(("cites", "is_faithful"), [(max, True), (min, False)])
def test_titles_of_the_history_are_the_parts_of_a_ranker_that_reads_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cites: Callable[[Iterable[int]], int],
    is_faithful: bool,
) -> None:
    def cited(self: ItemCatalog, profile: Profile, _: str) -> tuple[str, ...]:
        return (f"Thing {cites(int(one.removeprefix('item')) for one in profile.history)}",)

    folder = online_worlds.make_run(tmp_path, "recommend.reads=history")
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: HighestNumberBackend())
    monkeypatch.setattr(ItemCatalog, "matches", cited)
    found = run(folder=str(folder), users=3, k=2, budget=2)
    assert (found["n_users"], found["reads"]) == (3, "history")
    assert found["share"] == 1.0 if is_faithful else found["share"] < 0.5
