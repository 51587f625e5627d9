"""Adding items at runtime: summarize them, store them, and add them to the catalog.

An item is acknowledged when it is in the database and can be recommended. If adding it to the
catalog fails, sending the same request again or restarting the service repeats this step.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, final

import polars as pl

from mllm_msr import tables
from mllm_msr.data.text_cleaning import clean_text
from mllm_msr.errors import DataError, RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.candidate_cache import CandidateCache
from mllm_msr.serving.image_uploads import store_image, to_png
from mllm_msr.serving.state import ServiceState
from mllm_msr.summarization.items import summarize
from mllm_msr.types import Item

logger = logging.getLogger(__name__)


class UnknownItemError(DataError):
    """An item is not in the catalog, or has no image although one was requested."""


class ItemExistsError(DataError):
    """An item id is already in use by another item."""


@final
class NewItems:
    """Adding of items to the service, for use from its event loop.

    Args:
        model: The run, to whose catalog items are added.
        state: The service's database.
        candidates: Candidate cache, whose lock protects the catalog.
        backend: Backend that generates summaries.
        database_lock: Held while the database is written.
        threads: Threads in which requests wait for the model.
        images: Folder for the images.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        candidates: CandidateCache,
        backend: Backend,
        database_lock: asyncio.Lock,
        threads: Executor,
        images: Path,
    ) -> None:
        self._model = model
        self._state = state
        self._candidates = candidates
        self._backend = backend
        self._database_lock = database_lock
        self._threads = threads
        self._images = images

    def restore(self) -> None:
        """Add the items of the database to the catalog; this call blocks.

        Items for which this fails can be added by sending their request again.
        """
        for row in self._state.items():
            with contextlib.suppress(RunFolderError):  # logged
                self._add_to_catalog(row)

    async def add(self, item: Item, image: bytes | None) -> tuple[dict[str, Any], bool]:
        """Summarize a new item, store it and add it to the catalog.

        Args:
            item: Id, title and text. Title and text are cleaned like those of a dataset.
            image: Content of an image file, if there is one.

        Returns:
            The row of the item in the database, and whether it is new; False if the same item was
            added before.

        Raises:
            ItemExistsError: Another item has this id.
            ImageError: The image cannot be opened safely.
            RunFolderError: The item cannot be stored, or is stored but could not be added to the
                catalog.
        """
        item = dataclasses.replace(item, title=clean_text(item.title), text=clean_text(item.text))
        content = repr((item.title, item.text, image)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).hexdigest()
        row = await asyncio.to_thread(self._state.item, item.item_id)
        is_new = row is None
        if row is None:
            if item.item_id in self._model.catalog:
                raise _item_exists(item.item_id)
            summarized = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._summarize, item, image, digest
            )
            async with self._database_lock:
                is_new = await asyncio.to_thread(self._state.add_item, summarized)
            # Another request may have added the item in the meantime.
            stored = None if is_new else await asyncio.to_thread(self._state.item, item.item_id)
            row = stored or summarized
        if row["digest"] != digest:
            raise _item_exists(item.item_id)
        await asyncio.to_thread(self._add_to_catalog, row)
        return dict(row), is_new

    def _summarize(self, item: Item, image: bytes | None, digest: str) -> dict[str, Any]:
        png = to_png(image, item.item_id) if image else None
        path = store_image(self._images, digest, png)
        record = {"item_id": item.item_id, "title": item.title, "text": item.text}
        frame = pl.DataFrame(
            [{**record, "image": str(path) if path else None}], schema=dict(tables.ITEMS)
        )
        summaries = summarize(
            frame,
            self._backend,
            item_type=self._model.catalog.item_type,
            **self._model.settings.summarize.model_dump(exclude={"model", "scope"}),
        )
        return {**summaries.row(0, named=True), **record, "image": png, "digest": digest}

    def _add_to_catalog(self, row: Mapping[str, Any]) -> None:
        """Add a stored item to the catalog unless the catalog already contains it."""
        catalog = self._model.catalog
        try:
            with self._candidates.catalog_lock:
                if row["item_id"] in catalog:
                    return
                image = store_image(self._images, row["digest"], row["image"])
                item = Item(row["item_id"], row["title"], row["text"], image)
                summary = {name: row[name] for name in tables.SUMMARIES}
                catalog.add(item, pl.DataFrame([summary], schema=dict(tables.SUMMARIES)))
        except Exception as error:
            item_id = row["item_id"]
            logger.exception("Item %r could not be added to the catalog.", item_id)
            raise RunFolderError(
                f"Item {item_id!r} is stored but could not be added to the catalog: "
                f"{str(error) or 'unknown error'}. Send the same request again, or restart the "
                "service."
            ) from error


def _item_exists(item_id: str) -> ItemExistsError:
    return ItemExistsError(
        f"Another item has the id {item_id!r}. Use a different id; items cannot be changed."
    )
