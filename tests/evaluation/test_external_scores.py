"""External score tables: rows are matched by key, and mismatches are counted and shown."""

from __future__ import annotations

import polars as pl
import pytest

import scored_candidates
from mllm_msr.errors import DataError
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.evaluation.external_scores import evaluate_external
from scored_candidates import scored


@pytest.fixture
def candidates():
    return scored_candidates.candidates()


@pytest.fixture
def test_rows():
    return scored_candidates.evaluated_rows()


@pytest.fixture
def external(tmp_path, candidates, test_rows):
    """Return a function that changes the score table, writes both files and evaluates them."""
    table = scored(test_rows, signal=1.0).drop("label")

    def evaluate(change=lambda frame: frame, suffix="parquet"):
        changed = change(table)
        candidates.write_parquet(tmp_path / "c.parquet")
        path = tmp_path / f"s.{suffix}"
        {
            "csv": changed.write_csv,
            "tsv": lambda file: changed.write_csv(file, separator="\t"),
            "txt": lambda file: changed.write_csv(file, separator=";", decimal_comma=True),
            "jsonl": changed.write_ndjson,
            "xlsx": changed.write_excel,
            "parquet": changed.write_parquet,
        }[suffix](path)
        return evaluate_external(tmp_path / "c.parquet", {"scores": path}, n_resamples=50)

    return evaluate


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "txt", "jsonl", "xlsx"])
def test_external_scores_are_joined_by_key(external, test_rows, suffix):
    expected = evaluate_scores({"scores": scored(test_rows, signal=1.0)}, n_resamples=50).summary
    shuffled = external(lambda frame: frame.sample(fraction=1.0, shuffle=True, seed=3), suffix)
    assert shuffled.summary == expected


def test_candidates_without_a_score_rank_last_as_in_a_run(external, test_rows):
    def change(frame):
        return frame.with_columns(score=pl.when(pl.col("item_id") != "i3").then("score"))

    rows = change(scored(test_rows, signal=1.0))
    expected = evaluate_scores({"scores": rows}, n_resamples=50)
    for suffix in ("parquet", "csv"):
        found = external(change, suffix)
        assert found.summary == expected.summary
        assert found.details["unscored"] == {"scores": rows["score"].null_count()} != {"scores": 0}


def test_scores_of_training_rows_are_ignored(external):
    extra = pl.DataFrame({"fold": [0], "negatives": "uniform", "user_id": "u4", "item_id": "i0"})
    extra = extra.with_columns(score=pl.lit(0.5), fold=pl.col("fold").cast(pl.Int32))
    found = external(lambda frame: pl.concat([frame, extra], how="diagonal"))
    assert found.summary == external().summary


def test_external_labels_are_ignored(external):
    found = external(lambda frame: frame.with_columns(label=pl.lit(1)))
    assert found.summary == external().summary


def test_scores_without_fold_and_negatives_apply_to_every_list_of_a_user(external, test_rows):
    per_item = pl.col("score").mean().over("user_id", "item_id")
    expected = external(lambda frame: frame.with_columns(score=per_item))
    found = external(
        lambda frame: (
            frame.with_columns(score=per_item)
            .drop("fold", "negatives")
            .unique(["user_id", "item_id"], maintain_order=True)
        )
    )
    assert found.summary == expected.summary


