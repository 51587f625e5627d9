"""The generated data of `make demo`: items with drawn covers, users whose tastes drift.

Start of the flow on a machine that holds no data. Titles carry two properties of an item, its
cover shows three others (`embedded.world`), so that neither alone is enough; the ceilings of what
can be reached are computed by `embedded.teacher`. The same seed gives the same data everywhere,
and no item, name or seed of it occurs in the packaged model's pre-training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, final

import numpy as np
import polars as pl

from mllm_msr.demo_model.covers import DRAWING, draw_cover
from mllm_msr.demo_model.language import text, title
from mllm_msr.demo_model.world import DEMO_SEEDS, World, make_world
from mllm_msr.errors import DataError, UsageError
from mllm_msr.interfaces import Dataset, RawData
from mllm_msr.tables import ITEMS, conform

_FIRST_DAY_MS: Final = 1_704_067_200_000  # 2024-01-01 UTC
_DAY_MS: Final = 86_400_000


@final
class Demo(Dataset):
    """Generated users, items and covers.

    Args:
        path: Folder for the drawn covers, which are made once; the user's cache folder where
            it is None.
        n_items: Size of the catalogue.
        n_users: Number of users.
        world_seed: Seed of the world, 0 to 999 (not the seed that splits the data).
        cover_size: Width and height of the covers in pixels.

    Raises:
        UsageError: The seed or a number is out of range.
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        n_items: int = 400,
        n_users: int = 400,
        world_seed: int = 0,
        cover_size: int = 256,
    ) -> None:
        if world_seed not in DEMO_SEEDS:
            raise UsageError(
                needed=f"a seed from {DEMO_SEEDS.start} to {DEMO_SEEDS.stop - 1}",
                received=str(world_seed),
                remedy="choose another; the rest is kept for training the packaged model",
            )
        if n_items < 30 or n_users < 1:
            raise UsageError(
                needed="at least 30 items and 1 user",
                received=f"n_items={n_items}, n_users={n_users}",
                remedy="raise them",
            )
        self._folder = Path(path) if path is not None else _cache_folder()
        self._n_items, self._n_users = n_items, n_users
        self._world_seed, self._cover_size = world_seed, cover_size

    def load(self) -> RawData:
        """Generate the tables and draw the covers that do not exist yet.

        Raises:
            DataError: The covers' folder cannot be written.
        """
        world = make_world(self._world_seed, n_items=self._n_items, n_users=self._n_users)
        folder = self._folder / (
            f"{DRAWING}-{self._cover_size}px-seed{self._world_seed}-{self._n_items}items"
        )
        try:
            covers = _draw_covers(world, folder, size=self._cover_size)
        except OSError as cause:
            raise DataError(
                needed=f"a folder for the demo's covers at {folder}",
                received=f"{type(cause).__name__} ({cause})",
                remedy="set data.path to a folder that can be written",
            ) from cause
        items = pl.DataFrame(
            {
                "item_id": [_item_id(index) for index in range(len(world.items))],
                "title": [title(item) for item in world.items],
                "text": [text(item) for item in world.items],
                "image": [str(cover) for cover in covers],
            }
        )
        return RawData(
            interactions=_interactions(world, seed=self._world_seed).lazy(),
            items=conform(items, ITEMS, name="items"),
            item_type="video",
            ordered_by="time",
        )


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mllm-msr" / "demo"


def _item_id(index: int) -> str:
    return f"v{index:04d}"


def _draw_covers(world: World, folder: Path, *, size: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    covers = []
    for index, item in enumerate(world.items):
        cover = (folder / f"{_item_id(index)}.png").resolve()
        if not cover.exists():
            # Written whole or not at all: two runs may draw the same cover at once.
            half_made = cover.with_suffix(f".{os.getpid()}.tmp")
            draw_cover(item, size=size).save(half_made, format="PNG")
            half_made.replace(cover)
        covers.append(cover)
    return covers


def _interactions(world: World, *, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng([seed, 4])
    rows: list[tuple[str, str, int]] = []
    for number, user in enumerate(world.users):
        moment = _FIRST_DAY_MS + int(rng.integers(60 * _DAY_MS))
        for item in user.history:
            moment += int(rng.integers(_DAY_MS // 24, 6 * _DAY_MS))
            rows.append((f"u{number:04d}", _item_id(item), moment))
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")
