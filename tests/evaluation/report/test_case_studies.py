"""Case studies: users selected by rule, and histories that end before the target."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.evaluation.report.case_studies import (
    TextSpan,
    build_case_studies,
    changed_spans,
)
from mllm_msr.tables import INTERACTIONS, ITEMS, PREFERENCES, SCORES


@pytest.fixture
def tables():
    """Return tables of eleven users with the history a, b, c, t; u00 ranks t first, u10 last."""
    users = [f"u{user:02}" for user in range(11)]
    interactions = [
        (user, item, position, position)
        for user in users
        for position, item in enumerate(["a", "b", "c", "t", "later"])
    ]
    scores = [
        (0, "uniform", user, item, int(item == "t"), value)
        for number, user in enumerate(users)
        for item, value in [
            ("t", 1 - number / 10),
            *((f"n{negative}", negative / 10 + 0.05) for negative in range(10)),
        ]
    ]
    preferences = [
        ("u00", 0, 2, "likes calm films", False, ""),
        ("u00", 1, 3, "likes loud films", True, ""),
        ("u00", 2, 4, "knows the target", True, ""),
    ]
    items = [("a", "Title A", "", "a.png"), ("t", "Target", "", None), ("b", "", "", None)]
    return {
        "interactions": pl.DataFrame(interactions, schema=dict(INTERACTIONS), orient="row"),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        "scores": pl.DataFrame(scores, schema=dict(SCORES), orient="row"),
        "preferences": pl.DataFrame(preferences, schema=dict(PREFERENCES), orient="row"),
    }


def build(tables, **changes):
    given = tables | changes
    return build_case_studies(given.pop("interactions"), given.pop("items"), **given)


def test_users_are_selected_by_rule(tables):
    case_studies = build(tables, users=5, seed=1)
    assert [case_study.reason for case_study in case_studies] == [
        "random",
        "random",
        "random",
        "median",
        "worst",
    ]
    assert case_studies[3].user_id == "u05"
    assert case_studies[4].user_id == "u10"
    assert len({case_study.user_id for case_study in case_studies}) == 5
    assert case_studies == build(tables, users=5, seed=1)
    drawn = {tuple(s.user_id for s in build(tables, users=5, seed=seed)[:3]) for seed in range(8)}
    assert len(drawn) > 1


@pytest.mark.parametrize(("users", "found"), [(0, 0), (1, 1), (2, 2), (99, 11)])
def test_no_more_users_than_requested_or_available(tables, users, found):
    case_studies = build(tables, users=users)
    assert len(case_studies) == found


def test_a_single_user_gets_one_case_study(tables):
    alone = tables["scores"].filter(pl.col("user_id") == "u03")
    assert [case_study.user_id for case_study in build(tables, scores=alone, users=4)] == ["u03"]


def test_history_and_preference_history_end_before_the_target(tables):
    case_study = next(s for s in build(tables, users=11) if s.user_id == "u00")
    assert [item.item_id for item in case_study.history] == ["a", "b", "c"]
    assert [step.n_items for step in case_study.preference_history] == [2, 3]
    assert case_study.history[0].image == Path("a.png")
    assert [item.title for item in case_study.history] == ["Title A", "b", "c"]


def test_long_histories_show_the_latest(tables):
    case_study = build(tables, users=1, max_history=2)[0]
    assert [item.item_id for item in case_study.history] == ["b", "c"]
    assert case_study.n_earlier == 1


def test_ranking_marks_the_target(tables):
    case_study = next(s for s in build(tables, users=11) if s.user_id == "u00")
    assert [ranked.rank for ranked in case_study.ranking] == list(range(1, 12))
    assert [ranked.item.item_id for ranked in case_study.ranking if ranked.is_target] == ["t"]
    assert case_study.ranking[0].is_target
    assert (case_study.target_rank, case_study.value) == ("1", 1.0)


def test_a_tied_target_has_a_range_of_ranks(tables):
    flat = tables["scores"].with_columns(score=pl.lit(0.5))
    assert build(tables, scores=flat, users=1)[0].target_rank == "1-11"


def test_every_model_ranks_the_same_candidates(tables):
    best = pl.when(pl.col("label") == 1).then(2.0).otherwise(pl.col("score"))
    flat = tables["scores"].with_columns(score=pl.lit(0.5))
    all_scores = {
        "mllm_msr": tables["scores"].lazy(),
        "good": tables["scores"].with_columns(score=best).lazy(),
        "flat": flat.lazy(),
        "absent": tables["scores"].filter(pl.col("user_id") != "u10").lazy(),
    }
    case_study = next(
        s for s in build(tables, users=11, all_scores=all_scores) if s.user_id == "u10"
    )
    main, good, constant = case_study.model_rankings
    assert [ranking.model for ranking in case_study.model_rankings] == ["mllm_msr", "good", "flat"]
    assert (main.target_rank, main.share_below) == (case_study.target_rank, case_study.value)
    assert (main.target_rank, main.share_below) == ("11", 0.0)
    assert (good.target_rank, good.share_below, good.top[0].is_target) == ("1", 1.0, True)
    assert (constant.target_rank, constant.share_below) == ("1-11", 0.5)
    assert [ranked.rank for ranked in main.top] == [1, 2, 3]
    assert not any(ranked.is_target for ranked in main.top)


def test_a_single_model_has_no_model_rankings(tables):
    only = {"only": tables["scores"].lazy()}
    assert build(tables, users=1, all_scores=only)[0].model_rankings == ()


def test_models_without_preferences_have_no_preference_history(tables):
    assert build(tables, preferences=None, users=1)[0].preference_history == ()


def test_changed_spans():
    assert changed_spans("", "a b") == (TextSpan("a b", is_new=False),)
    assert changed_spans("a b c", "a x c") == (
        TextSpan("a", is_new=False),
        TextSpan("x", is_new=True),
        TextSpan("c", is_new=False),
    )
    assert changed_spans("a b", "") == ()


def test_repeated_preferences_are_collapsed(tables):
    texts = ["likes calm films", "likes calm films", "likes loud films", "likes loud films"]
    rows = [("u00", block, block, text, False, "") for block, text in enumerate(texts)]
    preferences = pl.DataFrame(rows, schema=dict(PREFERENCES), orient="row")
    case_study = next(
        s for s in build(tables, users=11, preferences=preferences) if s.user_id == "u00"
    )
    steps = case_study.preference_history
    assert [(step.n_items, step.unchanged_after) for step in steps] == [(0, (1,)), (2, (3,))]
    assert [span.text for span in steps[1].spans if span.is_new] == ["loud"]


def test_a_case_study_states_how_many_users_have_the_same_value(tables):
    case_study = build(tables, users=1)[0]
    assert (case_study.n_same, case_study.n_users) == (1, 11)
    flat = tables["scores"].with_columns(score=pl.lit(0.5))
    case_study = build(tables, scores=flat, users=1)[0]
    assert (case_study.value, case_study.n_same, case_study.n_users) == (0.5, 11, 11)


def test_the_standing_of_a_target_is_honest(tables):
    standings = {s.user_id: s.standing for s in build(tables, users=11)}
    assert standings["u00"] == "top"
    assert standings["u03"] == "middle"
    assert standings["u10"] == "below chance"
