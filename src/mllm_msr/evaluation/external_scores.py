"""Evaluation of external score tables against the candidates of a run, or external ones.

Entry point of the evaluation for models outside this package. Rows are matched by the key columns
that both tables have, and labels come only from the candidates. Rows that do not match raise an
error that states their number.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, Kind
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
    scores_paths: Mapping[str, Path],
    *,
    main: str | None = None,
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Evaluation:
    """Evaluate score tables from any source against test candidates, of a run or external ones.

    Args:
        candidates_path: Table in any format of `data/reading/reader.py` with `user_id`, `item_id`
            and `label`, and optionally the other columns of `tables.CANDIDATES`. Without `split`,
            all rows are test candidates.
        scores_paths: Tables by model, with `user_id`, `item_id` and `score`, and optionally `fold`
            and `negatives`; without these, a score applies to every list of the user. Candidates
            with a null score rank last. Rows of training and validation candidates are ignored.
        main: The model whose comparisons with each other model are a family of tests.
        ks: Cut-offs of the metrics.
        seed: Seed of the bootstrap and of the tests.
        n_resamples: Number of resamples of each interval.

    Raises:
        DataError: A file or column cannot be read, a test candidate has no row or several, or a row
            has no candidate. The message counts such rows and shows the first.
    """
    candidates = _read_table(candidates_path, CANDIDATES, "candidates", optional=_DEFAULTS)
    absent = {name: pl.lit(_DEFAULTS[name]) for name in _DEFAULTS if name not in candidates.columns}
    rows = conform(candidates.with_columns(**absent), CANDIDATES, name=candidates_path.name)
    scored = {
        model: _score_candidates(
            rows, path, model=model, columns=candidates.columns, file=candidates_path.name
        )
        for model, path in scores_paths.items()
    }
    return evaluate_scores(scored, main=main, ks=ks, seed=seed, n_resamples=n_resamples)


def _score_candidates(
    candidates: pl.DataFrame, path: Path, *, model: str, columns: Collection[str], file: str
) -> pl.DataFrame:
    """Return the test candidates with the scores of a file.

    Args:
        candidates: Candidates with all columns of `tables.CANDIDATES`.
        path: The score table.
        model: Name of its model in error messages.
        columns: The columns that the file of the candidates has.
        file: Name of that file in error messages.

    Raises:
        DataError: As for `evaluate_external`.
    """
    scores = _read_table(path, SCORES, "scores", optional=("fold", "negatives"))
    # Without `fold` or `negatives` in one of the tables, the other columns identify a row.
    unused = {"fold", "negatives"} - ({*columns} & {*scores.columns})
    key = [name for name in ROW if name not in unused]
    scores = scores.select(*key, "score")
    test = candidates.filter(pl.col("split") == "test")
    _require_distinct(test, key, file)
    others = candidates.filter(pl.col("split") != "test").join(test, on=key, how="anti")
    n_ignored = scores.join(others, on=key, how="semi").height
    if n_ignored:
        logger.info("Ignored %d scores of training and validation rows.", n_ignored)
        scores = scores.join(others, on=key, how="anti")
    check_unique_rows(scores, model=model, key=key)
    unknown = scores.join(test, on=key, how="anti").select(key).sort(key)
    if unknown.height:
        raise DataError(
            f"{unknown.height} rows of {path.name} are not test candidates, such as "
            f"{unknown.row(0, named=True)}. Copy {', '.join(key)} from {file}."
        )
    missing = test.join(scores, on=key, how="anti").select(key).sort(key)
    if missing.height:
        raise DataError(
            f"{missing.height} of {test.height} test candidates are not in {path.name}, such as "
            f"{missing.row(0, named=True)}. Score every candidate; one with an empty score ranks "
            "last."
        )
    return test.join(scores, on=key, how="inner", validate="m:1")


def _require_distinct(candidates: pl.DataFrame, key: Sequence[str], file: str) -> None:
    """Raise an error if a candidate occurs several times in one list."""
    repeated = candidates.filter(candidates.select(ROW).is_duplicated()).select(key).sort(key)
    if repeated.height:
        raise DataError(
            f"{repeated.height} rows of {file} are the same candidate as another row, such as "
            f"{repeated.row(0, named=True)}. Keep one row per candidate."
        )


def _read_table(
    path: Path, schema: Mapping[str, pl.DataType], content: str, *, optional: Collection[str]
) -> pl.DataFrame:
    """Read the columns of a schema that a file has.

    Args:
        path: The file.
        schema: Columns and their types.
        content: What the file contains.
        optional: Columns that it may lack; it must have the others.
    """
    columns = {
        name: _column(name, dtype, required=name not in optional)
        for name, dtype in schema.items()
        if content == "candidates" or name != "label"
    }
    table = read_table(path, columns, content=content)
    present = [name for name in columns if name in table.description.columns]
    return table.frame.select(present).collect()


def _column(name: str, dtype: pl.DataType, *, required: bool) -> Column:
    """Return how to read a column of a schema."""
    if name == "label":
        return Column(name, "value", required=required, convert=_to_label, expected="0 or 1")
    kind: Kind = "id" if dtype == pl.String else "integer" if dtype.is_integer() else "number"
    # A null score says that the model could not score a candidate.
    return Column(name, kind, required=required, nullable=name == "score")


def _to_label(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return labels, null where they are neither 0 nor 1, false nor true."""
    if dtype == pl.String:
        value = value.str.to_lowercase().replace({"false": "0", "true": "1"})
    number = value.cast(pl.Float64, strict=False)
    return pl.when((number == 0) | (number == 1)).then(number).cast(pl.Int8)
