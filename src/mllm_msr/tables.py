"""Schemas of the tables that stages exchange.

Stages take and return Polars data frames with these columns; on disk they are Parquet files.
Identifiers are strings in every table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

import polars as pl
from polars import selectors as cs

from mllm_msr.errors import DataError, UsageError, first_line

Schema = Mapping[str, pl.DataType]


@runtime_checkable
class ArrowTable(Protocol):
    """Table of another library that Polars can read, such as a pandas frame."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the table as a stream of Arrow data."""


# Tables that Python code may pass.
Frame = pl.DataFrame | pl.LazyFrame | ArrowTable


def _schema(**columns: pl.DataType) -> Schema:
    return MappingProxyType(columns)


# One row per interaction that filtering keeps. position: 0, 1, ... within a user, oldest first.
# timestamp: milliseconds since 1970, or 0, 1, ... if the source only has an order.
INTERACTIONS: Final = _schema(
    user_id=pl.String(), item_id=pl.String(), timestamp=pl.Int64(), position=pl.Int32()
)

# One row per item. image: a path, absolute or relative to the run folder; null if there is none.
ITEMS: Final = _schema(item_id=pl.String(), title=pl.String(), text=pl.String(), image=pl.String())

# Column that ITEMS has in addition if an item has several images. more_images: the paths of the
# second and further images in their order; null if there are none.
MORE_IMAGES: Final = _schema(more_images=pl.List(pl.String()))

# All columns with images, of which a table of items has one or both.
IMAGE_COLUMNS: Final = cs.by_name("image", *MORE_IMAGES, require_all=False)

# One row per candidate item of a user. split: train | validation | test. negatives: how the rows
# with label 0 were sampled, uniform | popularity. position: position of the target; the history
# consists of the user's earlier positions.
CANDIDATES: Final = _schema(
    fold=pl.Int32(),
    split=pl.String(),
    negatives=pl.String(),
    user_id=pl.String(),
    position=pl.Int32(),
    item_id=pl.String(),
    label=pl.Int8(),
)

# One row per item. text_summary, image_summary: null if the item lacks the modality. image_status:
# ok | missing | unreadable | unused (images are not a modality of the run). flags: comma-separated
# (text_cut, image_failed, ...), empty if there are none.
SUMMARIES: Final = _schema(
    item_id=pl.String(),
    text_summary=pl.String(),
    image_summary=pl.String(),
    summary=pl.String(),
    image_status=pl.String(),
    flags=pl.String(),
)

# One row per user and block: the preference after each block of the history. n_items: number of
# interactions read so far, so the row is valid for targets at positions >= n_items. final: whether
# this is the user's last block. flags: as in SUMMARIES.
PREFERENCES: Final = _schema(
    user_id=pl.String(),
    block=pl.Int32(),
    n_items=pl.Int32(),
    preference=pl.String(),
    final=pl.Boolean(),
    flags=pl.String(),
)

# A model's scores of candidates, higher is better: P(yes) in [0, 1] for MLLM recommenders, any
# monotone scale for baselines; null if a model could not score the candidate.
SCORES: Final = _schema(
    fold=pl.Int32(),
    negatives=pl.String(),
    user_id=pl.String(),
    item_id=pl.String(),
    label=pl.Int8(),
    score=pl.Float64(),
)

# The rank of a user's positive without the scores: how many negatives score higher, how many the
# same, and how many there are. Used for rankings of the full catalog.
RANKS: Final = _schema(
    fold=pl.Int32(),
    negatives=pl.String(),
    user_id=pl.String(),
    n_better=pl.Int64(),
    n_tied=pl.Int64(),
    n_negatives=pl.Int64(),
)

# The head of a ranking of the full catalog without the items of the user's history. rank: 1, 2,
# ..., highest score first.
TOP: Final = _schema(
    fold=pl.Int32(), user_id=pl.String(), rank=pl.Int32(), item_id=pl.String(), score=pl.Float64()
)

