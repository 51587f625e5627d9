"""A model that is known by its scores alone: how a hybrid holds parts that scored elsewhere.

The MLLM scores in a stage of its own, behind the response cache; here its table answers for it. Used
by `hybrid.py` only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self, final

import polars as pl

from mllm_msr.baselines._shared.state import damaged
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.storage.atomic import replace_file

_FILE: Final = "told.parquet"
_KEYS: Final = ("user_id", "item_id")


@final
class PrecomputedScores(Recommender):
    """Scores looked up by user and item.

    Args:
        scores: Columns `user_id`, `item_id` and `score`. A pair that stands in several lists may
            have several scores, where a question failed in one of them: their mean counts.
        model: Name of the model whose scores they are, for messages.
    """

    def __init__(self, scores: pl.DataFrame, *, model: str) -> None:
        self._scores = scores.group_by(_KEYS).agg(pl.col("score").mean()).sort(_KEYS)
        self._model = model

    def fit(self, data: TrainingData) -> Self:
        """Nothing is left to learn."""
        del data
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """What was told of each candidate.

        Raises:
            DataError: Nothing was told of one.
        """
        del interactions
        asked = candidates.drop("score", strict=False)
        found = asked.join(self._scores, on=_KEYS, how="left", maintain_order="left")
        if n_missing := found["score"].null_count():
            raise DataError(
                needed=f"a score of {self._model!r} for each of {candidates.height} candidates",
                received=f"none for {n_missing} of them",
                remedy=f"score them with {self._model!r} first, or leave it out",
            )
        return found

    def save(self, folder: Path) -> None:
        """Write the scores as Parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / _FILE) as temporary:
            self._scores.write_parquet(temporary, compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the model has the folder's name."""
        try:
            return cls(pl.read_parquet(folder / _FILE, glob=False), model=folder.name)
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
