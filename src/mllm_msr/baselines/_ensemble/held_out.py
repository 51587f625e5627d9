"""Held-out targets: interactions that the members of an ensemble have not learned from.

The weights of an ensemble need many targets, and scores of models that have not learned from them:
a model that has seen a target trusts itself too much there. The last visible interactions of some
users are therefore hidden, copies of the members are fitted without them, and these copies score
them among sampled negatives. This is the protocol of the test, a few interactions earlier.

A copy of a fine-tuned language model is too expensive, and not needed: it learns only from the
candidates of training users, so the earlier interactions of all other users are new to it
(`LearnsFromCandidates`). Because its calls are slow, it scores only some of these targets.

Validation users are left out, because members select their weights on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

import polars as pl

from mllm_msr.data.hashing import hash_ids
from mllm_msr.data.negative_sampling import Negatives, draw_candidates
from mllm_msr.interfaces import TrainingData

# Held-out targets at most, and negatives per target and kind; and how many of them a language model
# scores.
MAX_TARGETS: Final = 2000
MAX_TARGETS_LLM: Final = 400
N_NEGATIVES: Final = 20
N_NEGATIVES_LLM: Final = 5
# Hide at most this share of a user's interactions, except that one target may always be hidden.
_MAX_SHARE: Final = 0.2
_MAX_PER_USER: Final = 5
# Copies learn from half of the training users completely, so that they remain similar to members.
_TRAINING_SHARE: Final = 0.5
_KINDS: Final[tuple[Negatives, ...]] = ("uniform", "popularity")


@runtime_checkable
class LearnsFromCandidates(Protocol):
    """A recommender that learns only from the candidates of training users.

    All others may learn from every row of `TrainingData.interactions`, so that their copies have to
    be fitted without the held-out targets.
    """

    def complete_histories(self, targets: pl.DataFrame) -> pl.DataFrame:
        """Return the targets before which the fitted model reads the user's whole history.

        Args:
            targets: Columns `user_id` and `position`.
        """


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Targets that copies of the members have not learned from.

    Attributes:
        data: The training data without the targets and everything after them.
        candidates: `tables.CANDIDATES` of the targets.
        read: Those candidates that language models score: of targets outside the training fold
            before which they read the whole history. Empty without such models.
    """

    data: TrainingData
    candidates: pl.DataFrame
    read: pl.DataFrame


def hold_out(
    data: TrainingData,
    readers: Sequence[LearnsFromCandidates] = (),
    *,
    max_targets: int = MAX_TARGETS,
    max_read: int = MAX_TARGETS_LLM,
    n_negatives: int = N_NEGATIVES,
    n_read_negatives: int = N_NEGATIVES_LLM,
    seed: int = 0,
) -> HeldOut | None:
    """Hide some visible interactions and sample negatives for them.

    Args:
        data: Training data of the ensemble.
        readers: Members that are not fitted again. All of them read the whole history before the
            targets of users outside the training fold.
        max_targets: Maximum number of targets. Users get a second one, and so on up to five, if
            there are fewer users.
        max_read: Maximum number of the targets that readers score.
        n_negatives: Negatives per target and kind, fewer if the catalog is small.
        n_read_negatives: The same for readers, at most as many.
        seed: Seed of the selection of users and of the negatives.

    Returns:
        None if there is no such target, or none for the readers.
    """
    targets = _select(data, readers, max_targets=max_targets, seed=seed)
    outside = targets.filter(~pl.col("user_id").is_in(list(data.train_users)))
    if targets.is_empty() or (readers and (outside.is_empty() or not max_read)):
        return None
    first = targets.group_by("user_id").agg(first=pl.col("position").min())
    hidden = pl.col("position") >= pl.col("first").fill_null(2**31 - 1)
    kept, candidates = (
        frame.join(first, on="user_id", how="left", maintain_order="left")
        .filter(~hidden)
        .drop("first")
        for frame in (data.interactions, data.candidates)
    )
    longest = int(data.interactions.group_by("user_id").len()["len"].max() or 0)  # type: ignore[arg-type]
    n_new = kept["item_id"].n_unique() - longest
    if n_new < 1:
        return None
    lists = pl.concat(_draw(data, targets, kept, n_negatives=min(n_negatives, n_new), seed=seed))
    read = _thin(lists, outside.head(max_read if readers else 0), n_read_negatives, seed=seed)
    held = replace(
        data,
        interactions=kept,
        candidates=candidates,
        train_users=data.train_users - frozenset(targets["user_id"]),
    )
    return HeldOut(held, lists, read)


