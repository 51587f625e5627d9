"""Aggregation: a user counts once for any number of seeds and folds."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.aggregation import mean_of_runs, means_with_intervals
from mllm_msr.evaluation.significance import bootstrap_interval


def frame(values, *, fold=0):
    return pl.DataFrame(
        {
            "fold": pl.Series([fold] * len(values), dtype=pl.Int32),
            "negatives": ["uniform"] * len(values),
            "user_id": list(values),
            "auc": list(values.values()),
        }
    )


def test_runs_are_averaged_per_user():
    mean = mean_of_runs([frame({"a": 1.0, "b": 0.5}), frame({"b": 0.0, "a": 0.5, "c": 0.25})])
    assert dict(mean.select("user_id", "auc").iter_rows()) == {"a": 0.75, "b": 0.25, "c": 0.25}


def test_a_single_run_is_unchanged():
    only = frame({"b": 0.5, "a": 1.0})
    assert mean_of_runs([only]) is only


def test_counts_keep_their_type():
    counted = frame({"a": 1.0}).with_columns(n_negatives=pl.lit(20, dtype=pl.Int64))
    assert mean_of_runs([counted, counted]).schema == counted.schema


def test_a_user_of_two_folds_counts_once():
    both = pl.concat([frame({"a": 1.0, "b": 0.0}), frame({"a": 0.5}, fold=1)])
    cell = means_with_intervals({"m": both}, ["auc"], seed=0, n_resamples=20)["m"]["uniform"]["auc"]
    assert (cell["n"], cell["mean"]) == (2, pytest.approx(0.375))


def test_intervals_do_not_depend_on_other_models():
    ours = frame({f"u{user:02}": user / 30 for user in range(30)})
    other = frame({f"u{user:02}": (user % 3) / 2 for user in range(30)})
    fewer = other.head(9)
    alone = means_with_intervals({"ours": ours}, ["auc"], seed=4)["ours"]
    models = {"x": other, "few": fewer, "ours": ours}
    assert means_with_intervals(models, ["auc"], seed=4)["ours"] == alone
    low, high = bootstrap_interval(ours.select("auc").to_numpy(), seed=4)
    cell = alone["uniform"]["auc"]
    assert (cell["low"], cell["high"]) == (low[0], high[0])


def test_an_undefined_value_leaves_the_user_out_of_that_metric_only():
    nan = float("nan")
    both = frame({"a": 1.0, "b": 0.0}).with_columns(
        bias=pl.Series([nan, 0.5]), nothing=pl.Series([nan, nan])
    )
    cells = means_with_intervals({"m": both}, ["auc", "bias", "nothing"], seed=0, n_resamples=20)[
        "m"
    ]["uniform"]
    assert {name: (cell["mean"], cell["n"]) for name, cell in cells.items()} == {
        "auc": (0.5, 2),
        "bias": (0.5, 1),
    }
    assert (
        cells["auc"]
        == means_with_intervals({"m": both}, ["auc"], seed=0, n_resamples=20)["m"]["uniform"]["auc"]
    )
