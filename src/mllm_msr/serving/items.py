"""Items that come while the service runs: summarised, kept, and made candidates for everyone.

`engine.py` hands them on. An item is acknowledged when it is in the database and can be
recommended; where the second fails, the same request again makes up for it, as the next start does.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, final

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.candidate_cache import Retrieval
from mllm_msr.serving.image_uploads import as_png, keep_image
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import ItemExistsError
from mllm_msr.summarization.items import summarize
from mllm_msr.types import Item

logger = logging.getLogger(__name__)


@final
class NewItems:
    """Adds items, used from the service's event loop.

    Args:
        model: The run, whose catalogue grows.
        state: Keeps the items.
        retrieval: Finds them from then on.
        writing: The model that writes summaries.
        writes: Held while the database is written.
        threads: Where a request waits for the model.
        images: Folder for the images.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        retrieval: Retrieval,
        writing: Backend,
        writes: asyncio.Lock,
        threads: Executor,
        images: Path,
    ) -> None:
        self._model = model
        self._state = state
        self._retrieval = retrieval
        self._writing = writing
        self._writes = writes
        self._threads = threads
        self._images = images

    def take_up(self) -> None:
        """Make what an earlier service kept candidates again; blocks.

        An item with which that fails waits for its request to come again.
        """
        for row in self._state.items():
            try:
                self._enlist(row)
            except RunFolderError as error:
                logger.error("%s", error)

    async def add(self, item: Item, image: bytes | None) -> tuple[dict[str, Any], bool]:
        """Summarise a new item and make it a candidate for everyone.

        Args:
            item: Id, title and text.
            image: A image's file, `None` without one.

        Returns:
            Its row in the database, and whether it is new (else it was there, the same).

        Raises:
            ItemExistsError: There is another item under this id.
            ImageError: The image cannot be opened safely.
            RunFolderError: It cannot be kept, or was kept and is not a candidate yet.
        """
        content = repr((item.title, item.text, image)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).hexdigest()
        row = await asyncio.to_thread(self._state.item, item.item_id)
        new = row is None
        if row is None:
            if item.item_id in self._model.catalogue:
                raise _taken(item.item_id)
            understood = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._understood, item, image, digest
            )
            async with self._writes:
                new = await asyncio.to_thread(self._state.add_item, understood)
            # Somebody else may have been faster.
            kept = None if new else await asyncio.to_thread(self._state.item, item.item_id)
            row = kept or understood
        if row["digest"] != digest:
            raise _taken(item.item_id)
        await asyncio.to_thread(self._enlist, row)
        return dict(row), new

    def _understood(self, item: Item, image: bytes | None, digest: str) -> dict[str, Any]:
        png = as_png(image, item.item_id) if image else None
        path = keep_image(self._images, digest, png)
        said = {"item_id": item.item_id, "title": item.title, "text": item.text}
        frame = pl.DataFrame(
            [{**said, "image": str(path) if path else None}], schema=dict(tables.ITEMS)
        )
        arguments = self._model.settings.summarize.model_dump(exclude={"model", "scope"})
        item_type = self._model.catalogue.item_type
        summary = summarize(frame, self._writing, item_type=item_type, **arguments).row(
            0, named=True
        )
        return {**summary, **said, "image": png, "digest": digest}

    def _enlist(self, row: Mapping[str, Any]) -> None:
        """Make a kept item a candidate, unless it is one."""
        catalogue = self._model.catalogue
        summary = {name: row[name] for name in tables.SUMMARIES}
        try:
            with self._retrieval.changing:
                if row["item_id"] in catalogue:
                    return
                item = Item(
                    row["item_id"],
                    row["title"],
                    row["text"],
                    keep_image(self._images, row["digest"], row["image"]),
                )
                catalogue.add(item, pl.DataFrame([summary], schema=dict(tables.SUMMARIES)))
        except Exception as error:
            raise RunFolderError(
                needed=f"the item {row['item_id']!r}, which is kept, among those recommended",
                received=f"{type(error).__name__}: {error}",
                remedy="mend that and send the item again, or start the service anew",
            ) from error


def _taken(item_id: str) -> ItemExistsError:
    return ItemExistsError(
        needed="an id that no item has",
        received=repr(item_id),
        remedy="choose another id; items are not changed",
    )
