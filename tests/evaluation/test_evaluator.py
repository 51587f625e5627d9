"""The evaluation as a whole: the shape of its result, and every fault of a foreign table."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from mllm_msr.errors import DataError
from mllm_msr.evaluation.evaluator import ROW, evaluate_foreign, evaluate_scores
from mllm_msr.evaluation.metrics import metrics_from_scores, rank_counts
from mllm_msr.tables import CANDIDATES, METRICS_PER_USER, SCORES, conform

N_USERS = 40


@pytest.fixture
def candidates():
    rows = [
        (user % 5, "test", kind, f"u{user}", 7, f"i{(user + at) % 90}", int(at == 3))
        for user in range(N_USERS)
        for kind in ("uniform", "popularity")
        for at in range(21)
    ]
    rows += [(0, "train", "uniform", f"u{user}", 4, "i0", 1) for user in range(5)]
    return pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")


@pytest.fixture
def test_rows(candidates):
    return candidates.filter(pl.col("split") == "test")


def scored(rows, *, signal=0.0, seed=0):
    noise = np.random.default_rng(seed).random(rows.height)
    score = (noise + signal * rows["label"].to_numpy()) / (1 + signal)
    return conform(rows.with_columns(score=pl.Series(score)), SCORES, name="test")


def test_result_has_the_contract_s_shape(test_rows):
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


def test_means_are_those_of_the_users_and_folds_are_kept(test_rows):
    frame = scored(test_rows, signal=0.5)
    found = evaluate_scores({"ours": frame}, n_resamples=50)
    wide = metrics_from_scores(frame).filter(pl.col("negatives") == "uniform")
    assert found.summary["ours"]["uniform"]["auc"]["mean"] == pytest.approx(wide["auc"].mean())
    folds = found.details["folds"]["ours"]["uniform"]["auc"]
    assert list(folds) == ["0", "1", "2", "3", "4"]
    assert folds["2"] == pytest.approx(wide.filter(pl.col("fold") == 2)["auc"].mean())
    assert found.details["chance"]["uniform"]["hr@5"] == pytest.approx(5 / 21)


def test_order_of_rows_and_other_models_change_nothing(test_rows):
    frame = scored(test_rows, signal=0.5)
    alone = evaluate_scores({"ours": frame}, n_resamples=50)
    beside = evaluate_scores(
        {"other": scored(test_rows, seed=9), "ours": frame.reverse()}, n_resamples=50
    )
    assert beside.summary["ours"] == alone.summary["ours"]


def test_comparisons_name_the_better_model_and_correct_for_their_number(test_rows):
    models = {
        "good": scored(test_rows, signal=2.0),
        "noise": scored(test_rows, seed=1),
        "noise2": scored(test_rows, seed=2),
    }
    records = evaluate_scores(models, n_resamples=400).details["comparisons"]
    assert len(records) == 3 * 2 * 4  # pairs, negatives, metrics
    by_pair = {
        (record["first"], record["second"]): record
        for record in records
        if record["metric"] == "auc" and record["negatives"] == "uniform"
    }
    clear, unclear = by_pair["good", "noise"], by_pair["noise", "noise2"]
    assert clear["difference"] > 0
    assert clear["p_holm"] < 0.05
    assert unclear["p_holm"] > 0.05
    assert clear["p_holm"] == pytest.approx(min(1, 3 * clear["p"]), abs=0.01)
    assert clear["n"] == N_USERS


def test_comparisons_use_common_users_only(test_rows):
    models = {
        "all": scored(test_rows),
        "few": scored(test_rows.filter(pl.col("user_id").is_in(["u1", "u2", "u3"])), seed=1),
    }
    records = evaluate_scores(models, n_resamples=50).details["comparisons"]
    assert {record["n"] for record in records} == {3}


def test_full_catalogue_ranks_join_the_model_s_other_results(test_rows):
    frame = scored(test_rows.filter(pl.col("negatives") == "uniform"))
    ranks = rank_counts(frame).with_columns(negatives=pl.lit("full"))
    found = evaluate_scores({"ours": frame}, ranks={"ours": ranks}, n_resamples=50)
    by_kind = found.summary["ours"]
    assert by_kind["full"]["mrr@10"]["mean"] == pytest.approx(by_kind["uniform"]["mrr@10"]["mean"])


def test_users_without_a_value_are_counted_not_averaged(test_rows):
    frame = scored(test_rows)
    lost = (pl.col("user_id") == "u0") & (pl.col("label") == 1)
    found = evaluate_scores({"ours": frame.filter(~lost)}, n_resamples=50)
    assert found.details["undefined"] == {"ours": 2}
    entry = found.summary["ours"]["uniform"]["auc"]
    assert entry["n"] == N_USERS - 1
    assert not math.isnan(entry["mean"])


def test_a_constant_score_earns_chance(test_rows):
    flat = scored(test_rows).with_columns(score=pl.lit(0.5))
    found = evaluate_scores({"flat": flat}, n_resamples=50)
    entries = found.summary["flat"]["uniform"]
    assert entries["hr@5"]["mean"] == pytest.approx(5 / 21)
    assert entries["auc"]["mean"] == 0.5
    assert entries["ties"]["mean"] == 1.0


def test_faults_of_scores_name_the_model(test_rows):
    frame = scored(test_rows)
    with pytest.raises(DataError, match="once in the scores of 'ours', received 2 duplicate rows"):
        evaluate_scores({"ours": pl.concat([frame, frame[:1]])})
    broken = pl.when(pl.col("negatives") == "uniform").then(float("nan")).otherwise("score")
    with pytest.raises(DataError, match="the model 'ours', received 840 of 1680"):
        evaluate_scores({"ours": frame.with_columns(score=broken)})
    with pytest.raises(DataError, match="at least one scored candidate"):
        evaluate_scores({"ours": frame[:0]})


@pytest.fixture
def foreign(tmp_path, candidates, test_rows):
    """Writes both files after a change to the score table and judges them."""
    table = scored(test_rows, signal=1.0).drop("label")

    def judge(change=lambda frame: frame, suffix="parquet"):
        changed = change(table)
        candidates.write_parquet(tmp_path / "c.parquet")
        path = tmp_path / f"s.{suffix}"
        changed.write_csv(path) if suffix == "csv" else changed.write_parquet(path)
        return evaluate_foreign(tmp_path / "c.parquet", path, n_resamples=50)

    return judge


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_foreign_scores_join_by_key(foreign, test_rows, suffix):
    expected = evaluate_scores({"scores": scored(test_rows, signal=1.0)}, n_resamples=50).summary
    shuffled = foreign(lambda frame: frame.sample(fraction=1.0, shuffle=True, seed=3), suffix)
    assert shuffled.summary == expected


def test_foreign_scores_of_training_rows_are_left_out(foreign):
    extra = pl.DataFrame({"fold": [0], "negatives": "uniform", "user_id": "u4", "item_id": "i0"})
    extra = extra.with_columns(score=pl.lit(0.5), fold=pl.col("fold").cast(pl.Int32))
    found = foreign(lambda frame: pl.concat([frame, extra], how="diagonal"))
    assert found.summary == foreign().summary


def test_foreign_labels_are_not_trusted(foreign):
    found = foreign(lambda frame: frame.with_columns(label=pl.lit(1)))
    assert found.summary == foreign().summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[1:], r"each of the 1680 test candidates, received 1 missing.*'u0'"),
        (lambda frame: pl.concat([frame, frame[:2]]), "received 4 duplicate rows, such as"),
        (
            lambda frame: frame.with_columns(pl.col("user_id").replace({"u3": "nobody"})),
            "only rows that are candidates, received 42 unknown, such as .*'nobody'",
        ),
        (lambda frame: frame.drop("score"), "the columns fold, .* add score"),
        (
            lambda frame: frame.with_columns(score=pl.lit(float("inf"))),
            "finite scores of the model 'scores', received 1680 of 1680",
        ),
    ],
)
def test_faults_of_foreign_tables_are_counted_and_shown(foreign, change, message):
    with pytest.raises(DataError, match=message):
        foreign(change)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"a readable Parquet or CSV file at .*c\.parquet"):
        evaluate_foreign(tmp_path / "c.parquet", tmp_path / "s.parquet")


def test_row_keys_are_columns_of_both_tables():
    assert set(ROW) <= set(CANDIDATES)
    assert set(ROW) <= set(SCORES)
