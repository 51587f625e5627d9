"""Checks of the arguments of the recommender."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.errors import DataError, UsageError
from mllm_msr.recommend.arguments import check_counts, check_id, check_ids, require_known


@pytest.mark.parametrize("value", [5, None, b"u", ["u"], 1.0])
def test_an_id_is_text(value: object) -> None:
    check_id("user_id", "u")
    with pytest.raises(UsageError, match=r"user_id is .* \(\w+\)\. Pass one id as text"):
        check_id("user_id", value)


def test_the_message_about_a_number_shows_the_text() -> None:
    with pytest.raises(UsageError, match=r"user_id is 5 \(int\)\. .*for example '5'\."):
        check_id("user_id", 5)


@pytest.mark.parametrize("values", [[], ["a"], ("a", "b"), pl.Series(["a"]), np.array(["a"])])
def test_ids_are_any_ordered_collection(values: object) -> None:
    check_ids("history", values)


@pytest.mark.parametrize(
    "values", ["a,b", b"a", {"a"}, {"a": 1}, 3, None, iter(["a"]), [1], [None]]
)
def test_other_collections_are_rejected(values: object) -> None:
    with pytest.raises(UsageError, match="history is"):
        check_ids("history", values)


@pytest.mark.parametrize(("k", "budget"), [(1, None), (10, 0), (np.int64(3), np.int64(5))])
def test_counts_in_range_are_accepted(k: object, budget: object) -> None:
    check_counts(k=k, budget=budget)


@pytest.mark.parametrize(
    ("k", "budget", "message"),
    [
        (0, None, r"k is 0 \(int\)\. Pass a whole number of at least 1\."),
        (-1, None, "k is -1"),
        (2.0, None, r"k is 2.0 \(float\)"),
        ("5", None, r"k is '5' \(str\)"),
        (True, None, r"k is True \(bool\)"),
        (None, None, "k is None"),
        (1, -1, r"budget is -1 \(int\)\. Pass a whole number of at least 0\."),
        (1, 0.5, "budget is 0.5"),
    ],
)
def test_counts_out_of_range_are_rejected(k: object, budget: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_counts(k=k, budget=budget)


def test_unknown_items_are_listed_once_and_not_without_end() -> None:
    require_known(["a", "b"], {"a", "b", "c"})
    with pytest.raises(DataError, match=r"^2 items are not in the catalog: 'x', 'y'\. Correct"):
        require_known(["x", "a", "y", "x"], {"a"})
    with pytest.raises(DataError, match=r"'9' and 90 more\."):
        require_known([str(n) for n in range(100)], set())
