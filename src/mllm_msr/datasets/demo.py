"""Synthetic dataset of `make demo`: items with drawn covers, and users whose preferences drift.

It needs no downloaded data. Two properties of an item appear in its title and three on its cover
(`demo_model/world.py`), so neither text nor image alone is enough to predict a user's choice;
`recipes/demo_model/teacher.py` computes the highest attainable AUC. The same seed gives the same
data on every machine. No item, name or seed of this data occurs in the pre-training of the packaged
demo model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Final, final

import numpy as np
import polars as pl
from pydantic import Field

from mllm_msr.demo_model.covers import COVER_VERSION, draw_cover
from mllm_msr.demo_model.language import text, title
from mllm_msr.demo_model.world import DEMO_SEEDS, World, make_world
from mllm_msr.errors import DataError, UsageError
from mllm_msr.interfaces import Dataset, RawData
from mllm_msr.storage.user_cache import user_cache
from mllm_msr.tables import ITEMS, conform

_MIN_ITEMS: Final = 30
_FIRST_DAY_MS: Final = 1_704_067_200_000  # 2024-01-01 UTC
_DAY_MS: Final = 86_400_000


@final
class Demo(Dataset):
    """Synthetic users, items and covers.

    Args:
        covers: Folder for the covers, which are drawn once; `None` uses the user's cache folder.
        n_items: Number of items, at least 30.
        n_users: Number of users, at least 1.
        world_seed: Seed of the generated world, 0 to 999. It is not the seed of the split.
        cover_size: Width and height of the covers in pixels.

    Raises:
        UsageError: The seed or a number is out of its range.
    """

    caveat: ClassVar[str] = (
        "The data are synthetic. They show that every part of the pipeline works, but say "
        "nothing about real users."
    )

    def __init__(
        self,
        *,
        covers: Path | None = None,
        n_items: Annotated[int, Field(ge=_MIN_ITEMS, le=1_000_000)] = 400,
        n_users: Annotated[int, Field(ge=1, le=10_000_000)] = 400,
        world_seed: Annotated[int, Field(ge=DEMO_SEEDS.start, lt=DEMO_SEEDS.stop)] = 0,
        cover_size: Annotated[int, Field(ge=16, le=4096)] = 256,
    ) -> None:
        if world_seed not in DEMO_SEEDS:
            raise UsageError(
                f"data.world_seed is {world_seed}. Choose a seed from {DEMO_SEEDS.start} to "
                f"{DEMO_SEEDS.stop - 1}; other seeds are reserved for training the demo model."
            )
        if n_items < _MIN_ITEMS or n_users < 1:
            raise UsageError(
                f"data.n_items is {n_items} and data.n_users is {n_users}. Set them to at least "
                f"{_MIN_ITEMS} items and 1 user."
            )
        self._folder = user_cache() / "demo" if covers is None else Path(covers)
        self._n_items, self._n_users = n_items, n_users
        self._world_seed, self._cover_size = world_seed, cover_size

    def load(self) -> RawData:
        """Generate the tables and draw the covers that do not exist yet.

        Raises:
            DataError: The folder of the covers cannot be written.
        """
        world = make_world(self._world_seed, n_items=self._n_items, n_users=self._n_users)
        folder = self._folder / (
            f"{COVER_VERSION}-{self._cover_size}px-seed{self._world_seed}-{self._n_items}items"
        )
        try:
            covers = _draw_covers(world, folder, size=self._cover_size)
        except OSError as cause:
            raise DataError(
                f"Cannot write the demo's covers to {folder} ({type(cause).__name__}: {cause}). "
                "Set data.covers to a writable folder."
            ) from cause
        items = pl.DataFrame(
            {
                "item_id": [_item_id(index) for index in range(len(world.items))],
                "title": [title(item) for item in world.items],
                "text": [text(item) for item in world.items],
                "image": [str(cover) for cover in covers],
            }
        )
        # A user's interactions happen at random, increasing times.
        rng = np.random.default_rng([self._world_seed, 4])
        rows: list[tuple[str, str, int]] = []
        for number, user in enumerate(world.users):
            timestamp = _FIRST_DAY_MS + int(rng.integers(60 * _DAY_MS))
            for item_index in user.history:
                timestamp += int(rng.integers(_DAY_MS // 24, 6 * _DAY_MS))
                rows.append((f"u{number:04d}", _item_id(item_index), timestamp))
        schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
        return RawData(
            interactions=pl.DataFrame(rows, schema=schema, orient="row").lazy(),
            items=conform(items, ITEMS, name="items"),
            item_type="video",
            ordered_by="time",
        )


def _item_id(index: int) -> str:
    return f"v{index:04d}"


def _draw_covers(world: World, folder: Path, *, size: int) -> list[Path]:
    """Draw the missing covers and return the paths of all covers, in the order of the items."""
    folder.mkdir(parents=True, exist_ok=True)
    covers = []
    for index, item in enumerate(world.items):
        cover = (folder / f"{_item_id(index)}.png").resolve()
        if not cover.exists():
            # Rename atomically, since another run may draw the same cover at the same time.
            temporary = cover.with_suffix(f".{os.getpid()}.tmp")
            draw_cover(item, size=size).save(temporary, format="PNG")
            temporary.replace(cover)
        covers.append(cover)
    return covers
