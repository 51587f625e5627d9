"""Training candidates of the ranker: a budget of targets per user, and negatives of both kinds.

The stage "prepare" draws one set of training candidates for all models. The ranker may select fewer
of its targets and draw other negatives for them (`train.*`), so that runs with different training
data share the same prepared data and test candidates. Everything comes from the training data of
the fold; a negative never occurs in its user's history.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.data.hashing import hash_ids, mix, to_unit_interval
from mllm_msr.data.id_encoding import UserSequences, encode_interactions
from mllm_msr.data.negative_sampling import NegativeSampler
from mllm_msr.tables import CANDIDATES, conform

# Kind of the negatives in the table if a target has negatives of both kinds.
MIXED: Final = "mixed"


def select_candidates(
    candidates: pl.DataFrame, interactions: pl.DataFrame, settings: TrainSettings
) -> pl.DataFrame:
    """Return the training candidates that the settings select.

    Args:
        candidates: Training rows of `tables.CANDIDATES`.
        interactions: `tables.INTERACTIONS` that the model may learn from.
        settings: The section `train`.

    Returns:
        `tables.CANDIDATES`: `candidates` itself unless settings differ from their defaults.

    Raises:
        DataError: Too few items are new to a user.
    """
    if settings.targets_per_user is not None or settings.max_targets is not None:
        targets = select_targets(candidates.filter(pl.col("label") == 1), settings)
        key = ["user_id", "position"]
        candidates = candidates.join(targets, on=key, how="semi", maintain_order="left")
    if settings.negatives_per_positive is None or candidates.is_empty():
        return candidates
    return draw_training_candidates(
        candidates.filter(pl.col("label") == 1),
        interactions,
        n_negatives=settings.negatives_per_positive,
        popularity=settings.popularity_negatives,
        seed=settings.seed,
    )


def with_input(
    rows: pl.DataFrame, settings: RecommendSettings, preferences: pl.DataFrame | None
) -> pl.DataFrame:
    """Return the rows before whose target something is known about the user.

    With `infer.max_items`, the early part of a long history has no preference.

    Args:
        rows: Rows of `tables.CANDIDATES`.
        settings: The section `recommend`.
        preferences: `tables.PREFERENCES`, if the prompts contain them.
    """
    if settings.reads_history or preferences is None:
        return rows.filter(pl.col("position") > 0)
    first = preferences.group_by("user_id").agg(first=pl.col("n_items").min())
    known = rows.join(first, on="user_id", how="left", maintain_order="left")
    return known.filter(pl.col("position") >= pl.col("first")).select(rows.columns)


def select_targets(targets: pl.DataFrame, settings: TrainSettings) -> pl.DataFrame:
    """Return a part of the targets, in the order given.

    A user's targets are spread evenly over the history and include the last one.

    Args:
        targets: Columns `user_id` and `position`.
        settings: The section `train`.
    """
    if settings.targets_per_user is not None:
        size = pl.len().cast(pl.Int64).over("user_id")
        latest_first = pl.col("position").rank("ordinal", descending=True).over("user_id")
        rank = latest_first.cast(pl.Int64) - 1
        # The first target of each of k equal parts of the history is kept, from its end.
        n_parts = pl.min_horizontal(pl.lit(settings.targets_per_user), size).cast(pl.Int64)
        targets = targets.filter(rank * n_parts // size > (rank - 1) * n_parts // size)
    if settings.max_targets is not None and targets.height > settings.max_targets:
        hashes = hash_ids(targets["user_id"], settings.seed, purpose="training targets")
        order = np.argsort(mix(hashes, targets["position"].to_numpy()), kind="stable")
        targets = targets[np.sort(order[: settings.max_targets])]
    return targets


def draw_training_candidates(
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    n_negatives: int,
    popularity: float,
    seed: int,
) -> pl.DataFrame:
    """Draw the negatives of training targets, distinct within a target.

    Args:
        targets: Rows of `tables.CANDIDATES` with label 1; each is an interaction of its user.
        interactions: `tables.INTERACTIONS` that the model may learn from. Negatives are items of
            them, and popularity counts them.
        n_negatives: Negatives per target.
        popularity: Expected share of the negatives drawn in proportion to popularity, in [0, 1].
        seed: Seed of all draws.

    Returns:
        `tables.CANDIDATES` with the rows of a target together, in a random order.

    Raises:
        DataError: Too few items are new to a user.
    """
    sequences = encode_interactions(interactions)
    known = pl.DataFrame(
        {
            "user_id": sequences.users.gather(sequences.user_codes),
            "position": sequences.positions,
        }
    ).with_row_index("row")
    keys = targets.select("user_id", pl.col("position").cast(known.schema["position"]))
    found = known.join(keys, on=["user_id", "position"], how="semi", maintain_order="left")
    rows = found["row"].to_numpy().astype(np.int64)
    drawn = _draw_kinds(sequences, rows, n_negatives=n_negatives, seed=seed)
    # Stochastic rounding, so that the share also holds for a single negative per target.
    streams = mix(
        hash_ids(sequences.users, seed, purpose="training negatives")[sequences.user_codes[rows]],
        sequences.positions[rows],
    )
    n_popular = np.floor(n_negatives * popularity + to_unit_interval(streams)).astype(np.int64)
    positives = sequences.item_columns[rows, None]
    chosen = np.concatenate([positives, _merge(drawn, n_popular)], axis=1)
    chosen = np.take_along_axis(chosen, np.argsort(mix(~streams[:, None], chosen)), axis=1)
    width = chosen.shape[1]
    fold = targets["fold"][0] if targets.height else 0
    table = pl.DataFrame(
        {
            "user_id": found["user_id"].gather(np.repeat(np.arange(len(rows)), width)),
            "position": np.repeat(found["position"].to_numpy(), width),
            "item_id": sequences.items.gather(chosen.ravel()),
            "label": (chosen == positives).ravel().astype(np.int8),
        }
    ).with_columns(fold=pl.lit(fold), split=pl.lit("train"), negatives=pl.lit(MIXED))
    return conform(table, CANDIDATES, name="candidates")


def _draw_kinds(
    sequences: UserSequences, rows: npt.NDArray[np.int64], *, n_negatives: int, seed: int
) -> dict[str, npt.NDArray[np.int32]]:
    """Return negatives of each kind for some rows: [rows, negatives]."""
    counts = np.bincount(sequences.item_columns, minlength=len(sequences.items))
    drawn: dict[str, npt.NDArray[np.int32]] = {}
    for kind, weights in {"uniform": None, "popularity": counts}.items():
        sampler = NegativeSampler.from_sequences(
            sequences, seed=seed, purpose=f"training negatives {kind}"
        )
        items = sampler.draw(rows, n_negatives=n_negatives, weights=weights)
        is_negative = items != sequences.item_columns[rows, None]
        drawn[kind] = items[is_negative].reshape(-1, n_negatives)
    return drawn


def _merge(
    drawn: dict[str, npt.NDArray[np.int32]], n_popular: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Return the first popular items of each row, filled up with uniform ones that differ.

    Args:
        drawn: Distinct items by kind: [targets, negatives] each.
        n_popular: Popular items of each row: [targets].
    """
    uniform, popular = drawn["uniform"], drawn["popularity"]
    n_negatives = uniform.shape[1]
    is_popular = np.arange(n_negatives) < n_popular[:, None]
    repeated = ((uniform[:, :, None] == popular[:, None, :]) & is_popular[:, None, :]).any(axis=2)
    both = np.concatenate([popular, uniform], axis=1)
    usable = np.concatenate([is_popular, ~repeated], axis=1)
    # At most n_popular uniform items repeat a popular one, so each row has enough.
    taken = usable & (np.cumsum(usable, axis=1) <= n_negatives)
    merged: npt.NDArray[np.int32] = both[taken].reshape(-1, n_negatives)
    return merged
