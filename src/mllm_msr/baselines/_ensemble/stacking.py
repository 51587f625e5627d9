"""Stacking: combine the scores of several models with weights learned on validation users.

The scores of each model become two increasing features: the standardized score, and the normal
score (the quantile among validation scores, mapped to a standard normal), which does not depend on
units or outliers. Their weighted sum is fitted by maximum likelihood as a conditional logit, a
softmax over the candidates of a user. Weights are non-negative, so a higher score of one model
never lowers the sum. A combined score does not depend on the other rows of a call.

Likelihoods are measured by cross-validation over validation users. If the best single model beats
the combination by more than the standard error of their difference, it is used alone. Otherwise the
combination is used: a useless member gets a weight near zero, whereas leaving out a useful one
costs more, above all with few validation users.
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
_N_USER_FOLDS: Final = 5
_RIDGE: Final = 1.0
_MAX_WEIGHT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """Map from the scores of one model to comparable features.

    Attributes:
        mean: Mean of the validation scores.
        deviation: Standard deviation of the validation scores; 1 if they are constant.
        knots: Distinct quantiles of the validation scores, ascending.
        levels: Normal scores at the knots.
    """

    mean: float
    deviation: float
    knots: tuple[float, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """Fit the scaling to scores, at least one."""
        probabilities = (np.arange(_N_KNOTS) + 0.5) / _N_KNOTS
        quantiles, first, counts = np.unique(
            np.quantile(scores, probabilities), return_index=True, return_counts=True
        )
        # Equal quantiles get the mean of their probabilities.
        levels = norm.ppf((first + counts / 2) / _N_KNOTS)
        deviation = float(scores.std())
        return cls(
            mean=float(scores.mean()),
            deviation=deviation if deviation > 0.0 else 1.0,
            knots=tuple(quantiles.tolist()),
            levels=tuple(levels.tolist()),
        )

    def features(self, scores: npt.ArrayLike) -> Floats:
        """Return standardized and normal scores: [n_scores, 2]."""
        values = np.asarray(scores, dtype=np.float64)
        return np.stack([self.weighted(values, 1.0, 0.0), self.weighted(values, 0.0, 1.0)], axis=-1)

    def weighted(self, scores: npt.ArrayLike, linear: float, normal: float) -> Floats:
        """Return `linear` times the standardized plus `normal` times the normal scores."""
        values = np.asarray(scores, dtype=np.float64)
        total: Floats = (values - self.mean) * (linear / self.deviation)
        if normal:
            total += normal * np.interp(values, self.knots, self.levels)
        return total


@dataclass(frozen=True, slots=True)
class Stacking:
    """A fitted combination of models.

    Attributes:
        members: Names of the models.
        scalings: One per model.
        weights: Weights of each model's two features, non-negative; zeros for unused models.
        likelihoods: Mean cross-validated log-likelihood per validation user, of every model alone
            and of `combined`; empty without validation users.
        selected: "combined", or the model that is used alone; "equal" without validation users.
    """

    members: tuple[str, ...]
    scalings: tuple[Scaling, ...]
    weights: tuple[tuple[float, float], ...]
    likelihoods: Mapping[str, float]
    selected: str

    def combine(self, scores: Mapping[str, npt.ArrayLike]) -> Floats:
        """Return the combined score; NaN where a member that is used has no score.

        Args:
            scores: For each member the scores of the same rows, arrays of one shape; NaN for rows
                that the member could not score.
        """
        total: Floats = np.zeros(np.shape(scores[self.members[0]]))
        for member, scaling, weights in zip(self.members, self.scalings, self.weights, strict=True):
            if any(weights):  # An unused member may have non-finite scores.
                total += scaling.weighted(scores[member], *weights)
        return total

    def to_json(self) -> dict[str, Any]:
        """Return the combination as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: The state is malformed.
        """
        return cls(
            members=tuple(map(str, state["members"])),
            scalings=tuple(Scaling(**scaling) for scaling in state["scalings"]),
            weights=tuple((float(linear), float(normal)) for linear, normal in state["weights"]),
            likelihoods=dict(state["likelihoods"]),
            selected=str(state["selected"]),
        )


def fit_stacking(scores: Mapping[str, pl.DataFrame], *, seed: int = 0) -> Stacking:
    """Learn how to combine models from their scores of validation candidates.

    Args:
        scores: For each model a frame with the columns of `tables.SCORES`, the same rows in any
            order. Users without a positive or without a negative are ignored, and so are rows that
            a model could not score.
        seed: Seed of the assignment of users to cross-validation folds.

    Raises:
        DataError: The models have not scored the same rows, or there are no rows.
    """
    members = tuple(scores)
    joined = align(scores)
    scalings = tuple(Scaling.of(joined[member].to_numpy()) for member in members)
    features = np.concatenate(
        [scaling.features(joined[name]) for name, scaling in zip(members, scalings, strict=True)],
        axis=1,
    )
    lists = _CandidateLists.of(joined, features)
    n_users = int(lists.user.max(initial=-1)) + 1
    folds = (np.random.default_rng(seed).permutation(n_users) % _N_USER_FOLDS)[lists.user]
    likelihoods = {
        member: _cross_validated(lists, [2 * at, 2 * at + 1], folds)
        for at, member in enumerate(members)
    }
    all_columns = list(range(features.shape[1]))
    combined = _cross_validated(lists, all_columns, folds)
    best = max(members, key=lambda member: float(likelihoods[member].mean()))
    gain = combined - likelihoods[best]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
    combines = float(gain.mean()) > -error
    at = members.index(best)
    used = all_columns if combines else [2 * at, 2 * at + 1]
    weights = np.zeros(len(all_columns))
    weights[used] = _maximize_likelihood(lists, used)
    means = {member: float(values.mean()) for member, values in likelihoods.items()}
    return Stacking(
        members=members,
        scalings=scalings,
        weights=tuple((float(a), float(b)) for a, b in weights.reshape(-1, 2)),
        likelihoods=means | {"combined": float(combined.mean())},
        selected="combined" if combines else best,
    )


def equal_stacking(scores: Mapping[str, pl.DataFrame]) -> Stacking:
    """Return a combination with equal weights of normal scores, for data without validation users.

    Args:
        scores: For each model the scores of the same candidates; its scaling is fitted to them.
    """
    return Stacking(
        members=tuple(scores),
        scalings=tuple(
            Scaling.of(frame["score"].drop_nulls().to_numpy()) for frame in scores.values()
        ),
        weights=tuple((0.0, 1.0) for _ in scores),
        likelihoods={},
        selected="equal",
    )


def align(scores: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Join scores by key.

    Args:
        scores: For each model a frame with the columns of `tables.SCORES`.

    Returns:
        Columns `fold`, `negatives`, `user_id`, `item_id`, `label` and one per model, sorted by key,
        without rows that a model could not score.

    Raises:
        DataError: The models have not scored the same rows, or there are no rows.
    """
    first, *others = scores
    joined = scores[first].select(*KEYS, "label", pl.col("score").alias(first))
    for member in others:
        rows = scores[member].select(*KEYS, pl.col("score").alias(member))
        joined = joined.join(rows, on=KEYS, how="inner")
        if not joined.height == rows.height == scores[first].height:
            raise DataError(
                f"{member!r} scored {rows.height} rows, {joined.height} of which are among the "
                f"{scores[first].height} rows of {first!r}. Score all members on the same "
                "candidates."
            )
    if joined.is_empty():
        raise DataError(
            "There are no scores of validation candidates. Prepare the data with "
            "data.validation_fraction above 0."
        )
    return joined.drop_nulls(list(scores)).sort(KEYS)


