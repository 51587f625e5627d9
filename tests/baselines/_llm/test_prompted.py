from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import polars as pl
import pytest

from mllm_msr.baselines._llm.prompted import PromptedRecommender
from mllm_msr.baselines.llava_zero_shot import LlavaZeroShot
from mllm_msr.baselines.tallrec import Tallrec


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@pytest.mark.parametrize("kind", [LlavaZeroShot, Tallrec])
def test_prompted_baselines_pass_calls_to_their_scorer(kind: type[PromptedRecommender]) -> None:
    recommender = kind()

    recommender.show_scoring(_progress)

    assert recommender._scorer.progress is _progress
    assert recommender.requires_llm
    assert recommender.usage() == recommender._scorer.usage()


def test_every_target_has_a_complete_history() -> None:
    targets = pl.DataFrame({"user_id": ["u", "v"], "position": [3, 0]})
    assert LlavaZeroShot().complete_histories(targets).equals(targets)
