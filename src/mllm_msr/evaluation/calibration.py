"""Whether probabilities mean what they say: reliability bins, ECE and score histograms.

Part of the evaluation's third step. Models are fine-tuned on one negative per positive and judged
on twenty, so that frequencies are read with both classes weighted equally: P(yes) = 0.7 is
calibrated where, out of as many positives as negatives, 70 % of such rows are positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, n_bins: int = 10
) -> dict[str, Any]:
    """Reliability of probabilities in bins of equal width, classes weighted equally.

    Args:
        labels: 0 or 1, shape [n_rows].
        probabilities: In [0, 1], shape [n_rows].
        n_bins: Number of bins over [0, 1].

    Returns:
        `ece`, the expected calibration error in [0, 1], and `bins`, one record for each bin
        that holds rows: `predicted` (weighted mean), `observed` (weighted share of positives),
        `weight` (share of all rows' weight) and `n`. With only one class `ece` is None and
        there are no bins.

    >>> round(reliability([1, 0], [0.9, 0.1])["ece"], 3)
    0.1
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    n_positives = y.sum()
    if not 0 < n_positives < len(y):
        return {"ece": None, "bins": []}
    weight = np.where(y == 1, 0.5 / n_positives, 0.5 / (len(y) - n_positives))
    index = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    mass, predicted, observed = (
        np.bincount(index, weights=column, minlength=n_bins)
        for column in (weight, weight * p, weight * y)
    )
    rows = np.bincount(index, minlength=n_bins)
    used = np.flatnonzero(rows)
    return {
        "ece": float(np.abs(predicted - observed).sum()),
        "bins": [
            {
                "predicted": float(predicted[at] / mass[at]),
                "observed": float(observed[at] / mass[at]),
                "weight": float(mass[at]),
                "n": int(rows[at]),
            }
            for at in used
        ],
    }


def calibration(tables: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, dict[str, Any]]]:
    """Reliability of every model whose scores all lie in [0, 1].

    Args:
        tables: For each model's name a frame of `tables.SCORES`.

    Returns:
        `{model: {negatives: reliability(...)}}`.
    """
    return {
        model: {
            str(kind): reliability(group["label"].to_numpy(), group["score"].to_numpy())
            for (kind,), group in sorted(
                frame.group_by("negatives"), key=lambda group: str(group[0])
            )
        }
        for model, frame in tables.items()
        if _probabilities(frame)
    }


def histogram(
    tables: Mapping[str, pl.DataFrame], *, n_bins: int = 24
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """How scores of positives and of negatives are spread, for models that score in [0, 1].

    Args:
        tables: For each model's name a frame of `tables.SCORES`.
        n_bins: Number of bins of equal width over [0, 1].

    Returns:
        `{model: {negatives: {positives: [...], negatives: [...]}}}`, shares per bin, each
        list summing to 1 (or to 0 without such rows).
    """
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    for model, frame in tables.items():
        if not _probabilities(frame):
            continue
        kinds = result.setdefault(model, {})
        for (kind,), group in sorted(frame.group_by("negatives"), key=lambda group: str(group[0])):
            shares = {}
            for name, label in (("positives", 1), ("negatives", 0)):
                values = group.filter(pl.col("label") == label)["score"].to_numpy()
                counts, _ = np.histogram(values, bins=n_bins, range=(0.0, 1.0))
                shares[name] = (counts / max(1, len(values))).tolist()
            kinds[str(kind)] = shares
    return result


def _probabilities(frame: pl.DataFrame) -> bool:
    return frame.height > 0 and bool(frame["score"].is_between(0.0, 1.0).all())