def validation_candidates(data: TrainingData) -> pl.DataFrame:
    """Return the candidates of validation users whose target is hidden from the members."""
    rows = data.candidates.filter(pl.col("split") == "validation")
    return rows.join(data.interactions, on=["user_id", "position"], how="anti")


def _select(
    data: TrainingData, readers: Sequence[LearnsFromCandidates], *, max_targets: int, seed: int
) -> pl.DataFrame:
    """Return the users and positions to hide, latest targets first."""
    validating = frozenset(validation_candidates(data)["user_id"])
    users = data.interactions["user_id"].unique().sort()
    order = hash_ids(users, seed, purpose="stacking")
    table = pl.DataFrame({"user_id": users, "order": order.argsort().argsort()})
    is_training = pl.col("user_id").is_in(list(data.train_users))
    table = table.filter(~pl.col("user_id").is_in(list(validating)))
    outside, training = table.filter(~is_training), table.filter(is_training).sort("order")
    training = training.head(int(training.height * _TRAINING_SHARE))
    visible = data.interactions.with_columns(n_visible=pl.len().over("user_id"))
    targets = visible.join(pl.concat([outside, training]), on="user_id").filter(
        pl.col("position") > 0
    )
    found = targets.select(
        "user_id", "position", "order", n_hidden=pl.col("n_visible") - pl.col("position"),
        n_visible="n_visible",
    )  # fmt: skip
    for reader in readers:
        known = reader.complete_histories(found.select("user_id", "position"))
        inside = found.join(training, on="user_id", how="semi")
        read = found.join(outside, on="user_id", how="semi")
        found = pl.concat([inside, read.join(known, on=["user_id", "position"], how="semi")])
    number = pl.col("position").rank("ordinal", descending=True).over("user_id")
    # A target hides itself and everything after it.
    n_hidden, n_visible = pl.col("n_hidden"), pl.col("n_visible")
    allowed = (number == 1) & (n_hidden < n_visible / 2)
    allowed |= (number <= _MAX_PER_USER) & (n_hidden <= n_visible * _MAX_SHARE)
    ranked = found.with_columns(number=number).filter(allowed).sort("number", "order")
    return ranked.head(max_targets).select("user_id", "position", "number")


def _thin(
    candidates: pl.DataFrame, targets: pl.DataFrame, n_negatives: int, *, seed: int
) -> pl.DataFrame:
    """Return the candidates of some targets, with fewer negatives of each kind."""
    rows = candidates.join(targets, on=["user_id", "position"], how="semi")
    order = hash_ids(rows["item_id"], seed, purpose="stacking-negatives")
    lists = ["user_id", "position", "negatives", "label"]
    number = pl.col("order").rank("ordinal").over(lists)
    return (
        rows.with_columns(order=pl.Series(order, dtype=pl.UInt64))
        .filter((pl.col("label") == 1) | (number <= n_negatives))
        .drop("order")
    )


def _draw(
    data: TrainingData, targets: pl.DataFrame, kept: pl.DataFrame, *, n_negatives: int, seed: int
) -> Iterator[pl.DataFrame]:
    """Yield the candidates of the first target of every user, then of the second, and so on."""
    known = data.candidates.filter(pl.col("split") == "validation")["negatives"].unique().to_list()
    kinds = tuple(kind for kind in _KINDS if kind in known) or _KINDS
    fold = next(iter(data.candidates["fold"]), 0)
    seen = data.interactions.select("user_id", "item_id", label=pl.lit(0, pl.Int8))
    for part in targets.partition_by("number", maintain_order=True):
        target = data.interactions.join(part, on=["user_id", "position"], how="semi")
        users = part.select("user_id")
        # The history may contain hidden targets that are earlier than this one.
        ends = part.select("user_id", end="position")
        before = data.interactions.join(ends, on="user_id").filter(
            pl.col("position") < pl.col("end")
        )
        others = kept.join(users, on="user_id", how="anti")
        rows = pl.concat([others, before.drop("end"), target])
        splits = (
            rows.select("user_id")
            .unique()
            .with_columns(
                fold=pl.lit(fold),
                split=pl.when(pl.col("user_id").is_in(users["user_id"].implode()))
                .then(pl.lit("test"))
                .otherwise(pl.lit("train")),
            )
        )
        drawn = draw_candidates(
            rows,
            splits,
            negatives=kinds,
            n_negatives=n_negatives,
            seed=seed,
        ).filter(pl.col("split") == "test")
        # What a user interacts with after the target is no negative.
        yield drawn.join(seen, on=["user_id", "item_id", "label"], how="anti")
