"""Coverage, novelty, popularity and bias, computed by hand."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.errors import DataError
from mllm_msr.evaluation.exposure import coverage, exposure_means, exposure_per_user
from mllm_msr.tables import TARGET_PROFILES, TOP


def top(**lists):
    rows = [
        (0, user, rank, item, 1.0 / rank)
        for user, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    return pl.DataFrame(rows, schema=dict(TOP), orient="row")


POPULARITY = pl.DataFrame(
    {
        "fold": [0] * 4,
        "item_id": list("abcd"),
        "n": [8, 4, 1, 0],
        "percentile": [0.875, 0.625, 0.375, 0.125],
        "bits": [0.0, 1.0, 3.0, 3.0],
    },
    schema_overrides={"fold": pl.Int32},
)
PROFILES = pl.DataFrame(
    [(0, "u", "a", 3, 8, 0.875, 0.5), (0, "new", "a", 0, 8, 0.875, None)],
    schema=dict(TARGET_PROFILES),
    orient="row",
)


def exposed(lists, ks=(1, 2)):
    return exposure_per_user(lists, popularity=POPULARITY, profiles=PROFILES, ks=ks)


def test_values_by_hand():
    row = exposed(top(u="ac")).row(0, named=True)
    assert (row["novelty@1"], row["novelty@2"]) == (0.0, 1.5)
    assert (row["popularity@1"], row["popularity@2"]) == (0.875, 0.625)
    assert (row["bias@1"], row["bias@2"]) == (0.375, 0.125)


def test_only_the_first_k_count():
    assert exposed(top(u="ab"), ks=(1,)).equals(exposed(top(u="ad"), ks=(1,)))


def test_users_without_a_history_have_no_bias():
    row = exposed(top(new="ab")).row(0, named=True)
    assert row["bias@1"] != row["bias@1"]
    assert row["popularity@1"] == 0.875


def test_coverage_counts_items_over_users():
    lists = top(u="ab", new="bc")
    assert coverage(lists, n_items=4, ks=(1, 2)) == {"coverage@1": 0.5, "coverage@2": 0.75}
    same = top(u="ab", new="ab")
    assert coverage(same, n_items=4, ks=(2,)) == {"coverage@2": 0.5}


def test_coverage_is_the_mean_over_folds():
    lists = pl.concat([top(u="ab"), top(u="aa").with_columns(fold=pl.lit(1, dtype=pl.Int32))])
    assert coverage(lists, n_items=4, ks=(2,)) == {"coverage@2": pytest.approx((0.5 + 0.25) / 2)}


def test_items_outside_the_catalog_are_rejected():
    with pytest.raises(DataError, match="have an item outside the catalog, such as 'zz'"):
        exposed(top(u=["a", "zz"]))


def test_means_are_averaged_over_the_seeds_of_a_model():
    first, second = top(u="ac", new="ab"), top(u="bd", new="bd")
    runs = {"m@0": first, "m@1": second}
    found = exposure_means(
        {run: exposed(lists) for run, lists in runs.items()},
        runs,
        n_items=4,
        ks=(1,),
        seed=0,
        n_resamples=20,
    )
    assert found["m"]["coverage@1"] == {"mean": 0.25}
    assert found["m"]["popularity@1"]["mean"] == pytest.approx((0.875 + 0.625) / 2)


def test_users_without_a_history_count_for_all_metrics_except_the_bias():
    lists = top(u="ac", new="bd")
    found = exposure_means(
        {"m": exposed(lists)}, {"m": lists}, n_items=4, ks=(2,), seed=0, n_resamples=20
    )["m"]
    assert {name: cell.get("n") for name, cell in found.items()} == {
        "coverage@2": None,
        "novelty@2": 2,
        "popularity@2": 2,
        "bias@2": 1,
    }
    assert found["novelty@2"]["mean"] == pytest.approx((1.5 + 2.0) / 2)


def test_without_any_history_there_is_no_bias():
    lists = top(new="ab")
    found = exposure_means(
        {"m": exposed(lists)}, {"m": lists}, n_items=4, ks=(2,), seed=0, n_resamples=20
    )["m"]
    assert set(found) == {"coverage@2", "novelty@2", "popularity@2"}
