"""The whole evaluation: shape of its result, seeds, slices and unusable scores."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

import scored_candidates
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.evaluation.evaluator import Context, evaluate_scores
from mllm_msr.evaluation.per_user import metrics_from_scores, rank_counts
from mllm_msr.evaluation.slices import TARGETS, with_slices
from mllm_msr.tables import METRICS_PER_USER, TARGET_PROFILES, TOP, conform
from scored_candidates import N_USERS, scored


@pytest.fixture
def test_rows():
    return scored_candidates.evaluated_rows()


def test_result_has_the_documented_shape(test_rows):
    found = evaluate_scores(
        {"ours": scored(test_rows, signal=1.0), "popularity": scored(test_rows, seed=1)},
        n_resamples=200,
    )
    assert list(found.summary) == ["ours", "popularity"]
    assert list(found.summary["ours"]) == ["popularity", "uniform"]
    entry = found.summary["ours"]["uniform"]["ndcg@5"]
    assert set(entry) == {"mean", "low", "high", "n"}
    assert entry["low"] <= entry["mean"] <= entry["high"]
    assert entry["n"] == N_USERS
    assert found.per_user.schema == METRICS_PER_USER
    json.dumps([found.summary, found.details], allow_nan=False)


def test_means_are_over_users_and_folds_are_reported(test_rows):
    frame = scored(test_rows, signal=0.5)
    found = evaluate_scores({"ours": frame}, n_resamples=50)
    wide = metrics_from_scores(frame).filter(pl.col("negatives") == "uniform")
    assert found.summary["ours"]["uniform"]["auc"]["mean"] == pytest.approx(wide["auc"].mean())
    folds = found.details["folds"]["ours"]["uniform"]["auc"]
    assert list(folds) == ["0", "1", "2", "3", "4"]
    assert folds["2"] == pytest.approx(wide.filter(pl.col("fold") == 2)["auc"].mean())
    assert found.details["chance"]["uniform"]["hr@5"] == pytest.approx(5 / 21)


def test_row_order_and_other_models_do_not_matter(test_rows):
    frame = scored(test_rows, signal=0.5)
    alone = evaluate_scores({"ours": frame}, n_resamples=50)
    together = evaluate_scores(
        {"other": scored(test_rows, seed=9), "ours": frame.reverse()}, n_resamples=50
    )
    assert together.summary["ours"] == alone.summary["ours"]


def test_full_catalog_ranks_are_added_to_the_sampled_results(test_rows):
    frame = scored(test_rows.filter(pl.col("negatives") == "uniform"))
    ranks = rank_counts(frame).with_columns(negatives=pl.lit("full"))
    found = evaluate_scores({"ours": frame}, ranks={"ours": ranks}, n_resamples=50)
    by_kind = found.summary["ours"]
    assert by_kind["full"]["mrr@10"]["mean"] == pytest.approx(by_kind["uniform"]["mrr@10"]["mean"])


def test_users_without_a_value_are_counted_but_not_averaged(test_rows):
    frame = scored(test_rows)
    lost = (pl.col("user_id") == "u0") & (pl.col("label") == 1)
    found = evaluate_scores({"ours": frame.filter(~lost)}, n_resamples=50)
    assert found.details["undefined"] == {"ours": 2}
    entry = found.summary["ours"]["uniform"]["auc"]
    assert entry["n"] == N_USERS - 1
    assert not math.isnan(entry["mean"])


@pytest.mark.parametrize(
    ("label", "message"), [(1, "12 only label 1"), (0, "12 have only label 0")]
)
def test_scores_without_a_list_of_both_labels_are_an_error(test_rows, label, message):
    frame = scored(test_rows).filter(pl.col("label") == label)
    n_lists = frame.select("fold", "negatives", "user_id").n_unique()
    with pytest.raises(DataError, match="No metric of 'ours' is defined") as error:
        evaluate_scores({"ours": frame}, n_resamples=50)
    assert message.replace("12", str(n_lists)) in str(error.value)


def test_repeated_cut_offs_count_once_and_others_are_checked(test_rows):
    frame = scored(test_rows)
    found = evaluate_scores({"ours": frame}, ks=[5, 5, 1], n_resamples=50)
    once = evaluate_scores({"ours": frame}, ks=[5, 1], n_resamples=50)
    assert found.summary == once.summary
    for k in (0, -1, 2.5):
        with pytest.raises(SettingsError, match=r"evaluate\.ks=.*at least 1"):
            evaluate_scores({"ours": frame}, ks=[5, k], n_resamples=50)


def test_a_constant_score_has_the_value_of_chance(test_rows):
    flat = scored(test_rows).with_columns(score=pl.lit(0.5))
    found = evaluate_scores({"flat": flat}, n_resamples=50)
    entries = found.summary["flat"]["uniform"]
    assert entries["hr@5"]["mean"] == pytest.approx(5 / 21)
    assert entries["auc"]["mean"] == 0.5
    assert entries["ties"]["mean"] == 1.0


def test_seeds_of_a_model_are_averaged_per_user(test_rows):
    first, second = scored(test_rows, signal=0.6, seed=1), scored(test_rows, signal=0.6, seed=2)
    found = evaluate_scores(
        {"sasrec@0": first, "other": scored(test_rows, seed=7), "sasrec@1": second}, n_resamples=50
    )
    assert list(found.summary) == ["sasrec", "other"]
    by_seed = {
        seed: metrics_from_scores(frame).filter(pl.col("negatives") == "uniform")["auc"]
        for seed, frame in (("0", first), ("1", second))
    }
    entry = found.summary["sasrec"]["uniform"]["auc"]
    assert entry["n"] == N_USERS
    assert entry["mean"] == pytest.approx(np.mean([values.mean() for values in by_seed.values()]))
    assert found.details["seeds"]["sasrec"]["uniform"]["auc"] == {
        seed: pytest.approx(values.mean()) for seed, values in by_seed.items()
    }
    assert list(found.details["seeds"]) == ["sasrec"]
    assert set(found.per_user["model"]) == {"sasrec@0", "sasrec@1", "other"}
    assert {(r["first"], r["second"]) for r in found.details["comparisons"]} == {
        ("sasrec", "other")
    }
    assert set(found.details["calibration"]) == {"sasrec", "other"}


@pytest.fixture
def context(test_rows):
    """Return profiles with two history lengths and two kinds of target, and lists of two items."""
    targets = test_rows.filter((pl.col("label") == 1) & (pl.col("negatives") == "uniform"))
    odd = pl.int_range(pl.len()) % 2
    profiles = targets.with_columns(
        n_history=4 + 10 * odd,
        n_target=3 + 20 * odd,
        percentile=0.5,
        history_percentile=0.25,
    )
    popularity = pl.DataFrame(
        {"fold": fold, "item_id": f"i{item}", "n": item, "percentile": item / 90, "bits": 1.0}
        for fold in range(5)
        for item in range(90)
    ).with_columns(pl.col("fold").cast(pl.Int32))
    top = targets.select("fold", "user_id").join(
        pl.DataFrame({"rank": [1, 2], "item_id": ["i45", "i0"], "score": [1.0, 0.5]}), how="cross"
    )
    return Context(
        profiles=conform(profiles, TARGET_PROFILES, name="profiles"),
        popularity=popularity,
        top={"ours": conform(top, TOP, name="top")},
    )


def test_slices_and_exposure_come_from_the_context(test_rows, context):
    frame = scored(test_rows, signal=0.5)
    found = evaluate_scores({"ours": frame}, context=context, ks=(1, 2, 5), n_resamples=50)
    slices = found.details["slices"]["history"]
    assert [cell["ours"]["uniform"]["auc"]["n"] for cell in slices.values()] == [20, 20]
    means = [cell["ours"]["uniform"]["auc"]["mean"] for cell in slices.values()]
    assert np.mean(means) == pytest.approx(found.summary["ours"]["uniform"]["auc"]["mean"])
    exposure = found.details["exposure"]["ours"]
    assert exposure["coverage@2"] == {"mean": pytest.approx(2 / 90)}
    assert exposure["popularity@1"]["mean"] == pytest.approx(0.5)
    assert exposure["bias@2"]["mean"] == pytest.approx(0.25 - 0.25)
    assert "coverage@2" not in found.summary["ours"]["uniform"]
    json.dumps(found.details, allow_nan=False)


def test_slice_means_can_be_recomputed_from_the_tables(test_rows, context):
    found = evaluate_scores(
        {"ours": scored(test_rows, signal=0.5)}, context=context, n_resamples=50
    )
    joined = found.per_user.join(with_slices(context.profiles), on=["fold", "user_id"])
    again = joined.filter(
        (pl.col("metric") == "ndcg@5")
        & (pl.col("negatives") == "popularity")
        & (pl.col("target") == TARGETS[0])
    )["value"].mean()
    reported = found.details["slices"]["target"][TARGETS[0]]["ours"]["popularity"]["ndcg@5"]["mean"]
    assert again == pytest.approx(reported)
    assert set(found.per_user.filter(pl.col("negatives") == "full")["metric"]) >= {"bias@5"}


def test_without_a_context_there_are_no_slices(test_rows):
    details = evaluate_scores({"ours": scored(test_rows)}, n_resamples=50).details
    assert "slices" not in details
    assert "exposure" not in details


def test_unusable_scores_are_reported_with_the_model(test_rows):
    frame = scored(test_rows)
    with pytest.raises(DataError, match="scores of 'ours' contain 2 duplicate rows"):
        evaluate_scores({"ours": pl.concat([frame, frame[:1]])})
    broken = pl.when(pl.col("negatives") == "uniform").then(float("nan")).otherwise("score")
    with pytest.raises(DataError, match="840 of 1680 scores of the model 'ours'"):
        evaluate_scores({"ours": frame.with_columns(score=broken)})
    with pytest.raises(DataError, match="None of the 1 models has a scored candidate"):
        evaluate_scores({"ours": frame[:0]})
