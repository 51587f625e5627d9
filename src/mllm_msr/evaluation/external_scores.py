"""Judging tables of scores that were made elsewhere, against the candidates of a run.

A door of the evaluation for other people's models: rows are matched by their keys, labels are
taken from the candidates alone, and whatever does not match is refused with its number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.evaluator import Evaluation, evaluate_scores
from mllm_msr.evaluation.metrics import KS, ROW, refuse_duplicates
from mllm_msr.tables import CANDIDATES, SCORES, conform

logger = logging.getLogger(__name__)


def evaluate_external(
    candidates_path: Path,
    scores_path: Path,
    *,
    model: str = "scores",
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Evaluation:
    """Judge any table of scores, ours or not, against a run's test candidates.

    Args:
        candidates_path: Parquet or CSV with the columns of `tables.CANDIDATES`.
        scores_path: Parquet or CSV with `fold`, `negatives`, `user_id`, `item_id` and `score`;
            rows of training and validation candidates are left out.
        model: Name of the scores in the result.
        ks: Cut-offs of the ranked metrics.
        seed: Seed of the bootstrap.
        n_resamples: Resamples of the intervals.

    Raises:
        DataError: A file or column cannot be read, or the rows do not match the test candidates
            one to one; the message counts them and shows the first.
    """
    candidates = conform(_read(candidates_path), CANDIDATES, name=candidates_path.name)
    schema = {**{name: SCORES[name] for name in ROW}, "score": SCORES["score"]}
    scores = conform(_read(scores_path), schema, name=scores_path.name)
    test = candidates.filter(pl.col("split") == "test")
    others = candidates.filter(pl.col("split") != "test").join(test, on=ROW, how="anti")
    left_out = scores.join(others, on=ROW, how="semi").height
    if left_out:
        logger.info("%d scores of training and validation rows left out", left_out)
        scores = scores.join(others, on=ROW, how="anti")
    refuse_duplicates(scores, model=model)
    _refuse_rows(
        scores.join(test, on=ROW, how="anti").select(ROW),
        needed="only rows that are candidates",
        what="unknown",
        remedy="take (fold, negatives, user_id, item_id) from the candidates file",
    )
    _refuse_rows(
        test.join(scores, on=ROW, how="anti").select(ROW),
        needed=f"a score for each of the {test.height} test candidates",
        what="missing",
        remedy="score every candidate, the easy ones too",
    )
    joined = test.join(scores, on=ROW, how="inner", validate="1:1")
    return evaluate_scores({model: joined}, ks=ks, seed=seed, n_resamples=n_resamples)


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix in {".csv", ".tsv"}:
            return pl.read_csv(
                path,
                separator="\t" if path.suffix == ".tsv" else ",",
                schema_overrides={"user_id": pl.String, "item_id": pl.String},
            )
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise DataError(
            needed=f"a readable Parquet or CSV file at {path}",
            received=str(cause).splitlines()[0],
            remedy="check the path and write the file again",
        ) from cause


def _refuse_rows(rows: pl.DataFrame, *, needed: str, what: str, remedy: str) -> None:
    if rows.height:
        example = dict(zip(rows.columns, rows.sort(rows.columns).row(0), strict=True))
        raise DataError(
            needed=needed, received=f"{rows.height} {what}, such as {example}", remedy=remedy
        )
