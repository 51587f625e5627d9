"""Faithfulness of explanations: do the cited parts of a user's input affect the score more?

For recommendations to test users, the item is scored again without each part of what the ranker
reads about the user. A part of a written preference is a sentence or, in a preference of one
sentence, a clause; it is cited if the explanation finds a phrase of it in the item's summary. For a
ranker that reads only the history, a part is an item of it, which is removed from the titles and,
with collaborative tokens, from the user's vector; it is cited if its title is among the matches. A
faithful explanation cites the parts whose removal lowers P(yes) most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from mllm_msr.data.full_ranking import sample_targets
from mllm_msr.errors import BackendError, DataError
from mllm_msr.evaluation.significance import bootstrap_interval
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.ranker.scoring import yes_probability
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.explanations import preference_parts, without_part
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.types import Prompt


@dataclass(frozen=True, slots=True)
class Case:
    """Scores of a recommendation whose explanation cites some parts of the user's input.

    Attributes:
        user_id: The user.
        full: P(yes) with the full input.
        cited: P(yes) without each of the cited parts.
        others: P(yes) without each of the other parts.
    """

    user_id: str
    full: float
    cited: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def agreement(self) -> float:
        """Return the share of pairs (cited, other) where removing the cited part lowers P more.

        Ties count as one half.
        """
        return fmean(
            0.5 + 0.5 * float(np.sign(other - cited))
            for cited in self.cited
            for other in self.others
        )


@dataclass(frozen=True, slots=True)
class _Recommended:
    """A recommended item, the inputs without each part, and which of the parts are cited."""

    user_id: str
    item_id: str
    full: UserInput
    reduced: tuple[UserInput, ...]
    is_cited: tuple[bool, ...]


def run(
    *, folder: str = "runs/demo", users: int = 80, k: int = 10, budget: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Measure the faithfulness of a run's explanations.

    Args:
        folder: A finished run folder; it is only read.
        users: Maximum number of test users of its first fold.
        k: Number of recommendations per user.
        budget: Number of candidates that the model ranks per user.
        seed: Seed of the sample of users and of the bootstrap.

    Returns:
        Settings, and the result of `measure`.
    """
    load = os.getloadavg()[0]
    with RunFolder.open(Path(folder), read_only=True) as opened:
        candidates = opened.read("candidates")
    with MllmMsr.from_run(folder, hide_targets=True) as model:
        test = candidates.filter(split="test", fold=model.fold)
        user_ids = sample_targets(test, users, seed=seed)["user_id"].to_list()
        recommended = [
            one for user_id in user_ids for one in _recommend(model, user_id, k=k, budget=budget)
        ]
        cases = list(_score_without_parts(model, recommended))
        reads = model.catalog.prompt_settings.reads
    settings = {"users": users, "k": k, "budget": budget, "seed": seed, "load_before": load}
    return {**settings, "reads": reads, **measure(cases, seed=seed)}


def measure(cases: Sequence[Case], *, seed: int, n_resamples: int = 2000) -> dict[str, Any]:
    """Compute the mean agreement with its confidence interval and a sign test.

    Args:
        cases: The cases.
        seed: Seed of the bootstrap.
        n_resamples: Number of bootstrap samples of users.

    Returns:
        Numbers of cases and users; `share`, the mean agreement over users with its 95% confidence
        interval; the mean agreement over cases; the numbers of users above and below 0.5 and the
        two-sided sign test over them; and the mean decreases of P(yes).

    Raises:
        DataError: There are no cases.
    """
    if not cases:
        raise DataError(
            "No recommendation cites some but not all parts of what the ranker reads about a user. "
            "Use more users, or a run whose preferences or histories have several parts."
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
        "fall_without_cited": round(fmean(case.full - fmean(case.cited) for case in cases), 4),
        "fall_without_other": round(fmean(case.full - fmean(case.others) for case in cases), 4),
    }


def _recommend(model: MllmMsr, user_id: str, *, k: int, budget: int) -> Iterator[_Recommended]:
    """Yield recommendations to a user that cite some but not all parts of the user's input."""
    found = model.recommend(user_id, k, budget=budget)
    profile, catalog = model.users.profile(user_id), model.catalog
    full, parts = catalog.user_input(profile), _inputs_without_parts(catalog, profile)
    for item in found.items:
        if catalog.prompt_settings.reads_preference:
            is_cited = tuple(bool(catalog.matches(part, item.item_id)) for part, _ in parts)
        else:
            is_cited = tuple(part in item.matches for part, _ in parts)
        if any(is_cited) and not all(is_cited):
            reduced = tuple(one for _, one in parts)
            yield _Recommended(user_id, item.item_id, full, reduced, is_cited)


def _inputs_without_parts(catalog: ItemCatalog, profile: Profile) -> list[tuple[str, UserInput]]:
    """Return each part of what the ranker reads about a user, and the input without it.

    A removed item of the history is replaced by the next older one, for all items alike.
    """
    prompt, full = catalog.prompt_settings, catalog.user_input(profile)
    if prompt.reads_preference:
        text = profile.preference
        return [
            (part, replace(full, preference=without_part(text, part)))
            for part in preference_parts(text)
        ]
    latest = dict.fromkeys(reversed(profile.history[-prompt.history_items :]))
    return [
        (title, catalog.user_input(replace(profile, history=history)))
        for item_id in latest
        if (title := catalog.title(item_id))
        and (history := tuple(one for one in profile.history if one != item_id))
    ]


def _score_without_parts(model: MllmMsr, recommended: Sequence[_Recommended]) -> Iterator[Case]:
    """Score each item with the full input and without each of its parts."""
    prompts: list[Prompt] = []
    for one in recommended:
        inputs = (one.full, *one.reduced)
        prompts += [model.catalog.prompt(user, one.item_id) for user in inputs]
    backend = model.models.open_ranker()
    try:
        scored = dict(backend.score(prompts, CHOICES))
    finally:
        backend.close()
    values = [yes_probability(scored[index])[0] for index in range(len(prompts))]
    scores = iter([value for value in values if value is not None])
    if None in values:
        raise BackendError(f"The model failed on {values.count(None)} of {len(values)} prompts.")
    for one in recommended:
        full = next(scores)
        reduced = [(next(scores), is_cited) for is_cited in one.is_cited]
        yield Case(
            one.user_id,
            full,
            cited=tuple(score for score, is_cited in reduced if is_cited),
            others=tuple(score for score, is_cited in reduced if not is_cited),
        )
