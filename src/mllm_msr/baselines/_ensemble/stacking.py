"""Stacking: combine the scores of several models with weights learned on held-out targets.

The scores of each model become two increasing features: the standardized score, and the normal
score (the quantile among the scores of many candidates, mapped to a standard normal), which does
not depend on units or outliers. Their weighted sum is fitted by maximum likelihood as a conditional
logit, a softmax over the candidates of a target. Weights are non-negative, so a higher score of one
model never lowers the sum, and shrunk towards equal weights: few targets give nearly equal weights,
many targets the best ones. Where some models score fewer targets than the others, the weights of
the others are learned first, and all are shrunk towards these. A combined score does not depend on
the other rows of a call.

Likelihoods of each model alone, of equal weights and of the fitted ones are measured by
cross-validation over users. They are for the reader; no model is selected by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import minimize
from scipy.stats import norm

Floats = npt.NDArray[np.float64]

_N_KNOTS: Final = 201
_N_USER_FOLDS: Final = 5
# Keeps the weights of separable data finite.
_RIDGE: Final = 0.05
_MAX_WEIGHT: Final = 100.0
# Smallest equal weight. Below it, members that only help with unequal weights would get none.
_MIN_SCALE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Scaling:
    """Map from the scores of one model to comparable features.

    Attributes:
        mean: Mean of some scores of the model.
        deviation: Standard deviation of these scores; 1 if they are constant.
        knots: Distinct quantiles of these scores, ascending.
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
        weights: Weights of each model's two features, non-negative.
        likelihoods: Mean cross-validated log-likelihood per target of every model alone, of `equal`
            weights and of `combined`; empty without targets.
        n_targets: Number of targets that the weights were fitted to; 0 for equal weights.
    """

    members: tuple[str, ...]
    scalings: tuple[Scaling, ...]
    weights: tuple[tuple[float, float], ...]
    likelihoods: Mapping[str, float]
    n_targets: int

    def combine(self, scores: Mapping[str, npt.ArrayLike]) -> Floats:
        """Return the combined score; NaN where a member with a weight has no score.

        Args:
            scores: For each member the scores of the same rows, arrays of one shape; NaN for rows
                that the member could not score.
        """
        total: Floats = np.zeros(np.shape(scores[self.members[0]]))
        for member, scaling, weights in zip(self.members, self.scalings, self.weights, strict=True):
            if any(weights):  # An unused member may have non-finite scores.
                total += scaling.weighted(scores[member], *weights)
        return total

    def shares(self) -> dict[str, float]:
        """Return the share of each member in the sum of all weights."""
        total = sum(map(sum, self.weights)) or 1.0
        return {
            member: sum(weights) / total
            for member, weights in zip(self.members, self.weights, strict=True)
        }

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
            n_targets=int(state["n_targets"]),
        )


def fit_stacking(
    candidates: pl.DataFrame,
    scores: Mapping[str, npt.ArrayLike],
    *,
    scalings: Mapping[str, Scaling] | None = None,
    prior: Stacking | None = None,
    shrinkage: float = 2.0,
    seed: int = 0,
) -> Stacking:
    """Learn how to combine models from their scores of the candidates of held-out targets.

    Args:
        candidates: `tables.CANDIDATES`. Targets without a positive or without a negative are
            ignored, and so are rows that a model could not score.
        scores: For each model the scores of these rows, NaN where it has none.
        scalings: Scalings of the models whose scores will be combined; by default, the models that
            gave `scores`.
        prior: Weights of some of the models, learned from more targets. Weights are shrunk towards
            these instead of equal ones; a model that it lacks has the mean of its weights.
        shrinkage: Strength of the shrinkage: one over twice the variance that the ratio of a weight
            to the one it is shrunk towards has before any target is seen.
        seed: Seed of the assignment of users to cross-validation folds.
    """
    members = tuple(scores)
    columns = {member: np.asarray(scores[member], dtype=np.float64) for member in members}
    own = {member: Scaling.of(values[~np.isnan(values)]) for member, values in columns.items()}
    features = np.concatenate([own[member].features(columns[member]) for member in members], axis=1)
    center = _center(members, prior)
    lists = _CandidateLists.of(candidates, features * center)
    likelihoods, weights = {}, np.ones(features.shape[1])
    if len(lists.starts):
        weights = lists.fit_weights(shrinkage=shrinkage)
        likelihoods = _likelihoods(lists, members, shrinkage=shrinkage, seed=seed)
    return Stacking(
        members=members,
        scalings=tuple((scalings or own)[member] for member in members),
        weights=tuple((float(a), float(b)) for a, b in (weights * center).reshape(-1, 2)),
        likelihoods=likelihoods,
        n_targets=lists.n_targets,
    )


def equal_stacking(scalings: Mapping[str, Scaling]) -> Stacking:
    """Return a combination with equal weights, for data without targets to learn from."""
    weights = ((1.0, 1.0),) * len(scalings)
    return Stacking(tuple(scalings), tuple(scalings.values()), weights, {}, 0)


def _center(members: Sequence[str], prior: Stacking | None) -> Floats:
    """Return the weights of all features towards which weights are shrunk, with a mean of one."""
    if prior is None:
        return np.ones(2 * len(members))
    known = dict(zip(prior.members, prior.weights, strict=True))
    mean = float(np.mean(prior.weights)) or 1.0
    center = np.concatenate([known.get(member, (mean, mean)) for member in members]) / mean
    return np.asarray(center)


@dataclass(frozen=True, slots=True)
class _CandidateLists:
    """Lists of candidates, each with a positive; rows are sorted by list.

    Attributes:
        features: [n_rows, n_features].
        positive: [n_rows].
        starts: First row of each list: [n_lists].
        user: Index of the user of each list: [n_lists].
        target: Index of the target of each list: [n_lists]. The lists of a target differ in their
            negatives, and count together as one.
    """

    features: Floats
    positive: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]

    @classmethod
    def of(cls, candidates: pl.DataFrame, features: Floats) -> Self:
        """Collect the lists that have both labels among the rows without a missing feature."""
        lists = ["user_id", "position", "fold", "negatives"]
        rows = candidates.select(*lists, "label", row=pl.int_range(pl.len())).sort(lists)
        scored = pl.Series(~np.isnan(features).any(axis=1))
        rows = rows.filter(scored.gather(rows["row"]))
        label = pl.col("label")
        rows = rows.filter(label.max().over(lists) > label.min().over(lists))
        number, target, user = (
            rows.select(pl.struct(lists[:n]).rle_id()).to_series().to_numpy().astype(np.int64)
            for n in (4, 2, 1)
        )
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        kept = features[rows["row"].to_numpy()]
        return cls(kept, rows["label"].to_numpy() == 1, starts, user[starts], target[starts])

    @property
    def n_targets(self) -> int:
        """Return the number of targets."""
        return len(np.unique(self.target))

    def weights(self) -> Floats:
        """Return the weight of each list, which sum to one for each target: [n_lists]."""
        _, target, n_lists = np.unique(self.target, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / n_lists[target])

    def select(self, lists: npt.NDArray[np.bool_]) -> _CandidateLists:
        """Return some of the lists."""
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        rows = np.repeat(lists, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[lists])])[:-1].astype(np.int64)
        return _CandidateLists(
            self.features[rows], self.positive[rows], starts, self.user[lists], self.target[lists]
        )

    def combine(self, matrix: Floats) -> _CandidateLists:
        """Return the lists with combinations of their features: matrix [n_features, n_new]."""
        return replace(self, features=self.features @ matrix)

    def log_likelihood(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the log-likelihood of each list, and the gradient of their weighted sum."""
        lengths = np.diff(np.append(self.starts, len(self.positive)))
        total = self.features @ weights
        exps = np.exp(total - np.repeat(np.maximum.reduceat(total, self.starts), lengths))
        hits = np.where(self.positive, exps, 0.0)
        sums, hit_sums = (np.add.reduceat(values, self.starts) for values in (exps, hits))
        hit_sums = np.maximum(hit_sums, np.finfo(np.float64).tiny)
        residuals = hits / np.repeat(hit_sums, lengths) - exps / np.repeat(sums, lengths)
        residuals *= np.repeat(self.weights(), lengths)
        return np.log(hit_sums / sums), residuals @ self.features

    def fit_weights(self, *, shrinkage: float) -> Floats:
        """Return the non-negative weights of the features, shrunk towards equal ones."""
        n_features = self.features.shape[1]
        scale = max(
            _MIN_SCALE, float(self.combine(np.ones((n_features, 1))).maximize_likelihood(0.0)[0])
        )
        return scale * self.combine(scale * np.eye(n_features)).maximize_likelihood(shrinkage)

    def maximize_likelihood(self, shrinkage: float) -> Floats:
        """Maximize the likelihood minus `shrinkage` times the squared deviations from the mean."""
        list_weights = self.weights()

        def loss(weights: Floats) -> tuple[float, Floats]:
            values, gradient = self.log_likelihood(weights)
            deviations = weights - weights.mean()
            penalty = shrinkage * deviations @ deviations + _RIDGE * weights @ weights
            slope = 2 * shrinkage * deviations + 2 * _RIDGE * weights
            return float(penalty - list_weights @ values), slope - gradient

        n_features = self.features.shape[1]
        bounds = [(0.0, _MAX_WEIGHT)] * n_features
        start = np.ones(n_features)
        result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        weights: Floats = result.x
        return weights


def _likelihoods(
    lists: _CandidateLists, members: Sequence[str], *, shrinkage: float, seed: int
) -> dict[str, float]:
    """Return the mean log-likelihood per target, with weights fitted on users of other folds."""
    n_users = int(lists.user.max()) + 1
    folds = (np.random.default_rng(seed).permutation(n_users) % _N_USER_FOLDS)[lists.user]
    if len(np.unique(folds)) < 2:
        return {}
    n_features = lists.features.shape[1]
    matrices = {
        name: np.eye(n_features)[:, [2 * at, 2 * at + 1]] for at, name in enumerate(members)
    }
    matrices |= {"equal": np.ones((n_features, 1)), "combined": np.eye(n_features)}
    found = {}
    for name, matrix in matrices.items():
        part, total = lists.combine(matrix), 0.0
        for fold in np.unique(folds):
            weights = part.select(folds != fold).fit_weights(shrinkage=shrinkage)
            held_out = part.select(folds == fold)
            total += float(held_out.weights() @ held_out.log_likelihood(weights)[0])
        found[name] = total / lists.n_targets
    return found
