"""One score out of several models' scores, by weights that validation users choose.

Each model's scores become two numbers that rise with them: standardised, and as a normal score
(the place among validation scores, on the bell curve's scale), which no unit and no outlier can
spoil. A softmax over a user's candidates of their weighted sum is fitted by maximum likelihood;
weights are not negative, so that a better score of a model never lowers the sum. Which rows a
score is asked with makes no difference.

Likelihoods are measured on validation users that took no part in the fit. Where the best single
model beats the sum by more than the standard error of their difference, it is used alone. Doubt
speaks for the sum: a part that knows nothing gets next to no weight, and leaving out one that
knows something costs far more than that, above all where validation users are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import minimize
from scipy.stats import norm

from mllm_msr.errors import DataError

Floats = npt.NDArray[np.float64]

KEYS: Final = ("fold", "negatives", "user_id", "item_id")
_N_KNOTS: Final = 201
_N_PARTS_OF_USERS: Final = 5
_RIDGE: Final = 1.0
_BOUND: Final = 100.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How one model's scores become comparable.

    Attributes:
        mean: Mean of its validation scores.
        deviation: Their standard deviation, 1 where they are constant.
        knots: Quantiles of them, ascending, distinct.
        levels: Normal scores at the knots.
    """

    mean: float
    deviation: float
    knots: tuple[float, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """The scale of some scores, at least one."""
        places = (np.arange(_N_KNOTS) + 0.5) / _N_KNOTS
        quantiles, first, counts = np.unique(
            np.quantile(scores, places), return_index=True, return_counts=True
        )
        # Equal quantiles stand in the middle of their places.
        levels = norm.ppf((first + counts / 2) / _N_KNOTS)
        deviation = float(scores.std())
        return cls(
            mean=float(scores.mean()),
            deviation=deviation if deviation > 0.0 else 1.0,
            knots=tuple(quantiles.tolist()),
            levels=tuple(levels.tolist()),
        )

    def features(self, scores: npt.ArrayLike) -> Floats:
        """Standardised and normal scores: [n_scores, 2]."""
        values = np.asarray(scores, dtype=np.float64)
        return np.stack([self.weighted(values, 1.0, 0.0), self.weighted(values, 0.0, 1.0)], axis=-1)

    def weighted(self, scores: npt.ArrayLike, linear: float, ranked: float) -> Floats:
        """Standardised scores times `linear` plus normal scores times `ranked`: [...]."""
        values = np.asarray(scores, dtype=np.float64)
        total: Floats = (values - self.mean) * (linear / self.deviation)
        if ranked:
            total += ranked * np.interp(values, self.knots, self.levels)
        return total


@dataclass(frozen=True, slots=True)
class Blend:
    """A fitted combination.

    Attributes:
        parts: Names of the models.
        scales: One for each.
        weights: Weights of each model's two features, none negative; zeros for unused models.
        likelihoods: Mean log-likelihood per validation user, each measured on users outside the
            fit: of every model alone and of `combined`. Empty where there were no such users.
        chosen: "combined", or the model that is used alone; "equal" without validation users.
    """

    parts: tuple[str, ...]
    scales: tuple[Scale, ...]
    weights: tuple[tuple[float, float], ...]
    likelihoods: Mapping[str, float]
    chosen: str

    def combine(self, scores: Mapping[str, npt.ArrayLike]) -> Floats:
        """The joint score, where every part has scored the same rows in the same order.

        Args:
            scores: For each part an array of one common shape.
        """
        total: Floats = np.zeros(np.shape(scores[self.parts[0]]))
        for part, scale, weights in zip(self.parts, self.scales, self.weights, strict=True):
            if any(weights):  # an unused part changes nothing, whatever its scores
                total += scale.weighted(scores[part], *weights)
        return total

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        return cls(
            parts=tuple(map(str, state["parts"])),
            scales=tuple(Scale(**scale) for scale in state["scales"]),
            weights=tuple((float(linear), float(ranked)) for linear, ranked in state["weights"]),
            likelihoods=dict(state["likelihoods"]),
            chosen=str(state["chosen"]),
        )


def fit_blend(scores: Mapping[str, pl.DataFrame], *, seed: int = 0) -> Blend:
    """Learn how to combine models from their scores of validation candidates.

    Args:
        scores: For each model a frame with the columns of `tables.SCORES`, the same rows in any
            order. Users without a positive or without a negative teach nothing.
        seed: Seed of the division of users.

    Raises:
        DataError: Models have not scored the same rows, or there are none.
    """
    parts = tuple(scores)
    joined = align(scores)
    scales = tuple(Scale.of(joined[part].to_numpy()) for part in parts)
    features = np.concatenate(
        [scale.features(joined[part]) for part, scale in zip(parts, scales, strict=True)], axis=1
    )
    choice = _Choice.of(joined, features)
    folds = _divide(choice.user, seed=seed)
    likelihoods = {
        part: _held_out(choice, [2 * at, 2 * at + 1], folds) for at, part in enumerate(parts)
    }
    every = list(range(features.shape[1]))
    combined = _held_out(choice, every, folds)
    best = max(parts, key=lambda part: float(likelihoods[part].mean()))
    gain = combined - likelihoods[best]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
    joins = float(gain.mean()) > -error
    at = parts.index(best)
    used = every if joins else [2 * at, 2 * at + 1]
    weights = np.zeros(len(every))
    weights[used] = _maximise(choice, used)
    means = {part: float(values.mean()) for part, values in likelihoods.items()}
    return Blend(
        parts=parts,
        scales=scales,
        weights=tuple((float(a), float(b)) for a, b in weights.reshape(-1, 2)),
        likelihoods=means | {"combined": float(combined.mean())},
        chosen="combined" if joins else best,
    )


def equal_blend(scores: Mapping[str, pl.DataFrame]) -> Blend:
    """A blend in which every model's normal score counts alike: what is left without validation.

    Args:
        scores: For each model scores of the same candidates, by which they are scaled.
    """
    return Blend(
        parts=tuple(scores),
        scales=tuple(Scale.of(frame["score"].to_numpy()) for frame in scores.values()),
        weights=tuple((0.0, 1.0) for _ in scores),
        likelihoods={},
        chosen="equal",
    )


def align(scores: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Scores side by side, joined by key and never by place.

    Args:
        scores: For each model a frame with the columns of `tables.SCORES`.

    Returns:
        Columns `fold`, `negatives`, `user_id`, `item_id`, `label` and one per model, sorted by key.

    Raises:
        DataError: Models have not scored the same rows, or there are none.
    """
    first, *others = scores
    joined = scores[first].select(*KEYS, "label", pl.col("score").alias(first))
    for part in others:
        rows = scores[part].select(*KEYS, pl.col("score").alias(part))
        joined = joined.join(rows, on=KEYS, how="inner")
        if not joined.height == rows.height == scores[first].height:
            raise DataError(
                needed=f"scores of {part!r} for the {scores[first].height} rows of {first!r}",
                received=f"{rows.height} rows, {joined.height} of them the same",
                remedy="score both models on the same candidates",
            )
    if joined.is_empty():
        raise DataError(
            needed="scores of at least one validation candidate",
            received="an empty table",
            remedy="prepare with data.validation_fraction above 0",
        )
    return joined.sort(KEYS)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Lists of candidates, each with a positive: rows sorted by list.

    Attributes:
        features: Shape [n_rows, n_features].
        positive: Shape [n_rows].
        starts: First row of each list.
        user: Shape [n_lists]; a number for each list's user.
    """

    features: Floats
    positive: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]

    @classmethod
    def of(cls, joined: pl.DataFrame, features: Floats) -> Self:
        lists = ("fold", "negatives", "user_id")
        label = pl.col("label")
        both = label.max().over(lists) > label.min().over(lists)
        useful = joined.select(both).to_series().to_numpy()
        kept = joined.filter(useful)
        number = kept.select(pl.struct(lists).rle_id()).to_series().to_numpy()
        starts = np.flatnonzero(np.diff(number.astype(np.int64), prepend=-1))
        user = kept["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        return cls(features[useful], kept["label"].to_numpy() == 1, starts, user[starts])

    def part(self, lists: npt.NDArray[np.bool_]) -> _Choice:
        """Some of the lists."""
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        rows = np.repeat(lists, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[lists])])[:-1].astype(np.int64)
        return _Choice(self.features[rows], self.positive[rows], starts, self.user[lists])

    def likelihood(self, weights: Floats, used: Sequence[int]) -> tuple[Floats, Floats]:
        """Log-likelihood of each list's positive, and its mean's gradient in the weights."""
        features = self.features[:, used]
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        total = features @ weights
        exps = np.exp(total - np.repeat(np.maximum.reduceat(total, self.starts), lengths))
        hits = np.where(self.positive, exps, 0.0)
        whole, right = (np.add.reduceat(values, self.starts) for values in (exps, hits))
        right = np.maximum(right, np.finfo(np.float64).tiny)
        pull = hits / np.repeat(right, lengths) - exps / np.repeat(whole, lengths)
        return np.log(right / whole), pull @ features / len(self.starts)


