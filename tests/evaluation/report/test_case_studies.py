"""CaseStudies: users by rule, histories before the target only, preference_histories cut where they changed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.evaluation.report.case_studies import (
    MEDIAN,
    RANDOM,
    WORST,
    Words,
    build_case_studies,
    changed_words,
)
from mllm_msr.tables import INTERACTIONS, ITEMS, PREFERENCES, SCORES


@pytest.fixture
def tables():
    """Eleven users who chose a, b, c and then t; user u10 ranks t last, u0 first."""
    users = [f"u{at:02}" for at in range(11)]
    interactions = [
        (user, item, at, at)
        for user in users
        for at, item in enumerate(["a", "b", "c", "t", "later"])
    ]
    scores = [
        (0, "uniform", user, item, int(item == "t"), value)
        for place, user in enumerate(users)
        for item, value in [
            ("t", 1 - place / 10),
            *((f"n{at}", at / 10 + 0.05) for at in range(10)),
        ]
    ]
    preference_history = [
        ("u00", 0, 2, "likes calm films", False, ""),
        ("u00", 1, 3, "likes loud films", True, ""),
        ("u00", 2, 4, "knows the target", True, ""),
    ]
    items = [("a", "Title A", "", "a.png"), ("t", "Target", "", None), ("b", "", "", None)]
    return {
        "interactions": pl.DataFrame(interactions, schema=dict(INTERACTIONS), orient="row"),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        "scores": pl.DataFrame(scores, schema=dict(SCORES), orient="row"),
        "preferences": pl.DataFrame(preference_history, schema=dict(PREFERENCES), orient="row"),
    }


def build(tables, **changes):
    given = tables | changes
    return build_case_studies(given.pop("interactions"), given.pop("items"), **given)


def test_users_are_chosen_by_rule(tables):
    case_studies = build(tables, users=5, seed=1)
    assert [case_study.reason for case_study in case_studies] == [
        RANDOM,
        RANDOM,
        RANDOM,
        MEDIAN,
        WORST,
    ]
    assert case_studies[3].user_id == "u05"
    assert case_studies[4].user_id == "u10"
    assert len({case_study.user_id for case_study in case_studies}) == 5
    assert case_studies == build(tables, users=5, seed=1)
    drawn = {tuple(s.user_id for s in build(tables, users=5, seed=seed)[:3]) for seed in range(8)}
    assert len(drawn) > 1


@pytest.mark.parametrize(("users", "found"), [(0, 0), (1, 1), (2, 2), (99, 11)])
def test_no_more_users_than_asked_for_or_known(tables, users, found):
    case_studies = build(tables, users=users)
    assert len(case_studies) == found


def test_one_single_user_gets_one_case_study(tables):
    alone = tables["scores"].filter(pl.col("user_id") == "u03")
    assert [case_study.user_id for case_study in build(tables, scores=alone, users=4)] == ["u03"]


def test_history_and_preference_history_end_before_the_target(tables):
    case_study = next(s for s in build(tables, users=11, root=Path("/run")) if s.user_id == "u00")
    assert [item.item_id for item in case_study.history] == ["a", "b", "c"]
    assert [step.n_items for step in case_study.preference_history] == [2, 3]
    assert case_study.history[0].image == Path("/run/a.png")
    assert [item.title for item in case_study.history] == ["Title A", "b", "c"]


def test_long_histories_show_the_latest(tables):
    case_study = build(tables, users=1, max_history=2)[0]
    assert [item.item_id for item in case_study.history] == ["b", "c"]
    assert case_study.n_earlier == 1


def test_ranking_marks_the_truth(tables):
    case_study = next(s for s in build(tables, users=11) if s.user_id == "u00")
    assert [place.rank for place in case_study.ranking] == list(range(1, 12))
    assert [place.item.item_id for place in case_study.ranking if place.truth] == ["t"]
    assert case_study.ranking[0].truth
    assert (case_study.truth_rank, case_study.auc) == ("1", 1.0)


def test_a_tied_truth_has_a_range_of_places(tables):
    flat = tables["scores"].with_columns(score=pl.lit(0.5))
    assert build(tables, scores=flat, users=1)[0].truth_rank == "1-11"


def test_standings_show_the_same_candidates_by_every_model(tables):
    best = pl.when(pl.col("label") == 1).then(2.0).otherwise(pl.col("score"))
    flat = tables["scores"].with_columns(score=pl.lit(0.5))
    every = {
        "mllm_msr": tables["scores"].lazy(),
        "good": tables["scores"].with_columns(score=best).lazy(),
        "flat": flat.lazy(),
        "absent": tables["scores"].filter(pl.col("user_id") != "u10").lazy(),
    }
    case_study = next(s for s in build(tables, users=11, every=every) if s.user_id == "u10")
    ours, good, constant = case_study.standings
    assert [standing.model for standing in case_study.standings] == ["mllm_msr", "good", "flat"]
    assert (ours.truth_rank, ours.share) == (case_study.truth_rank, case_study.auc) == ("11", 0.0)
    assert (good.truth_rank, good.share, good.top[0].truth) == ("1", 1.0, True)
    assert (constant.truth_rank, constant.share) == ("1-11", 0.5)
    assert [place.rank for place in ours.top] == [1, 2, 3]
    assert not any(place.truth for place in ours.top)


def test_one_model_alone_has_no_standings(tables):
    assert build(tables, users=1, every={"only": tables["scores"].lazy()})[0].standings == ()


def test_models_without_preferences_have_no_preference_history(tables):
    assert build(tables, preferences=None, users=1)[0].preference_history == ()


def test_changed_words():
    assert changed_words("", "a b") == (Words("a b", new=False),)
    assert changed_words("a b c", "a x c") == (
        Words("a", new=False),
        Words("x", new=True),
        Words("c", new=False),
    )
    assert changed_words("a b", "") == ()
