"""Evaluation of external score tables against the candidates of a run.

Entry point of the evaluation for models outside this package. Rows are matched by their keys, and
labels come only from the candidates. Rows that do not match raise an error that states their
number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.evaluator import Evaluation, evaluate_scores
from mllm_msr.evaluation.metrics import KS
from mllm_msr.evaluation.score_checks import ROW, check_unique_rows
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
    """Evaluate a score table from any source against a run's test candidates.

    Args:
        candidates_path: Parquet, CSV or TSV with the columns of `tables.CANDIDATES`.
        scores_path: Parquet, CSV or TSV with `fold`, `negatives`, `user_id`, `item_id` and
            `score`; rows of training and validation candidates are ignored.
        model: Name of the scores in the result.
        ks: Cut-offs of the metrics.
        seed: Seed of the bootstrap.
        n_resamples: Number of resamples of each interval.

    Raises:
        DataError: A file or column cannot be read, or the rows do not match the test candidates
            one to one. The message counts such rows and shows the first.
    """
    candidates = conform(_read_table(candidates_path), CANDIDATES, name=candidates_path.name)
    schema = {**{name: SCORES[name] for name in ROW}, "score": SCORES["score"]}
    scores = conform(_read_table(scores_path), schema, name=scores_path.name)
    test = candidates.filter(pl.col("split") == "test")
    others = candidates.filter(pl.col("split") != "test").join(test, on=ROW, how="anti")
    n_ignored = scores.join(others, on=ROW, how="semi").height
    if n_ignored:
        logger.info("Ignored %d scores of training and validation rows.", n_ignored)
        scores = scores.join(others, on=ROW, how="anti")
    check_unique_rows(scores, model=model)
    unknown = scores.join(test, on=ROW, how="anti").select(ROW).sort(ROW)
    if unknown.height:
        raise DataError(
            f"{unknown.height} rows of {scores_path.name} are not test candidates, such as "
            f"{unknown.row(0, named=True)}. Copy fold, negatives, user_id and item_id from "
            f"{candidates_path.name}."
        )
    missing = test.join(scores, on=ROW, how="anti").select(ROW).sort(ROW)
    if missing.height:
        raise DataError(
            f"{missing.height} of {test.height} test candidates have no score in "
            f"{scores_path.name}, such as {missing.row(0, named=True)}. Score every candidate."
        )
    joined = test.join(scores, on=ROW, how="inner", validate="1:1")
    return evaluate_scores({model: joined}, ks=ks, seed=seed, n_resamples=n_resamples)


def _read_table(path: Path) -> pl.DataFrame:
    try:
        if path.suffix in {".csv", ".tsv"}:
            return pl.read_csv(
                path,
                separator="\t" if path.suffix == ".tsv" else ",",
                schema_overrides={"user_id": pl.String, "item_id": pl.String},
            )
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as cause:
        reason = str(cause).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as a Parquet, CSV or TSV file: {reason}. Check the path, or "
            "write the file again."
        ) from cause
