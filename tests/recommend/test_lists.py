"""Lists of recommendations: order, explanations, and reasons for missing scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.recommend.list_weights import ListPlan
from mllm_msr.recommend.lists import (
    Recommendation,
    RecommendationList,
    build_list,
    missing_input,
)
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate

CANDIDATES = [Candidate(item_id, 1.0 / (n + 1), ("recent",)) for n, item_id in enumerate("abcde")]
SCORES = {"a": 0.1, "b": 0.5, "c": 0.9}


def fake_catalog() -> SimpleNamespace:
    """Return a catalog of identical items, each of which matches its own letter."""
    index = SimpleNamespace(vectors=lambda ids: np.ones((len(ids), 2), dtype=np.float32))
    return SimpleNamespace(
        index=index,
        matches=lambda preference, item_id: (item_id,),
        lacks_image=lambda item_id: item_id == "a",
        title=lambda item_id: f"Thing <{item_id}>",
        image=lambda item_id: None,
    )


def order_of(**options) -> str:
    found = build_list(
        fake_catalog(), Profile("u", ("z",), "x"), CANDIDATES, SCORES,
        **{"k": 5, "diversity": 0.0, **options},
    )  # fmt: skip
    return "".join(item.item_id for item in found.items)


def test_order_model_sorts_scored_candidates_by_score() -> None:
    assert order_of() == "cbade"
    assert order_of(k=4) == "cbad"


def test_order_fusion_adds_the_models_ranking_to_the_relevance() -> None:
    # The relevance values are far apart; the model counts like one more candidate generator.
    assert order_of(plan=ListPlan("fusion", 5, "")) == "abcde"


def test_each_recommendation_has_score_generators_and_matches() -> None:
    found = build_list(
        fake_catalog(), Profile("u", ("z",), "x"), CANDIDATES, SCORES, k=5, diversity=0.0
    )
    first, last = found.items[0], found.items[-1]
    assert (first.rank, first.score, first.generators) == (1, 0.9, ("recent",))
    assert first.matches == ("c",)
    assert (last.rank, last.score) == (5, None)
    assert (found.model_calls, found.fallback_reason, found.preference) == (3, None, "x")
    assert found.without_image == 1


@pytest.mark.parametrize(
    ("profile", "known", "reason"),
    [
        (Profile("u", ("z",), "x"), True, None),
        (Profile("u", ("z",), " "), True, "no_preference"),
        (Profile("u"), True, "no_history"),
        (Profile("u"), False, "unknown_user"),
        (Profile(""), False, "no_history"),
    ],
)
def test_missing_input(profile: Profile, known: bool, reason: str | None) -> None:
    assert missing_input(profile, known_user=known) == reason


@pytest.mark.parametrize(
    ("reads", "profile", "reason"),
    [
        ("history", Profile("u", ("z",)), None),
        ("history", Profile("u", (), "x"), "no_history"),
        ("both", Profile("u", ("z",)), None),
        ("preference", Profile("u", ("z",)), "no_preference"),
    ],
)
def test_only_what_the_model_reads_can_be_missing(
    reads: str, profile: Profile, reason: str | None
) -> None:
    prompt = RecommendSettings.model_validate({"reads": reads})
    assert missing_input(profile, known_user=True, prompt=prompt) == reason


def some_list(**options) -> RecommendationList:
    return build_list(
        fake_catalog(), Profile("u", ("z",), "likes C & d"), CANDIDATES, SCORES,
        **{"k": 3, "diversity": 0.0, **options},
    )  # fmt: skip


def test_a_list_is_a_sequence_and_a_frame() -> None:
    found = some_list()
    assert (len(found), found[0].item_id, [item.rank for item in found]) == (3, "c", [1, 2, 3])
    frame = found.to_polars()
    assert frame.columns == [
        "user_id", "rank", "item_id", "title", "score", "matches", "generators"
    ]  # fmt: skip
    assert frame.row(0) == ("u", 1, "c", "Thing <c>", 0.9, ["c"], ["recent"])
    assert found.to_pandas()["title"].tolist() == ["Thing <c>", "Thing <b>", "Thing <a>"]
    assert some_list(k=0).to_polars().schema == frame.schema


def test_the_text_of_a_list_names_user_preference_and_items() -> None:
    lines = repr(some_list(fallback_reason="model_slow")).splitlines()
    assert lines[0] == "3 recommendations for 'u', not scored: model_slow"
    assert lines[1:3] == ["likes C & d", "  1  0.900  c  Thing <c>  (“c”)"]


def test_matched_titles_with_commas_are_told_apart() -> None:
    titles = ("Rain, Wind and Snow", "Harbor")
    item = Recommendation("a", 1, 0.5, generators=(), matches=titles, title="A title")
    assert item.quoted_matches == "“Rain, Wind and Snow”, “Harbor”"
    found = RecommendationList((item,), "", fallback_reason=None, model_calls=1)
    assert repr(found).endswith("A title  (“Rain, Wind and Snow”, “Harbor”)")
    assert "<small>“Rain, Wind and Snow”, “Harbor”</small>" in found._repr_html_()
    assert found.to_polars()["matches"].to_list() == [list(titles)]


def test_the_page_of_a_list_is_escaped_and_marks_matches() -> None:
    page = some_list(fallback_reason="model_failed")._repr_html_()
    assert "likes <mark>C</mark> &amp; d" in page
    assert "Thing &lt;c&gt;" in page
    assert "<c>" not in page
    assert "The model did not rank the items: the model failed." in page
    assert "1 candidates" in page  # without an image
