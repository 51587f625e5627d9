"""Ranking metrics of each user: AUC, HR@k, MRR@k and NDCG@k.

First step of the evaluation (paper, section "Experiments"). Rows are grouped by explicit keys,
never by their position in a table, so that a missing row cannot shift the users after it.

**Ties.** Every value is the expectation over all orders in which equal scores may stand. A
constant score therefore earns chance: AUC 1/2, HR@5 of 5/21 against 20 negatives.

**Several positives.** AUC is the share of (positive, negative) pairs in the right order, HR@k
whether any positive is among the first k, MRR@k the inverse rank of the first positive (0 beyond
k), NDCG@k the discounted gain over the best that is possible.

**One class.** A group without a positive or without a negative has no defined value: NaN in every
metric. The evaluator counts such groups and leaves them out of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.tables import RANKS, conform

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

KEYS: Final = ("fold", "negatives", "user_id")
KS: Final = (1, 3, 5, 10, 20)
ROW: Final = ("fold", "negatives", "user_id", "item_id")


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """Names of all metrics for the cut-offs, in the order of the tables.

    >>> metric_names([5])
    ['auc', 'hr@5', 'mrr@5', 'ndcg@5', 'ties']
    """
    ranked = [f"{name}@{k}" for name in ("hr", "mrr", "ndcg") for k in ks]
    return ["auc", *ranked, "ties"]


def metrics_from_counts(
    n_better: npt.ArrayLike,
    n_tied: npt.ArrayLike,
    *,
    n_negatives: npt.ArrayLike,
    ks: Sequence[int] = KS,
) -> dict[str, Floats]:
    """Metrics of users with one positive each, from where that positive stands.

    Args:
        n_better: Negatives that score higher, one count per user.
        n_tied: Negatives that score the same.
        n_negatives: All negatives.
        ks: Cut-offs.

    Returns:
        One array of shape [n_users] in [0, 1] for each of `metric_names(ks)`; NaN for users
        without a negative. `ties` is 1 where the positive ties with a negative.

    Raises:
        DataError: A count is negative, or more negatives are better or tied than there are.

    >>> values = metrics_from_counts([0, 2], [0, 1], n_negatives=[20, 20], ks=[3])
    >>> values["auc"].tolist(), values["hr@3"].tolist()
    ([1.0, 0.875], [1.0, 0.5])
    """
    better, tied, total = np.broadcast_arrays(
        *(np.asarray(counts, dtype=np.int64) for counts in (n_better, n_tied, n_negatives))
    )
    wrong = np.flatnonzero((better < 0) | (tied < 0) | (better + tied > total))
    if wrong.size:
        at = wrong[0]
        raise DataError(
            needed="counts with 0 <= better + tied <= negatives",
            received=f"better {better[at]}, tied {tied[at]}, negatives {total[at]} at row {at}",
            remedy="count only negatives, the positive itself not",
        )
    group_size = tied + 1
    ones = np.ones_like(better)
    values = first_hit_metrics(better, group_size, n_positives=ones, ks=ks)
    gains = {k: _gain(better, group_size, k=k) / group_size for k in ks}
    values |= {f"ndcg@{k}": gain for k, gain in gains.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        values["auc"] = (total - better - 0.5 * tied) / total
    values["ties"] = (tied > 0).astype(np.float64)
    undefined = total == 0
    return {name: np.where(undefined, np.nan, values[name]) for name in metric_names(ks)}


def first_hit_metrics(
    n_before: Counts, group_size: Counts, *, n_positives: Counts, ks: Sequence[int]
) -> dict[str, Floats]:
    """HR@k and MRR@k, which depend only on the first group of equal scores with a positive.

    Args:
        n_before: Rows that score higher than that group, shape [n_users].
        group_size: Rows in the group.
        n_positives: Positives in the group, at least 1.
        ks: Cut-offs.

    Returns:
        Arrays `hr@k` and `mrr@k` of shape [n_users].
    """
    hits = {k: np.zeros(n_before.shape) for k in ks}
    reciprocals = {k: np.zeros(n_before.shape) for k in ks}
    # Probability that the first positive is the group's j-th row, for j = 1, 2, ...
    probability = n_positives / group_size
    for j in range(1, max(ks, default=0) + 1):
        rank = n_before + j
        for k in ks:
            counted = np.where(rank <= k, probability, 0.0)
            hits[k] += counted
            reciprocals[k] += counted / rank
        rest = group_size - j
        still = np.maximum(rest - n_positives + 1, 0) / np.maximum(rest, 1)
        probability = np.where(rest > 0, probability * still, 0.0)
    return {f"hr@{k}": hits[k] for k in ks} | {f"mrr@{k}": reciprocals[k] for k in ks}


def metrics_from_scores(
    scores: pl.DataFrame, *, model: str = "scores", ks: Sequence[int] = KS
) -> pl.DataFrame:
    """Metrics of each group of a score table, with any number of positives.

    Args:
        scores: Columns of `tables.SCORES`.
        model: What the table's model is called in messages.
        ks: Cut-offs.

    Returns:
        One row per (fold, negatives, user_id), sorted by these, with `n_positives`,
        `n_negatives` and one float column for each of `metric_names(ks)`.

    Raises:
        DataError: A score is missing, NaN or infinite, or a label is neither 0 nor 1.
    """
    check_scores(scores, model=model)
    users = scores.select(KEYS).unique().sort(KEYS).with_row_index("user")
    ties = _tie_groups(scores.join(users, on=KEYS))
    ties = ties.with_columns(_pairs(), *_gains(ties, ks))
    defined = (pl.col("n_positives") > 0) & (pl.col("n_negatives") > 0)
    tied = (pl.col("positives") > 0) & (pl.col("positives") < pl.col("size"))
    sums = ties.group_by("user").agg(
        pl.col("n_positives", "n_negatives").first(),
        pl.col("right_pairs").sum(),
        tied.any().cast(pl.Float64).alias("ties"),
        *(pl.col(f"gain@{k}").sum() for k in ks),
    )
    first = ties.filter((pl.col("positives") > 0) & (pl.col("positives_before") == 0))
    hits = first_hit_metrics(
        first["before"].to_numpy(),
        first["size"].to_numpy(),
        n_positives=first["positives"].to_numpy(),
        ks=ks,
    )
    first = first.select("user", *(pl.Series(name, value) for name, value in hits.items()))
    wide = users.join(sums, on="user", how="left", maintain_order="left")
    wide = wide.join(first, on="user", how="left", maintain_order="left")
    ideal = np.cumsum(_discounts(max(ks, default=0)))
    best = {k: ideal[np.clip(wide["n_positives"].to_numpy(), 1, k) - 1] for k in ks}
    return (
        wide.with_columns(
            auc=pl.col("right_pairs") / (pl.col("n_positives") * pl.col("n_negatives")),
            **{f"ndcg@{k}": pl.col(f"gain@{k}") / pl.Series(best[k]) for k in ks},
        )
        .with_columns(
            pl.when(defined).then(pl.col(name)).otherwise(float("nan")) for name in metric_names(ks)
        )
        .select(*KEYS, "n_positives", "n_negatives", *metric_names(ks))
    )


def metrics_from_ranks(
    ranks: pl.DataFrame, *, model: str = "ranks", ks: Sequence[int] = KS
) -> pl.DataFrame:
    """The same table as `metrics_from_scores`, from `tables.RANKS` (one positive per user).

    Raises:
        DataError: Counts that cannot be, or two rows of one user.
    """
    ranks = conform(ranks, RANKS, name=f"ranks of {model}")
    twice = ranks.filter(ranks.select(KEYS).is_duplicated())
    if twice.height:
        raise DataError(
            needed=f"one row for each fold, negatives and user in the ranks of {model!r}",
            received=f"{twice.height} rows of groups that occur twice, such as {twice.row(0)}",
            remedy="keep one of them",
        )
    counts = (ranks[name].to_numpy() for name in ("n_better", "n_tied"))
    values = metrics_from_counts(*counts, n_negatives=ranks["n_negatives"].to_numpy(), ks=ks)
    return ranks.select(
        *KEYS,
        pl.lit(1, dtype=pl.Int64).alias("n_positives"),
        "n_negatives",
        *(pl.Series(name, value) for name, value in values.items()),
    ).sort(KEYS)


def rank_counts(scores: pl.DataFrame, *, model: str = "scores") -> pl.DataFrame:
    """Reduce a score table with one positive per group to `tables.RANKS`.

    Rankings of the whole catalogue are scored in blocks of users and kept in this form, so that
    no table of users times items is stored.

    Raises:
        DataError: Unusable scores, or a group whose number of positives is not one.
    """
    check_scores(scores, model=model)
    grouped = scores.with_columns(
        target=pl.col("score").filter(pl.col("label") == 1).first().over(KEYS)
    )
    counts = grouped.group_by(KEYS).agg(
        positives=pl.col("label").sum(),
        n_better=(pl.col("score") > pl.col("target")).sum(),
        n_tied=((pl.col("score") == pl.col("target")) & (pl.col("label") == 0)).sum(),
        n_negatives=(pl.col("label") == 0).sum(),
    )
    wrong = counts.filter(pl.col("positives") != 1)
    if wrong.height:
        raise DataError(
            needed=f"exactly one positive in each group of the scores of {model!r}",
            received=f"{wrong.height} groups with another number, such as {wrong.row(0)[:4]}",
            remedy="use metrics_from_scores, which takes any number",
        )
    return conform(counts, RANKS, name="ranks").sort(KEYS)


def chance(n_negatives: npt.ArrayLike, *, ks: Sequence[int] = KS) -> Mapping[str, float]:
    """What random order earns on average, with one positive per user.

    Args:
        n_negatives: Number of negatives of each user.
        ks: Cut-offs.

    >>> round(chance([20], ks=[5])["hr@5"], 3)
    0.238
    """
    counts = np.atleast_1d(np.asarray(n_negatives, dtype=np.int64))
    values = metrics_from_counts(np.zeros_like(counts), counts, n_negatives=counts, ks=ks)
    return {name: float(np.nanmean(value)) for name, value in values.items() if name != "ties"}


def check_scores(scores: pl.DataFrame, *, model: str) -> None:
    """Refuse scores and labels that no ranking can be made of.

    Raises:
        DataError: A score is missing, NaN or infinite, or a label is neither 0 nor 1; the
            message names the model and the first such rows.
    """
    finite = pl.col("score").is_finite().fill_null(value=False)
    bad = scores.filter(~finite)
    if bad.height:
        rows = "; ".join(str(row) for row in bad.head(3).iter_rows())
        raise DataError(
            needed=f"finite scores of the model {model!r}",
            received=f"{bad.height} of {scores.height} that are missing, NaN or infinite ({rows})",
            remedy="mend the model or give these rows a score that it stands for",
        )
    strange = scores.filter(~pl.col("label").is_in([0, 1]) | pl.col("label").is_null())
    if strange.height:
        raise DataError(
            needed=f"labels 0 or 1 in the scores of {model!r}",
            received=f"{strange.height} others, such as {strange['label'][0]}",
            remedy="mark the true next item with 1 and every negative with 0",
        )


def refuse_duplicates(scores: pl.DataFrame, *, model: str) -> None:
    """Refuse a table in which a candidate stands twice.

    Raises:
        DataError: It does; the message counts such rows and shows the first.
    """
    rows = scores.select(ROW)
    twice = rows.filter(rows.is_duplicated())
    if twice.height:
        example = dict(zip(ROW, twice.sort(ROW).row(0), strict=True))
        raise DataError(
            needed=f"each (fold, negatives, user_id, item_id) once in the scores of {model!r}",
            received=f"{twice.height} duplicate rows, such as {example}",
            remedy="keep one score for each",
        )


def pooled_auc(scores: pl.DataFrame) -> dict[str, float]:
    """AUC over all rows of a fold at once, as the code released with the paper computes it.

    It also rewards scores that are comparable between users, and is therefore another question
    than the mean of the users' AUCs. Ties count half.

    Args:
        scores: Columns of `tables.SCORES`, finite.

    Returns:
        `{negatives: AUC}`, the mean over folds; kinds without both classes in every fold are
        absent.
    """
    ranked = scores.with_columns(place=pl.col("score").rank("average").over("fold", "negatives"))
    folds = ranked.group_by("fold", "negatives").agg(
        n=pl.len(), positives=pl.col("label").sum().cast(pl.Int64),
        places=pl.col("place").filter(pl.col("label") == 1).sort().sum(),
    )  # fmt: skip
    positives = pl.col("positives")
    pairs = positives * (pl.col("n") - positives)
    auc = (pl.col("places") - positives * (positives + 1) / 2) / pairs
    means = (
        folds.sort("fold").group_by("negatives", maintain_order=True).agg(auc.mean().alias("auc"))
    )
    return {kind: value for kind, value in sorted(means.iter_rows()) if np.isfinite(value)}


def _tie_groups(scores: pl.DataFrame) -> pl.DataFrame:
    """One row for each user (an integer) and score, best first, with counts before and in all."""
    return (
        scores.group_by("user", "score")
        .agg(pl.len().cast(pl.Int64).alias("size"), pl.col("label").sum().cast(pl.Int64))
        .rename({"label": "positives"})
        .sort("user", "score", descending=[False, True])
        .with_columns(
            before=pl.col("size").cum_sum().over("user") - pl.col("size"),
            total=pl.col("size").sum().over("user"),
            n_positives=pl.col("positives").sum().over("user"),
            positives_before=pl.col("positives").cum_sum().over("user") - pl.col("positives"),
        )
        .with_columns(n_negatives=pl.col("total") - pl.col("n_positives"))
    )


def _discounts(k: int) -> Floats:
    return 1.0 / np.log2(np.arange(k, dtype=np.float64) + 2.0)


def _gain(before: Counts, size: Counts, *, k: int) -> Floats:
    """Sum of discounts over a group's ranks up to k."""
    cumulated = np.concatenate([[0.0], np.cumsum(_discounts(k))])
    last = cumulated[np.minimum(before + size, k)]
    first = cumulated[np.minimum(before, k)]
    return np.asarray(last - first)


def _gains(ties: pl.DataFrame, ks: Sequence[int]) -> list[pl.Series]:
    before, size = ties["before"].to_numpy(), ties["size"].to_numpy()
    density = ties["positives"].to_numpy() / size
    return [pl.Series(f"gain@{k}", density * _gain(before, size, k=k)) for k in ks]


def _pairs() -> pl.Expr:
    """Pairs of a group's positives with negatives in the right order, equal ones half."""
    negatives = pl.col("size") - pl.col("positives")
    above = pl.col("before") - pl.col("positives_before")
    below = pl.col("n_negatives") - above - negatives
    return (pl.col("positives") * (below + 0.5 * negatives)).alias("right_pairs")
