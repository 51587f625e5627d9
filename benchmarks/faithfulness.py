"""Whether explanations are faithful: does what they cite move the model more than what they do not?

For recommendations of held-out users, each part of the preference (a sentence or, of a preference
of one sentence, a clause) is taken away in turn and the item scored again. A part is cited where
the explanation finds a phrase of it in the item's summary. A faithful explanation cites the parts
whose absence lowers P(yes) most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from mllm_msr.data.full_ranking import sample_targets
from mllm_msr.errors import DataError
from mllm_msr.evaluation.significance import bootstrap_interval
from mllm_msr.ranker.scoring import yes_probability
from mllm_msr.recommend.explanations import preference_parts, without_part
from mllm_msr.recommend.recommender import CHOICES, MllmMsr
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.types import Prompt


@dataclass(frozen=True, slots=True)
class Case:
    """A recommendation that cites some parts of its preference and not others.

    Attributes:
        user_id: The user.
        whole: P(yes) for the whole preference.
        cited: P(yes) without each of the cited parts.
        others: P(yes) without each of the other parts.
    """

    user_id: str
    whole: float
    cited: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def agreement(self) -> float:
        """Share of pairs (cited, other) in which the cited part's absence lowers P more."""
        return fmean(
            0.5 + 0.5 * float(np.sign(other - cited))
            for cited in self.cited
            for other in self.others
        )


@dataclass(frozen=True, slots=True)
class _Question:
    user_id: str
    item_id: str
    preference: str
    parts: tuple[str, ...]
    is_cited: tuple[bool, ...]


def run(
    *, folder: str = "runs/demo", users: int = 80, k: int = 10, budget: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Measure a run's explanations.

    Args:
        folder: A finished run folder; only read.
        users: Test users of its first fold, fewer where there are not so many.
        k: Recommendations of each.
        budget: Candidates that the model ranks for them.
        seed: Seed of the choice of users and of the resampling.

    Returns:
        How many recommendations cite some parts and not others; the share of pairs in which the
        cited part's absence lowers P(yes) more, a mean over users with its 95 % interval, ties
        half; the same with single cases as units; the users of whom that holds for the larger and
        for the smaller share of pairs, and the two-sided sign test over them; mean falls of P(yes).
    """
    load = os.getloadavg()[0]
    with RunFolder.open(Path(folder), read_only=True) as kept:
        candidates = kept.read("candidates")
    with MllmMsr.from_run(folder, hide_targets=True) as model:
        test = candidates.filter(split="test", fold=model.fold)
        chosen = sample_targets(test, users, seed=seed)["user_id"].to_list()
        asked = [one for user in chosen for one in _questions(model, user, k=k, budget=budget)]
        cases = list(_cases(model, asked))
    settings = {"users": users, "k": k, "budget": budget, "seed": seed, "load_before": load}
    return {**settings, **measure(cases, seed=seed)}


def measure(cases: Sequence[Case], *, seed: int, n_resamples: int = 2000) -> dict[str, Any]:
    """What `run` returns, of given cases.

    Raises:
        DataError: There is no case.
    """
    if not cases:
        raise DataError(
            needed="recommendations that cite some parts of a preference and not others",
            received="none",
            remedy="take more users, or a run whose preferences have several parts",
        )
    by_user: dict[str, list[float]] = {}
    for case in cases:
        by_user.setdefault(case.user_id, []).append(case.agreement)
    means = np.array([fmean(values) for values in by_user.values()])
    low, high = bootstrap_interval(means[:, None], seed=seed, n_resamples=n_resamples)
    more, less = int((means > 0.5).sum()), int((means < 0.5).sum())
    test = stats.binomtest(more, more + less) if more + less else None
    return {
        "n_cases": len(cases),
        "n_users": len(means),
        "share": round(float(means.mean()), 4),
        "share_low": round(float(low[0]), 4),
        "share_high": round(float(high[0]), 4),
        "share_of_cases": round(fmean(case.agreement for case in cases), 4),
        "users_more": more,
        "users_less": less,
        "sign_test_p": float(test.pvalue) if test else 1.0,
        "fall_without_cited": round(fmean(case.whole - fmean(case.cited) for case in cases), 4),
        "fall_without_other": round(fmean(case.whole - fmean(case.others) for case in cases), 4),
    }


def _questions(model: MllmMsr, user_id: str, *, k: int, budget: int) -> Iterator[_Question]:
    """A user's recommendations that cite some parts of the preference and not others."""
    found = model.recommend(user_id, k, budget=budget)
    cut = preference_parts(found.preference)
    for item in found.items:
        cited = tuple(bool(model.catalog.matches(part, item.item_id)) for part in cut)
        if any(cited) and not all(cited):
            yield _Question(user_id, item.item_id, found.preference, cut, cited)


def _cases(model: MllmMsr, questions: Sequence[_Question]) -> Iterator[Case]:
    prompts: list[Prompt] = []
    for one in questions:
        texts = [one.preference, *(without_part(one.preference, part) for part in one.parts)]
        prompts += [model.catalog.prompt(text, one.item_id) for text in texts]
    backend = model.models.open_ranker()
    try:
        found = dict(backend.score(prompts, CHOICES))
    finally:
        backend.close()
    scores = iter([yes_probability(found[place])[0] for place in range(len(prompts))])
    for one in questions:
        whole = next(scores)
        cut = [(next(scores), cited) for cited in one.is_cited]
        yield Case(
            one.user_id,
            whole,
            cited=tuple(score for score, cited in cut if cited),
            others=tuple(score for score, cited in cut if not cited),
        )