def _divide(user: npt.NDArray[np.int64], *, seed: int) -> npt.NDArray[np.int64]:
    """A part for each list, the same for all lists of a user."""
    n_users = int(user.max(initial=-1)) + 1
    places = np.random.default_rng(seed).permutation(n_users) % _N_PARTS_OF_USERS
    divided: npt.NDArray[np.int64] = places[user]
    return divided


def _held_out(choice: _Choice, used: Sequence[int], folds: npt.NDArray[np.int64]) -> Floats:
    """Mean log-likelihood of each user, under weights that others chose."""
    found = np.zeros(len(folds))
    for fold in np.unique(folds):
        weights = _maximise(choice.part(folds != fold), used)
        found[folds == fold] = choice.part(folds == fold).likelihood(weights, used)[0]
    sums, counts = np.bincount(choice.user, found), np.bincount(choice.user)
    means: Floats = sums[counts > 0] / counts[counts > 0]
    return means


def _maximise(choice: _Choice, used: Sequence[int]) -> Floats:
    """The non-negative weights of the greatest likelihood, slightly shrunk; equal without rows."""
    start = np.full(len(used), 0.5)
    if not len(choice.starts):
        return start
    ridge = _RIDGE / len(choice.starts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        values, gradient = choice.likelihood(weights, used)
        return float(ridge * weights @ weights - values.mean()), 2 * ridge * weights - gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, _BOUND)] * len(used))
    weights: Floats = found.x
    return weights
