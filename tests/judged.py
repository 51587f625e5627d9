"""Candidates of made-up users, and scores of known quality for them."""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_msr.tables import CANDIDATES, SCORES, conform

N_USERS = 40


def candidates() -> pl.DataFrame:
    """Test lists of 1 + 20 under two kinds of negatives in five folds, and some training rows."""
    rows = [
        (user % 5, "test", kind, f"u{user}", 7, f"i{(user + at) % 90}", int(at == 3))
        for user in range(N_USERS)
        for kind in ("uniform", "popularity")
        for at in range(21)
    ]
    rows += [(0, "train", "uniform", f"u{user}", 4, "i0", 1) for user in range(5)]
    return pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")


def tested_rows() -> pl.DataFrame:
    """The test rows of `candidates`."""
    return candidates().filter(pl.col("split") == "test")


def scored(rows: pl.DataFrame, *, signal: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Uniform noise plus a signal for the true items, in [0, 1]."""
    noise = np.random.default_rng(seed).random(rows.height)
    score = (noise + signal * rows["label"].to_numpy()) / (1 + signal)
    return conform(rows.with_columns(score=pl.Series(score)), SCORES, name="test")
