"""Checks of score tables before metrics are computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import polars as pl

from mllm_msr.errors import DataError

# Key of a ranked list, and of a row in it.
KEYS: Final = ("fold", "negatives", "user_id")
ROW: Final = (*KEYS, "item_id")


def rank_unscored_last(scores: pl.DataFrame) -> pl.DataFrame:
    """Return scores with minus infinity for candidates without a score.

    A candidate that a model could not score is not recommended, so it ranks below all others.
    """
    return scores.with_columns(pl.col("score").fill_null(-math.inf))


def check_scores(scores: pl.DataFrame, *, model: str) -> None:
    """Raise an error if scores or labels cannot be ranked.

    Args:
        scores: Columns of `tables.SCORES`; null if the model could not score a candidate.
        model: Name of the model in error messages.

    Raises:
        DataError: A score is NaN or infinite, or a label is neither 0 nor 1. The message
            names the model and shows the first such rows.
    """
    bad = scores.filter(~pl.col("score").is_finite().fill_null(value=True))
    if bad.height:
        rows = "; ".join(str(row) for row in bad.head(3).iter_rows())
        raise DataError(
            f"{bad.height} of {scores.height} scores of the model {model!r} are NaN or "
            f"infinite, such as {rows}. Every score must be finite."
        )
    bad = scores.filter(~pl.col("label").is_in([0, 1]) | pl.col("label").is_null())
    if bad.height:
        raise DataError(
            f"{bad.height} labels in the scores of {model!r} are neither 0 nor 1, such as "
            f"{bad['label'][0]}. Label the true next item 1 and every negative 0."
        )


def check_unique_rows(scores: pl.DataFrame, *, model: str, key: Sequence[str] = ROW) -> None:
    """Raise an error if a candidate occurs more than once.

    Args:
        scores: Columns of the key and any others.
        model: Name of the model in error messages.
        key: Columns that identify a candidate.

    Raises:
        DataError: There are duplicates. The message counts them and shows the first.
    """
    rows = scores.select(key)
    duplicates = rows.filter(rows.is_duplicated())
    if duplicates.height:
        example = duplicates.sort(key).row(0, named=True)
        raise DataError(
            f"The scores of {model!r} contain {duplicates.height} duplicate rows, such as "
            f"{example}. Keep one score for each ({', '.join(key)})."
        )
