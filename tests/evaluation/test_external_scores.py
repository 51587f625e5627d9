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
        changed.write_csv(path) if suffix == "csv" else changed.write_parquet(path)
        return evaluate_external(tmp_path / "c.parquet", path, n_resamples=50)

    return evaluate


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_external_scores_are_joined_by_key(external, test_rows, suffix):
    expected = evaluate_scores({"scores": scored(test_rows, signal=1.0)}, n_resamples=50).summary
    shuffled = external(lambda frame: frame.sample(fraction=1.0, shuffle=True, seed=3), suffix)
    assert shuffled.summary == expected


def test_scores_of_training_rows_are_ignored(external):
    extra = pl.DataFrame({"fold": [0], "negatives": "uniform", "user_id": "u4", "item_id": "i0"})
    extra = extra.with_columns(score=pl.lit(0.5), fold=pl.col("fold").cast(pl.Int32))
    found = external(lambda frame: pl.concat([frame, extra], how="diagonal"))
    assert found.summary == external().summary


def test_external_labels_are_ignored(external):
    found = external(lambda frame: frame.with_columns(label=pl.lit(1)))
    assert found.summary == external().summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame[1:],
            r"1 of 1680 test candidates have no score in s.parquet, such as .*'u0'",
        ),
        (lambda frame: pl.concat([frame, frame[:2]]), "contain 4 duplicate rows, such as"),
        (
            lambda frame: frame.with_columns(pl.col("user_id").replace({"u3": "nobody"})),
            "42 rows of s.parquet are not test candidates, such as .*'nobody'",
        ),
        (lambda frame: frame.drop("score"), "'s.parquet' lacks columns: score"),
        (
            lambda frame: frame.with_columns(score=pl.lit(float("inf"))),
            "1680 of 1680 scores of the model 'scores' are missing, NaN or infinite",
        ),
    ],
)
def test_mismatches_are_counted_and_shown(external, change, message):
    with pytest.raises(DataError, match=message):
        external(change)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"c\.parquet cannot be read as a Parquet, CSV or TSV file"):
        evaluate_external(tmp_path / "c.parquet", tmp_path / "s.parquet")
