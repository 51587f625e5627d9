"""Evaluation of external score tables against the candidates of a run, or external ones.

Entry point of the evaluation for models outside this package. Rows are matched by the key columns
that both tables have, and labels come only from the candidates. Rows that do not match raise an
error that states their number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.evaluator import Evaluation, evaluate_scores
from mllm_msr.evaluation.metrics import KS
from mllm_msr.evaluation.score_checks import ROW, check_unique_rows
from mllm_msr.tables import CANDIDATES, SCORES, conform

logger = logging.getLogger(__name__)

# Values of the columns that a table of candidates may lack: one list per user.
_DEFAULTS: Final = {"fold": 0, "split": "test", "negatives": "external", "position": 0}


def evaluate_external(
    candidates_path: Path,
    scores_path: Path,
    *,
    model: str = "scores",
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Evaluation:
    """Evaluate a score table from any source against test candidates, of a run or external ones.

    Args:
        candidates_path: Parquet, CSV or TSV with `user_id`, `item_id` and `label`, and optionally
            the other columns of `tables.CANDIDATES`. Without `split`, all rows are test candidates.
        scores_path: Parquet, CSV or TSV with `user_id`, `item_id` and `score`, and optionally
            `fold` and `negatives`; without these, a score applies to every list of the user. Rows
            of training and validation candidates are ignored.
        model: Name of the scores in the result.
        ks: Cut-offs of the metrics.
        seed: Seed of the bootstrap.
        n_resamples: Number of resamples of each interval.

    Raises:
        DataError: A file or column cannot be read, a test candidate has no score or several, or a
            score has no candidate. The message counts such rows and shows the first.
    """
    candidates, scores = _read_table(candidates_path), _read_table(scores_path)
    # Without `fold` or `negatives` in one of the tables, the other columns identify a row.
    unused = {"fold", "negatives"} - ({*candidates.columns} & {*scores.columns})
    key = [name for name in ROW if name not in unused]
    absent = {name: pl.lit(_DEFAULTS[name]) for name in _DEFAULTS if name not in candidates.columns}
    candidates = conform(candidates.with_columns(**absent), CANDIDATES, name=candidates_path.name)
    scores = conform(
        scores, {name: SCORES[name] for name in (*key, "score")}, name=scores_path.name
    )
    test = candidates.filter(pl.col("split") == "test")
    others = candidates.filter(pl.col("split") != "test").join(test, on=key, how="anti")
    n_ignored = scores.join(others, on=key, how="semi").height
    if n_ignored:
        logger.info("Ignored %d scores of training and validation rows.", n_ignored)
        scores = scores.join(others, on=key, how="anti")
    check_unique_rows(scores, model=model, key=key)
    unknown = scores.join(test, on=key, how="anti").select(key).sort(key)
    if unknown.height:
        raise DataError(
            f"{unknown.height} rows of {scores_path.name} are not test candidates, such as "
            f"{unknown.row(0, named=True)}. Copy {', '.join(key)} from {candidates_path.name}."
        )
    missing = test.join(scores.drop_nulls("score"), on=key, how="anti").select(ROW).sort(ROW)
    if missing.height:
        raise DataError(
            f"{missing.height} of {test.height} test candidates have no score in "
            f"{scores_path.name}, such as {missing.row(0, named=True)}. Score every candidate."
        )
    joined = test.join(scores, on=key, how="inner", validate="m:1")
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
