"""Weights of lists: values of candidates, the adaptive stop, and the plan of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mllm_msr.config.settings import Settings
from mllm_msr.errors import DamagedFileError
from mllm_msr.recommend.list_weights import (
    ListPlan,
    ListWeights,
    candidate_settings,
    fixed_weights,
    log_odds,
    plan_beside,
    read_weights,
    score_until_settled,
    without_weights,
)
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, Weight
from mllm_msr.storage.run_folder import RunFolder

CANDIDATES = [Candidate(f"i{n}", 3.0 - n / 10, ("recent",)) for n in range(30)]
WEIGHTS = ListWeights(
    {"recent": Weight(2.0, 0.5)}, scale=1.0, slope=0.5, bound=0.7, budget=20, reason="Chosen."
)
PLAN = ListPlan("fitted", 20, "Chosen.", WEIGHTS, adaptive=True)


def test_log_odds_are_finite() -> None:
    assert log_odds([0.5, 0.9]) == pytest.approx([0.0, math.log(9)])
    assert log_odds([0.0, 1.0]) == pytest.approx([-13.8, 13.8], abs=0.1)


def test_scored_candidates_are_together_as_probable_as_before() -> None:
    scores = {"i0": 0.1, "i1": 0.9, "i7": 0.5}
    values = WEIGHTS.values(CANDIDATES, scores)
    before = np.array([one.relevance for one in CANDIDATES])
    rows = [0, 1, 7]
    assert np.exp(values[rows]).sum() == pytest.approx(np.exp(before[rows]).sum())
    others = [row for row in range(30) if row not in rows]
    assert values[others] == pytest.approx(before[others])
    # Between scored candidates, the logit counts with the slope.
    assert values[1] - values[0] == pytest.approx(-0.1 + 0.5 * 2 * math.log(9))
    assert WEIGHTS.values(CANDIDATES, {}) == pytest.approx(before)
    assert WEIGHTS.values(CANDIDATES, {"i3": 0.99}) == pytest.approx(before)
    assert len(WEIGHTS.values([], {})) == 0


def test_a_list_is_settled_if_no_other_candidate_can_reach_it() -> None:
    scores = {f"i{n}": 0.5 for n in range(10)}
    # The fifth has 2.6, and the eleventh at most 2.0 + 0.7.
    assert not PLAN.is_settled(CANDIDATES, scores, n_read=10, k=5)
    assert PLAN.is_settled(CANDIDATES, scores, n_read=10, k=3)
    assert not PLAN.is_settled(CANDIDATES, {}, n_read=0, k=1)
    assert PLAN.is_settled(CANDIDATES[:10], scores, n_read=10, k=20)
    assert PLAN.is_settled([], {}, n_read=0, k=5)
    # A longer list than there are candidates has room for all.
    assert not PLAN.is_settled(CANDIDATES, scores, n_read=10, k=31)
    always = ListPlan("fitted", 20, "", WEIGHTS)
    assert not always.is_settled(CANDIDATES, scores, n_read=10, k=1)


@pytest.mark.parametrize(("adaptive", "calls"), [(True, [20, 10]), (False, [60])])
def test_users_are_scored_together_until_their_lists_are_settled(
    adaptive: bool, calls: list[int]
) -> None:
    asked: list[int] = []

    def score(
        parts: Sequence[tuple[Profile, Sequence[str]]],
    ) -> list[tuple[dict[str, float], dict[str, str]]]:
        asked.append(sum(len(item_ids) for _, item_ids in parts))
        return [
            ({one: 0.5 for one in item_ids if one != "i4"}, {"i4": "failed"})
            for _, item_ids in parts
        ]

    plan = ListPlan("fitted", 30, "", WEIGHTS, adaptive=adaptive)
    close = [Candidate(f"i{n}", 0.0, ("recent",)) for n in range(20)]
    far = [Candidate(f"i{n}", -float(n), ("recent",)) for n in range(30)]
    requests = [(Profile("a"), far), (Profile("b"), close if adaptive else CANDIDATES)]
    found = score_until_settled(plan, requests, score, k=3)
    assert asked == calls
    assert "i4" not in found[0][0]
    assert len(found[0][0]) == (9 if adaptive else 29)
    assert score_until_settled(plan, [], score, k=3) == []


def test_the_plan_without_weights_has_the_settings_of_the_run() -> None:
    plan = without_weights(Settings())
    assert (plan.order, plan.budget, plan.n_candidates(k=10, budget=50)) == ("fusion", 20, 50)
    assert plan.generator_weights(0.3) == fixed_weights(0.3) == {"recent": Weight(0.3, 0.0)}
    assert PLAN.generator_weights(0.3) == WEIGHTS.generators
    assert PLAN.n_candidates(k=10, budget=20) == 30
    settings = Settings.model_validate({"retrieve": {"budget": 0, "order": "model"}})
    assert str(without_weights(settings)) == (
        "Lists are ordered by P(yes), the score of the model. The model is not called. The number "
        "of calls is set by retrieve.budget."
    )
    assert str(PLAN) == (
        "Lists are ordered by the fitted weights of the run. The model scores at most 20 "
        "candidates per list, one call each. Chosen."
    )


def test_fitted_weights_of_another_run_need_fitted_candidates() -> None:
    fixed = without_weights(Settings())
    assert plan_beside(PLAN, PLAN, Settings()) is PLAN
    assert plan_beside(PLAN, fixed, Settings()) is fixed
    assert plan_beside(fixed, fixed, Settings()) is fixed
    found = plan_beside(fixed, PLAN, Settings())
    assert (found.order, found.budget, found.weights) == ("fusion", 20, None)
    few = Settings.model_validate({"retrieve": {"budget": 5}})
    assert plan_beside(fixed, PLAN, few).budget == 5


def test_weights_belong_to_the_settings_of_the_candidates() -> None:
    settings = Settings.model_validate(
        {
            "retrieve": {"generators": ["recent", "collaborative", "sasrec"]},
            "baselines": {"sasrec": {"hidden": 8}},
        }
    )
    chosen = candidate_settings(settings)
    assert chosen["baselines"]["sasrec"] == {"hidden": 8}
    assert set(chosen) == {
        "generators", "collaborative", "encoder", "recent_share", "depth", "baselines"
    }  # fmt: skip
    assert chosen["depth"] == 200
    assert "content" not in chosen["baselines"]
    read = {"sasrec": {"hidden": 8}, "content": "text"}
    other = Settings.model_validate({"retrieve": settings.retrieve, "baselines": read})
    assert candidate_settings(other)["baselines"]["content"] == "text"


VALID: Mapping[str, Any] = {
    "format": 1,
    "settings": {"depth": 200},
    "generators": {"recent": {"rank": 61.0, "score": 0.5}},
    "model": {"scale": 1.0, "slope": 0.5, "bound": 2.0},
    "budget": 20,
    "reason": "Chosen.",
}


def read(folder: Path, content: object) -> tuple[ListWeights, dict[str, Any]]:
    """Read a file that is as it was written, so that only its content can be wrong."""
    path = folder / "0.json"
    path.write_text(json.dumps(content))
    return read_weights(cast("RunFolder", SimpleNamespace(verified=lambda _: path, folder="R")), 0)


def test_weights_are_read(tmp_path: Path) -> None:
    weights, fitted_for = read(tmp_path, VALID)
    assert weights.generators == {"recent": Weight(61.0, 0.5)}
    assert (weights.slope, weights.bound, weights.budget) == (0.5, 2.0, 20)
    assert fitted_for == {"depth": 200}


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        {},
        {**VALID, "format": 2},
        {**VALID, "settings": None},
        {**VALID, "generators": []},
        {**VALID, "generators": {"recent": 1.0}},
        {**VALID, "generators": {"recent": {"rank": 1.0, "other": 1.0}}},
        {**VALID, "generators": {"recent": {"rank": "high"}}},
        {**VALID, "generators": {"recent": {"rank": math.nan}}},
        {**VALID, "generators": {"recent": {"rank": -1.0}}},
        {**VALID, "model": {"scale": 1.0, "slope": -0.5, "bound": 2.0}},
        {**VALID, "model": {"scale": 1.0, "slope": 0.5, "bound": math.inf}},
        {**VALID, "budget": math.inf},
        {**VALID, "budget": math.nan},
        {**VALID, "budget": -1},
        {**VALID, "budget": None},
    ],
    ids=str,
)
def test_invalid_weights_are_rejected_with_the_fix(tmp_path: Path, content: object) -> None:
    message = r"0\.json cannot be read \(.*\)\. Run 'mllm-msr fit-lists --run R --force' to fit"
    with pytest.raises(DamagedFileError, match=message):
        read(tmp_path, content)
