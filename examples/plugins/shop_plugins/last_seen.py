"""A baseline that remembers which items occur together with the latest one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, final

import polars as pl

from mllm_msr.errors import DamagedFileError
from mllm_msr.interfaces import Recommender, TrainingData

_FILE = "pairs.parquet"


@final
class LastSeen(Recommender):
    """Number of users who interacted with the candidate and the latest item of the history.

    Args:
        seed: Every baseline has a seed; this one is deterministic.
    """

    label: ClassVar[str] = "Last seen"

    def __init__(self, *, seed: int = 0) -> None:
        del seed
        self._pairs = pl.DataFrame(
            schema={"last": pl.String, "item_id": pl.String, "n": pl.Float64}
        )

    def fit(self, data: TrainingData) -> Self:
        """Count the users of each pair of items."""
        rows = data.interactions.select("user_id", "item_id")
        pairs = rows.rename({"item_id": "last"}).join(rows, on="user_id")
        self._pairs = pairs.group_by("last", "item_id").agg(n=pl.len().cast(pl.Float64))
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Look up each candidate beside the latest item before it; unknown pairs get 0."""
        rows = candidates.select("user_id", "position", "item_id").with_row_index()
        before = rows.join(
            interactions.select("user_id", last="item_id", at="position"), on="user_id"
        ).filter(pl.col("at") < pl.col("position"))
        last = before.sort("at").group_by("index").agg(pl.col("last").last())
        found = rows.join(last, on="index", how="left").join(
            self._pairs, on=["last", "item_id"], how="left"
        )
        return candidates.with_columns(score=found.sort("index")["n"].fill_null(0.0))

    def save(self, folder: Path) -> None:
        """Write the counts."""
        folder.mkdir(parents=True, exist_ok=True)
        self._pairs.write_parquet(folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the counts.

        Raises:
            DamagedFileError: The file is missing or unreadable.
        """
        model = cls()
        try:
            model._pairs = pl.read_parquet(folder / _FILE)
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise DamagedFileError(f"Cannot read {folder / _FILE}: {cause}") from cause
        return model