def test_candidates_need_only_user_item_and_label(tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,label\nu,a,1\nu,b,0\nv,a,0\nv,b,1\n")
    (tmp_path / "s.csv").write_text(
        "item_id,user_id,score,fold,negatives\n"
        "a,u,0.9,3,mine\nb,u,0.1,3,mine\nb,v,0.2,3,mine\na,v,0.4,3,mine\n"
    )
    found = evaluate_external(
        tmp_path / "c.csv", {"scores": tmp_path / "s.csv"}, n_resamples=50
    ).summary
    assert found["scores"]["external"]["auc"]["mean"] == 0.5
    assert found["scores"]["external"]["auc"]["n"] == 2


def test_a_pair_that_is_scored_twice_needs_the_kind_of_negatives(external):
    with pytest.raises(DataError, match=r"duplicate rows, such as .*each \(user_id, item_id\)"):
        external(lambda frame: frame.drop("fold", "negatives"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame[1:],
            r"1 of 1680 test candidates are not in s.parquet, such as .*'u0'",
        ),
        (lambda frame: pl.concat([frame, frame[:2]]), "contain 4 duplicate rows, such as"),
        (
            lambda frame: frame.with_columns(pl.col("user_id").replace({"u3": "unknown"})),
            "42 rows of s.parquet are not test candidates, such as .*'unknown'",
        ),
        (lambda frame: frame.drop("score"), "s.parquet has no column score"),
        (lambda frame: frame.drop("user_id"), "s.parquet has no column user_id"),
        (
            lambda frame: frame.with_columns(score=pl.lit(float("inf"))),
            r"^All 1680 rows of s\.parquet .* Data row 1 of .* has inf in the column score, ",
        ),
    ],
)
def test_mismatches_are_counted_and_shown(external, change, message):
    with pytest.raises(DataError, match=message):
        external(change)


def test_ids_are_texts_in_both_tables(tmp_path):
    """Check that leading zeros and ids that look like numbers keep their spelling."""
    (tmp_path / "c.csv").write_text(
        "user_id,item_id,label\n003,01,1\n003,1,0\n3,1e5,1\n3,100000,0\n"
    )
    (tmp_path / "s.jsonl").write_text(
        '{"user_id":"003","item_id":"01","score":1}\n{"user_id":"003","item_id":"1","score":0}\n'
        '{"user_id":"3","item_id":"1e5","score":1}\n{"user_id":3,"item_id":100000,"score":0.5}\n'
    )
    found = evaluate_external(
        tmp_path / "c.csv", {"scores": tmp_path / "s.jsonl"}, n_resamples=50
    ).summary
    assert found["scores"]["external"]["auc"]["mean"] == 1.0
    assert found["scores"]["external"]["auc"]["n"] == 2


def test_whole_float_ids_match_texts(tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,label\nu,101,1\nu,102,0\n")
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": [101.0, 102.0], "score": [2, 1]})
    frame.write_parquet(tmp_path / "s.parquet")
    found = evaluate_external(
        tmp_path / "c.csv", {"scores": tmp_path / "s.parquet"}, n_resamples=50
    ).summary
    assert found["scores"]["external"]["auc"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "u,b,2",
            r"Data row 2 of c\.csv has '2' in the column label, which is not 0 or 1\.",
        ),
        ("u,,0", r"Data row 2 of c\.csv has no value in the column item_id\. Correct the data\.$"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    (tmp_path / "c.csv").write_text(f"user_id,item_id,label\nu,a,1\n{row}\n")
    with pytest.raises(DataError, match=message):
        evaluate_external(tmp_path / "c.csv", {"scores": tmp_path / "s.csv"})


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"c\.parquet is not a valid Parquet file"):
        evaluate_external(tmp_path / "c.parquet", {"scores": tmp_path / "s.parquet"})


def test_candidates_that_are_repeated_are_an_error_of_their_file(tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,label\nu,a,1\nu,b,0\nu,a,0\n")
    (tmp_path / "s.csv").write_text("user_id,item_id,score\nu,a,0.9\nu,b,0.1\n")
    with pytest.raises(
        DataError, match=r"2 rows of c\.csv are the same candidate .*'item_id': 'a'}"
    ):
        evaluate_external(tmp_path / "c.csv", {"scores": tmp_path / "s.csv"})


def test_messages_name_only_columns_of_the_files(tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,label\nu,a,1\nu,b,0\n")
    (tmp_path / "s.csv").write_text("user_id,item_id,score\nu,a,0.9\n")
    with pytest.raises(DataError, match=r"such as {'user_id': 'u', 'item_id': 'b'}\. Score every"):
        evaluate_external(tmp_path / "c.csv", {"scores": tmp_path / "s.csv"})