@dataclass(frozen=True, slots=True)
class _CandidateLists:
    """Lists of candidates, each with a positive; rows are sorted by list.

    Attributes:
        features: [n_rows, n_features].
        positive: [n_rows].
        starts: First row of each list: [n_lists].
        user: Index of the user of each list: [n_lists].
    """

    features: Floats
    positive: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]

    @classmethod
    def of(cls, joined: pl.DataFrame, features: Floats) -> Self:
        """Collect the lists that have both labels from the result of `align`."""
        lists = ("fold", "negatives", "user_id")
        label = pl.col("label")
        both = label.max().over(lists) > label.min().over(lists)
        useful = joined.select(both).to_series().to_numpy()
        rows = joined.filter(useful)
        number = rows.select(pl.struct(lists).rle_id()).to_series().to_numpy()
        starts = np.flatnonzero(np.diff(number.astype(np.int64), prepend=-1))
        user = rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        return cls(features[useful], rows["label"].to_numpy() == 1, starts, user[starts])

    def select(self, lists: npt.NDArray[np.bool_]) -> _CandidateLists:
        """Return some of the lists."""
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        rows = np.repeat(lists, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[lists])])[:-1].astype(np.int64)
        return _CandidateLists(self.features[rows], self.positive[rows], starts, self.user[lists])

    def log_likelihood(self, weights: Floats, used: Sequence[int]) -> tuple[Floats, Floats]:
        """Return the log-likelihood of each list, and the gradient of their mean."""
        features = self.features[:, used]
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        total = features @ weights
        exps = np.exp(total - np.repeat(np.maximum.reduceat(total, self.starts), lengths))
        hits = np.where(self.positive, exps, 0.0)
        sums, hit_sums = (np.add.reduceat(values, self.starts) for values in (exps, hits))
        hit_sums = np.maximum(hit_sums, np.finfo(np.float64).tiny)
        residuals = hits / np.repeat(hit_sums, lengths) - exps / np.repeat(sums, lengths)
        return np.log(hit_sums / sums), residuals @ features / len(self.starts)


def _cross_validated(
    lists: _CandidateLists, used: Sequence[int], folds: npt.NDArray[np.int64]
) -> Floats:
    """Return the mean log-likelihood of each user, with weights fitted on the other folds."""
    likelihoods = np.zeros(len(folds))
    for fold in np.unique(folds):
        weights = _maximize_likelihood(lists.select(folds != fold), used)
        held_out = lists.select(folds == fold)
        likelihoods[folds == fold] = held_out.log_likelihood(weights, used)[0]
    sums, counts = np.bincount(lists.user, likelihoods), np.bincount(lists.user)
    means: Floats = sums[counts > 0] / counts[counts > 0]
    return means


def _maximize_likelihood(lists: _CandidateLists, used: Sequence[int]) -> Floats:
    """Return the non-negative maximum-likelihood weights with a small ridge; equal without rows."""
    start = np.full(len(used), 0.5)
    if not len(lists.starts):
        return start
    ridge = _RIDGE / len(lists.starts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        values, gradient = lists.log_likelihood(weights, used)
        return float(ridge * weights @ weights - values.mean()), 2 * ridge * weights - gradient

    bounds = [(0.0, _MAX_WEIGHT)] * len(used)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: Floats = result.x
    return weights
