"""Checks of the arguments of the recommender."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.errors import DataError, UsageError
from mllm_msr.recommend.arguments import (
    check_counts,
    check_id,
    read_ids,
    require_known,
    require_users,
)


@pytest.mark.parametrize("value", [5, None, b"u", ["u"], 1.0])
def test_an_id_is_text(value: object) -> None:
    check_id("user_id", "u")
    with pytest.raises(UsageError, match=r"user_id is .* \(\w+\)\. Pass one id as text"):
        check_id("user_id", value)


def test_the_message_about_a_number_shows_the_text() -> None:
    with pytest.raises(UsageError, match=r"user_id is 5 \(int\)\. .*for example '5'\."):
        check_id("user_id", 5)


FRAME = pl.DataFrame({"item_id": ["b", "a", "c"], "timestamp": [2, 1, 3]})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (("b", "a"), ["b", "a"]),
        (pl.Series(["b", "a"]), ["b", "a"]),
        (pl.Series(["b", "a"]).to_pandas(), ["b", "a"]),
        (np.array(["b", "a"]), ["b", "a"]),
        (FRAME, ["a", "b", "c"]),
        (FRAME.lazy(), ["a", "b", "c"]),
        (FRAME.to_pandas(), ["a", "b", "c"]),
        (FRAME.select("item_id"), ["b", "a", "c"]),
    ],
    ids=[
        "empty", "tuple", "polars-column", "pandas-column", "numpy", "polars", "lazy", "pandas",
        "without-time",
    ],
)  # fmt: skip
def test_ids_are_a_list_a_column_or_a_frame_in_order_of_time(
    values: object, expected: list[str]
) -> None:
    assert read_ids("history", values, "item_id") == expected


@pytest.mark.parametrize(
    "values",
    ["a,b", b"a", {"a"}, {"a": 1}, 3, None, iter(["a"]), [1], [None]],
    ids=["text", "bytes", "set", "mapping", "number", "none", "iterator", "numbers", "nones"],
)
def test_other_collections_are_rejected(values: object) -> None:
    with pytest.raises(UsageError, match="history is"):
        read_ids("history", values, "item_id")


def test_a_frame_without_the_column_of_ids_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"without the column item_id; its columns are item\."):
        read_ids("history", pl.DataFrame({"item": ["a"]}), "item_id")


def test_unknown_users_are_listed_with_a_similar_id() -> None:
    require_users(["u1"], {"u1", "u2"})
    with pytest.raises(
        DataError, match=r"^Unknown user 'u11'\. Did you mean 'u1'\? A run leaves out"
    ):
        require_users(["u1", "u11"], ["u1"])
    with pytest.raises(DataError, match=r"Did you mean 'u0010'\?"):
        require_users(["u001x"], ["u0301", "u0010", "u9901"])
    with pytest.raises(DataError, match=r"^Unknown users 'a', 'b'\. A run leaves out"):
        require_users(["a", "b"], ["u1"])


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
    with pytest.raises(
        DataError, match=r"^1 item is .*: 'item01'\. Did you mean 'item0'\? Correct"
    ):
        require_known(["item01"], ["item0", "item7"])
    with pytest.raises(DataError, match=r"'9' and 90 more\."):
        require_known([str(n) for n in range(100)], set())
