"""Popularity: the score of an item is the number of its interactions with training users.

Every result table needs this row: any personalized model should beat it. The user's history is not
used. Unknown items score 0; unknown users get the same scores as all others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.search_space import Range, Space
from mllm_msr.storage.atomic import write_text
from mllm_msr.storage.verification import load_json
from mllm_msr.types import Seed

_FILE: Final = "popularity.json"


@final
class Popularity(Recommender):
    """Recommender by interaction counts of the training users.

    Args:
        recent_share: Fraction of the latest interactions of the training users that is counted,
            in (0, 1]; 1.0 counts all. Interactions with the same timestamp as the oldest counted
            one are counted, too.
        seed: Accepted for uniformity; the model is deterministic.

    Raises:
        SettingsError: `recent_share` is outside (0, 1].
    """

    label: ClassVar[str] = "Popularity"
    remark: ClassVar[str] = "interaction counts of the training users"

    def __init__(self, *, recent_share: float = 1.0, seed: Seed = 0) -> None:
        if not 0.0 < recent_share <= 1.0:
            raise SettingsError([f"recent_share must be in (0, 1], but is {recent_share}."])
        self._recent_share = recent_share
        self._seed = seed
        self._counts: dict[str, int] | None = None

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "recent_share": Range(0.05, 1.0, log=True),
        }

    def fit(self, data: TrainingData) -> Self:
        """Count the interactions of the training users."""
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
        """Return the item ids in the column order of `score_catalog`."""
        return tuple(self._require_fitted())

    def score_catalog(
        self,
        users: pl.DataFrame,
        interactions: pl.DataFrame,  # noqa: ARG002 - the scores are not personalized
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Yield the counts of all items, the same for every target."""
        counts = np.fromiter(self._require_fitted().values(), dtype=np.float32)
        for chunk in users.iter_slices(CHUNK):
            yield chunk, np.broadcast_to(counts, (chunk.height, len(counts)))

    def score(
        self,
        candidates: pl.DataFrame,
        interactions: pl.DataFrame,  # noqa: ARG002 - the scores are not personalized
    ) -> pl.DataFrame:
        """Look up the count of each candidate; 0 for items without a training interaction."""
        counts = self._require_fitted()
        scores = candidates["item_id"].replace_strict(
            list(counts), list(counts.values()), default=0, return_dtype=pl.Float64
        )
        return candidates.with_columns(scores.alias("score"))

    def save(self, folder: Path) -> None:
        """Write the counts as JSON."""
        state = {
            "recent_share": self._recent_share,
            "seed": self._seed,
            "counts": self._require_fitted(),
        }
        write_text(folder / _FILE, json.dumps(state, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        try:
            state = load_json((folder / _FILE).read_text(encoding="utf-8"))
            loaded = cls(recent_share=state["recent_share"], seed=state["seed"])
            loaded._counts = {str(item): int(count) for item, count in state["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise damaged(folder, f"{_FILE}: {type(cause).__name__}: {cause}") from cause
        return loaded

    def _require_fitted(self) -> dict[str, int]:
        if self._counts is None:
            raise unfitted("popularity")
        return self._counts
