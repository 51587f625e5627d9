"""Columns and schemas of every table that passes between stages.

Stages take Polars frames with these columns and yield frames with these columns; on disk they
are Parquet. Identifiers are strings everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import polars as pl

from mllm_msr.errors import DataError

Schema = Mapping[str, pl.DataType]


def _schema(**columns: pl.DataType) -> Schema:
    return MappingProxyType(columns)


# One row per interaction kept after filtering; position counts 0, 1, ... within a user, oldest
# first. timestamp is in milliseconds since 1970 (0, 1, ... where the source only gives an order).
INTERACTIONS: Final = _schema(
    user_id=pl.String(), item_id=pl.String(), timestamp=pl.Int64(), position=pl.Int32()
)

# One row per item; image is a path (absolute, or relative to the run folder), null where none.
ITEMS: Final = _schema(item_id=pl.String(), title=pl.String(), text=pl.String(), image=pl.String())

# split: train | validation | test; negatives: how label-0 rows were drawn (uniform | popularity).
# position is the target's: the history that may be seen is every earlier position of the user.
CANDIDATES: Final = _schema(
    fold=pl.Int32(),
    split=pl.String(),
    negatives=pl.String(),
    user_id=pl.String(),
    position=pl.Int32(),
    item_id=pl.String(),
    label=pl.Int8(),
)

# text_summary and image_summary are null where that modality is missing. image_status: ok |
# missing | unreadable; flags: comma-separated remarks (truncated, fallback, ...), empty if none.
SUMMARIES: Final = _schema(
    item_id=pl.String(),
    text_summary=pl.String(),
    image_summary=pl.String(),
    summary=pl.String(),
    image_status=pl.String(),
    flags=pl.String(),
)

# The preference_history: the preference after each block; n_items counts the interactions read so far (so the
# row may be used for targets at positions >= n_items). final marks the user's last block.
PREFERENCES: Final = _schema(
    user_id=pl.String(),
    block=pl.Int32(),
    n_items=pl.Int32(),
    preference=pl.String(),
    final=pl.Boolean(),
    flags=pl.String(),
)

# A model's scores; any monotone scale for baselines, P(yes) in [0, 1] for MLLM recommenders.
SCORES: Final = _schema(
    fold=pl.Int32(),
    negatives=pl.String(),
    user_id=pl.String(),
    item_id=pl.String(),
    label=pl.Int8(),
    score=pl.Float64(),
)

# Where the one positive of a user stands, without the scores: how many negatives score higher,
# how many the same, and how many there are. The form of full-catalogue rankings.
RANKS: Final = _schema(
    fold=pl.Int32(),
    negatives=pl.String(),
    user_id=pl.String(),
    n_better=pl.Int64(),
    n_tied=pl.Int64(),
    n_negatives=pl.Int64(),
)

# The head of a full-catalogue ranking: rank counts from 1, higher scores first, items that the
# user had before left out.
TOP: Final = _schema(
    fold=pl.Int32(), user_id=pl.String(), rank=pl.Int32(), item_id=pl.String(), score=pl.Float64()
)

# What is known of each test user before anything is scored: the true next item, the number of
# interactions before it, how often the fold's visible data hold it (n_target), and its popularity
# percentile (share of the catalogue that was chosen less often, ties half, in (0, 1));
# history_percentile is the mean over the history, null without one.
CASES: Final = _schema(
    fold=pl.Int32(),
    user_id=pl.String(),
    item_id=pl.String(),
    n_history=pl.Int32(),
    n_target=pl.Int64(),
    percentile=pl.Float64(),
    history_percentile=pl.Float64(),
)

# Long form: one row per model, negatives, fold, user and metric; models that were run with
# several seeds have one row per seed, as "name@seed".
METRICS_PER_USER: Final = _schema(
    model=pl.String(),
    negatives=pl.String(),
    fold=pl.Int32(),
    user_id=pl.String(),
    metric=pl.String(),
    value=pl.Float64(),
)

SCHEMAS: Final[Mapping[str, Schema]] = MappingProxyType(
    {
        "interactions": INTERACTIONS,
        "items": ITEMS,
        "candidates": CANDIDATES,
        "summaries": SUMMARIES,
        "preferences": PREFERENCES,
        "scores": SCORES,
        "ranks": RANKS,
        "top": TOP,
        "cases": CASES,
        "metrics_per_user": METRICS_PER_USER,
    }
)


def conform(frame: pl.DataFrame, schema: Schema, *, name: str) -> pl.DataFrame:
    """Select and cast a frame's columns to a schema.

    Args:
        frame: A frame with at least the schema's columns.
        schema: One of this module's schemas.
        name: What the table is called in messages.

    Returns:
        The frame with exactly the schema's columns, in its order and types.

    Raises:
        DataError: A column is missing, or a value does not fit its type.
    """
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise DataError(
            needed=f"the columns {', '.join(schema)} in the table {name!r}",
            received=f"only {', '.join(frame.columns) or 'none'}",
            remedy=f"add {', '.join(missing)}",
        )
    try:
        return frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as cause:
        raise DataError(
            needed=f"values of the types {dict(schema)} in the table {name!r}",
            received=str(cause).splitlines()[0],
            remedy="convert the column before handing the table over",
        ) from cause


def empty(schema: Schema) -> pl.DataFrame:
    """An empty frame of a schema."""
    return pl.DataFrame(schema=dict(schema))
