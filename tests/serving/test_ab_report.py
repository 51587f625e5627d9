"""Tests for the report of an A/B test: intervals against known values, users left out, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr.errors import DataError, RunFolderError
from mllm_msr.serving.ab_report import Estimate, ab_report, evaluate_outcomes
from mllm_msr.serving.exposures import OUTCOMES
from mllm_msr.serving.state import ServiceState


def outcomes(**interactions: list[int]) -> pl.DataFrame:
    """Return the outcomes of users of variants, given the interactions of each user."""
    rows = [
        (variant, f"{variant}{user}", 10, n)
        for variant, values in interactions.items()
        for user, n in enumerate(values)
    ]
    return pl.DataFrame(rows, schema=OUTCOMES, orient="row")


def rounded(estimate: Estimate) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in (estimate.value, estimate.low, estimate.high))


def test_intervals_of_shares_are_those_of_the_literature() -> None:
    """Newcombe (1998), method 10, example (a): 56 of 70 against 48 of 80."""
    first, second = [1] * 48 + [0] * 32, [1] * 56 + [0] * 14
    report = evaluate_outcomes("test", outcomes(a=first, b=second))
    (difference,) = report.differences
    assert (difference.first, difference.second) == ("a", "b")
    assert rounded(difference.conversion) == (0.2, 0.0524, 0.3339)
    assert rounded(report.variants["b"].conversion)[0] == 0.8
    low, high = report.variants["b"].conversion.low, report.variants["b"].conversion.high
    assert (round(low, 3), round(high, 3)) == (0.692, 0.877)  # Wilson's score interval


def test_counts_are_sums_over_users() -> None:
    report = evaluate_outcomes("test", outcomes(a=[0, 2, 3], b=[1, 1]))
    first = report.variants["a"]
    assert (first.users, first.shown, first.interactions, first.converted) == (3, 30, 5, 2)
    assert first.per_user.value == pytest.approx(5 / 3)
    assert rounded(report.variants["b"].per_user) == (1.0, 1.0, 1.0)  # no user differs


def test_bootstrap_interval_is_close_to_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.poisson(1.0, 400), rng.poisson(1.5, 300)
    report = evaluate_outcomes("test", outcomes(a=first.tolist(), b=second.tolist()))
    found = report.differences[0].per_user
    half = 1.96 * np.sqrt(first.var() / 400 + second.var() / 300)
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), abs=0.02
    )
    again = evaluate_outcomes("test", outcomes(a=first.tolist(), b=second.tolist()))
    assert again == report


def test_three_variants_have_three_differences() -> None:
    report = evaluate_outcomes("test", outcomes(c=[1, 0], a=[0, 0], b=[1, 1]))
    pairs = [(one.first, one.second) for one in report.differences]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]


def test_users_of_several_variants_are_left_out() -> None:
    both = pl.DataFrame([("a", "x", 1, 1), ("b", "x", 1, 0)], schema=OUTCOMES, orient="row")
    report = evaluate_outcomes("test", pl.concat([outcomes(a=[0, 0], b=[1, 0]), both]))
    assert (report.excluded, report.variants["a"].interactions) == (1, 0)


def test_missing_databases_and_tests_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a b?c.sqlite"
    with pytest.raises(RunFolderError, match=r"There is no database .*Serve the run first"):
        ab_report(f"sqlite:///{tmp_path / 'absent.sqlite'}")
    assert not (tmp_path / "absent.sqlite").exists()
    with pytest.raises(DataError, match="Only 1 variants of the test 'test' have users"):
        evaluate_outcomes("test", outcomes(a=[1]))
    state = ServiceState(path)
    url = "sqlite:///" + str(path).replace("?", "%3F")
    for name, words in ((None, "Several tests or none"), ("x", "There is no test 'x'")):
        with pytest.raises(DataError, match=rf"{words} in .*Known tests: none"):
            ab_report(url, experiment=name)
    state.close()
    broken = tmp_path / "broken.sqlite"
    broken.write_text("x" * 5000)
    with pytest.raises(RunFolderError, match="cannot be read: file is not a database"):
        ab_report(f"sqlite:///{broken}")
