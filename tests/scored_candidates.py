"""Synthetic candidates with scores of controlled quality, and small tables of scores."""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_msr.evaluation.ranked_lists import RankedLists
from mllm_msr.tables import CANDIDATES, SCORES, conform

N_USERS = 40


def candidates() -> pl.DataFrame:
    """Return test lists of 1 + 20 items, with two kinds of negatives, and some training rows."""
    rows = [
        (user % 5, "test", kind, f"u{user}", 7, f"i{(user + item) % 90}", int(item == 3))
        for user in range(N_USERS)
        for kind in ("uniform", "popularity")
        for item in range(21)
    ]
    rows += [(0, "train", "uniform", f"u{user}", 4, "i0", 1) for user in range(5)]
    return pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")


def evaluated_rows() -> pl.DataFrame:
    """Return the test rows of `candidates`."""
    return candidates().filter(pl.col("split") == "test")


def scored(rows: pl.DataFrame, *, signal: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Score rows in [0, 1] by uniform noise plus a signal for the positives."""
    noise = np.random.default_rng(seed).random(rows.height)
    score = (noise + signal * rows["label"].to_numpy()) / (1 + signal)
    return conform(rows.with_columns(score=pl.Series(score)), SCORES, name="test")


def score_table(scores, labels, *, user="u", fold=0, negatives="uniform"):
    """Return `tables.SCORES` with one candidate list."""
    n = len(scores)
    return conform(
        pl.DataFrame(
            {
                "fold": [fold] * n,
                "negatives": [negatives] * n,
                "user_id": [user] * n,
                "item_id": [f"{user}-i{row}" for row in range(n)],
                "label": labels,
                "score": [float(score) for score in scores],
            }
        ),
        SCORES,
        name="test",
    )


def ranked_list(scores, labels):
    """Return one ranked list in the format that metrics take."""
    return RankedLists.from_scores(score_table(scores, labels).with_columns(list=pl.lit(0)))[1]
