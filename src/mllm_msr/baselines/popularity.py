"""Popularity: an item's score is how often training users chose it.

The floor under every result: any report without this row misleads its reader. Nothing personal
enters, so that a user's history is never read; unknown items score 0, unknown users are served
like all others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.search_space import Range, Space
from mllm_msr.storage.atomic import write_text

_FILE: Final = "popularity.json"


@final
class Popularity(Recommender):
    """Counts over the training users' interactions, and over nobody else's.

    Args:
        recent_share: Share of the training users' interactions that are counted, the latest ones,
            in (0, 1]; 1.0 counts all. Interactions as old as the oldest counted one count too.
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: `recent_share` is outside (0, 1].
    """

    def __init__(self, *, recent_share: float = 1.0, seed: int = 0) -> None:
        if not 0.0 < recent_share <= 1.0:
            raise SettingsError([f"recent_share must lie in (0, 1], it is {recent_share}"])
        self._recent_share = recent_share
        self._seed = seed
        self._counts: dict[str, int] | None = None

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "recent_share": Range(0.05, 1.0, log=True),
        }

    def fit(self, data: TrainingData) -> Self:
        """Count what the training users chose."""
        users = pl.Series("user_id", sorted(data.train_users), dtype=pl.String)
        rows = data.interactions.filter(pl.col("user_id").is_in(users.implode()))
        if self._recent_share < 1.0 and rows.height:
            n_counted = math.ceil(self._recent_share * rows.height)
            oldest = rows["timestamp"].sort(descending=True)[n_counted - 1]
            rows = rows.filter(pl.col("timestamp") >= oldest)
        known = pl.DataFrame({"item_id": catalog_of(data)}, schema={"item_id": pl.String})
        counts = known.join(
            rows.group_by("item_id").len(), on="item_id", how="left", maintain_order="left"
        )
        self._counts = dict(zip(counts["item_id"], counts["len"].fill_null(0), strict=True))
        return self

    @property
    def catalog(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalog`'s columns."""
        return tuple(self._fitted())

    def score_catalog(
        self,
        users: pl.DataFrame,
        interactions: pl.DataFrame,  # noqa: ARG002 - nothing personal enters
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' counts, the same for everybody; see `interfaces.CatalogScorer`."""
        counts = np.fromiter(self._fitted().values(), dtype=np.float32)
        for chunk in users.iter_slices(CHUNK):
            yield chunk, np.broadcast_to(counts, (chunk.height, len(counts)))

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG002 - nothing personal enters
        """Each candidate's count; 0 for items that no training user chose."""
        counts = self._fitted()
        scores = candidates["item_id"].replace_strict(
            list(counts), list(counts.values()), default=0, return_dtype=pl.Float64
        )
        return candidates.with_columns(scores.alias("score"))

    def save(self, folder: Path) -> None:
        """Write the counts as JSON."""
        state = {
            "recent_share": self._recent_share,
            "seed": self._seed,
            "counts": self._fitted(),
        }
        write_text(folder / _FILE, json.dumps(state, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        path = folder / _FILE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            loaded = cls(recent_share=state["recent_share"], seed=state["seed"])
            loaded._counts = {str(item): int(count) for item, count in state["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise DamagedFileError(
                needed=f"a popularity table at {path}",
                received=f"{type(cause).__name__}: {cause}",
                remedy="fit the baseline again",
            ) from cause
        return loaded

    def _fitted(self) -> dict[str, int]:
        if self._counts is None:
            raise TrainingError(
                needed="a fitted popularity table",
                received="one that has seen no data",
                remedy="call fit or load first",
            )
        return self._counts
