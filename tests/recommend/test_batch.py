"""Recommendations for several users: access by user, frames, and display in notebooks."""

from __future__ import annotations

import pytest

from mllm_msr.errors import UsageError
from mllm_msr.recommend.batch import RecommendationBatch
from mllm_msr.recommend.lists import Recommendation, RecommendationList


def batch(n_users: int) -> RecommendationBatch:
    items = (Recommendation("v1", 1, 0.5, ("recent",), (), title="One"),)
    lists = [RecommendationList(items, "x", None, 1, user_id=f"u{n}") for n in range(n_users)]
    return RecommendationBatch(lists)


def test_lists_are_found_by_user() -> None:
    found = batch(2)
    assert len(found) == 2
    assert found["u1"].user_id == "u1"
    with pytest.raises(UsageError, match=r"no list for the user 'u9'\. There are 2 lists"):
        found["u9"]


def test_a_frame_has_a_row_per_user_and_item() -> None:
    frame = batch(3).to_polars()
    assert frame["user_id"].to_list() == ["u0", "u1", "u2"]
    assert batch(3).to_pandas()["title"].tolist() == ["One"] * 3
    assert batch(0).to_polars().schema == frame.schema


def test_a_notebook_shows_the_first_lists_and_the_number_of_others() -> None:
    assert repr(batch(7)) == "RecommendationBatch(7 users, 7 recommendations)"
    page = batch(7)._repr_html_()
    assert page.count("<section>") == 5
    assert "2 more users" in page
    assert "more users" not in batch(5)._repr_html_()
