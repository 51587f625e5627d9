"""Calibration of probabilities: reliability bins, expected calibration error, score histograms.

Part of the third step of the evaluation. Models are fine-tuned with one negative per positive and
evaluated with twenty. The bins therefore weight both classes equally: a probability of 0.7 is
calibrated if 70 % of such rows are positive in a set with as many positives as negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

# Bins over [0, 1] in which the reliability is computed.
_N_BINS: Final = 10


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> dict[str, Any]:
    """Compute the reliability of probabilities in bins of equal width, classes weighted equally.

    Args:
        labels: 0 or 1, shape [n_rows].
        probabilities: In [0, 1], shape [n_rows].

    Returns:
        `ece`, the expected calibration error in [0, 1], and `bins`, one record per non-empty bin:
        `predicted` (weighted mean), `observed` (weighted share of positives), `weight` (share of
        the total weight) and `n`. With only one class `ece` is None and there are no bins.

    >>> round(reliability([1, 0], [0.9, 0.1])["ece"], 3)
    0.1
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    n_positives = y.sum()
    if not 0 < n_positives < len(y):
        return {"ece": None, "bins": []}
    weight = np.where(y == 1, 0.5 / n_positives, 0.5 / (len(y) - n_positives))
    index = np.minimum((p * _N_BINS).astype(np.int64), _N_BINS - 1)
    mass, predicted, observed = (
        np.bincount(index, weights=column, minlength=_N_BINS)
        for column in (weight, weight * p, weight * y)
    )
    rows = np.bincount(index, minlength=_N_BINS)
    return {
        "ece": float(np.abs(predicted - observed).sum()),
        "bins": [
            {
                "predicted": float(predicted[b] / mass[b]),
                "observed": float(observed[b] / mass[b]),
                "weight": float(mass[b]),
                "n": int(rows[b]),
            }
            for b in np.flatnonzero(rows)
        ],
    }


def calibration(tables: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute the reliability of every model whose scores are all in [0, 1].

    Args:
        tables: `tables.SCORES` by model. Candidates without a score are left out.

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
        for model, frame in _probabilities(tables).items()
    }


def histogram(
    tables: Mapping[str, pl.DataFrame], *, n_bins: int = 24
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Compute histograms of the scores of positives and negatives, for scores in [0, 1].

    Args:
        tables: `tables.SCORES` by model. Candidates without a score are left out.
        n_bins: Number of bins of equal width over [0, 1].

    Returns:
        `{model: {negatives: {positives: [...], negatives: [...]}}}`. Each list holds shares per
        bin and sums to 1, or to 0 if there are no such rows.
    """
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    for model, frame in _probabilities(tables).items():
        kinds = result.setdefault(model, {})
        for (kind,), group in sorted(frame.group_by("negatives"), key=lambda group: str(group[0])):
            shares = {}
            for name, label in (("positives", 1), ("negatives", 0)):
                values = group.filter(pl.col("label") == label)["score"].to_numpy()
                counts, _ = np.histogram(values, bins=n_bins, range=(0.0, 1.0))
                shares[name] = (counts / max(1, len(values))).tolist()
            kinds[str(kind)] = shares
    return result


def _probabilities(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return the scored candidates of the models whose scores are all in [0, 1]."""
    scored = {model: frame.drop_nulls("score") for model, frame in tables.items()}
    return {
        model: frame
        for model, frame in scored.items()
        if frame.height and frame["score"].is_between(0.0, 1.0).all()
    }