# One row per fold: parameters of `ranker.calibration.Calibration`, fitted on validation users.
CALIBRATION: Final = _schema(fold=pl.Int32(), temperature=pl.Float64(), bias=pl.Float64())

# One row per training user, position and new item: what the student learns from the MLLM.
# score: calibrated P(yes), null if the teacher could not score the item.
TEACHER: Final = _schema(
    user_id=pl.String(), position=pl.Int32(), item_id=pl.String(), score=pl.Float64()
)

# One row per test user, independent of any model. item_id: the true next item. n_history: number
# of interactions before it. n_target: how often it occurs in the visible data of the fold.
# percentile: its popularity, as the share of the catalog that occurs less often, ties counted
# half, in (0, 1). history_percentile: mean over the history, null if the history is empty.
TARGET_PROFILES: Final = _schema(
    fold=pl.Int32(),
    user_id=pl.String(),
    item_id=pl.String(),
    n_history=pl.Int32(),
    n_target=pl.Int64(),
    percentile=pl.Float64(),
    history_percentile=pl.Float64(),
)

# One row per model, negatives, fold, user and metric. Models with several seeds have one row per
# seed; their model is "name@seed".
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
        "calibration": CALIBRATION,
        "teacher": TEACHER,
        "target_profiles": TARGET_PROFILES,
        "metrics_per_user": METRICS_PER_USER,
    }
)


def as_frame(table: object, *, name: str) -> pl.DataFrame:
    """Return a table from Python code as a data frame.

    Args:
        table: A data frame or lazy frame of Polars, or a table of another library that offers
            Arrow data, such as a pandas frame.
        name: Name of the table in error messages.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if isinstance(table, ArrowTable):
        return pl.DataFrame(table)
    raise UsageError(
        f"The table {name!r} is of type {type(table).__name__}. Pass a frame of Polars or pandas."
    )


def to_pandas(frame: pl.DataFrame) -> Any:
    """Return a data frame as a pandas frame.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        return frame.to_pandas()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The package {error.name or 'pandas'} is not installed. Install it, or use "
            "to_polars()."
        ) from error


def conform(frame: Frame, schema: Schema, *, name: str) -> pl.DataFrame:
    """Select the columns of a schema from a data frame and cast them to its types.

    Args:
        frame: A frame of Polars or pandas with at least the columns of the schema.
        schema: One of the schemas of this module.
        name: Name of the table in error messages.

    Returns:
        The data frame with exactly the columns of the schema, in its order; with `ITEMS`, also
        those of `MORE_IMAGES` if the data frame has them.

    Raises:
        UsageError: It is not a frame.
        DataError: A column is missing, or a value cannot be cast to the type of its column.
    """
    frame = as_frame(frame, name=name)
    if schema is ITEMS and not MORE_IMAGES.keys().isdisjoint(frame.columns):
        schema = {**ITEMS, **MORE_IMAGES}
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise DataError(
            f"The table {name!r} lacks columns: {', '.join(missing)}. It has these columns: "
            f"{', '.join(frame.columns) or 'none'}. Add the missing ones."
        )
    try:
        return frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        types = ", ".join(f"{column} {dtype}" for column, dtype in schema.items())
        raise DataError(
            f"A column of the table {name!r} has the wrong type: {first_line(error)}. "
            f"Convert the columns to these types: {types}."
        ) from error


def history_frame(user_id: str, item_ids: Sequence[str]) -> pl.DataFrame:
    """Return a history, oldest first, as `INTERACTIONS` with the positions as timestamps."""
    numbers = range(len(item_ids))
    columns = {"user_id": [user_id] * len(numbers), "item_id": list(item_ids)}
    return pl.DataFrame(
        {**columns, "timestamp": numbers, "position": numbers}, schema=dict(INTERACTIONS)
    )


def empty(schema: Schema) -> pl.DataFrame:
    """Return a data frame of a schema without rows."""
    return pl.DataFrame(schema=dict(schema))
