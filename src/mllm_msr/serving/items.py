"""Adding items at runtime: summarize them, store them, and add them to the catalog.

An item is acknowledged when it is in the database and can be recommended. If adding it to the
catalog fails, sending the same request again or restarting the service repeats this step.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, final

import polars as pl

from mllm_msr import tables
from mllm_msr.data.image_columns import with_images
from mllm_msr.data.text_cleaning import clean_text
from mllm_msr.errors import DataError, RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.candidate_cache import CandidateCache
from mllm_msr.serving.image_uploads import store_images, to_png
from mllm_msr.serving.state import ServiceState
from mllm_msr.summarization.items import summarize
from mllm_msr.types import Item

logger = logging.getLogger(__name__)

_MAX_CONCURRENT: Final = 2  # items that are summarized


class UnknownItemError(DataError):
    """An item is not in the catalog, or has no image although one was requested."""


class InvalidItemError(DataError):
    """A new item cannot be added."""


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
        image_thread: Thread that decodes images.
        images: Folder for the images.
        max_pixels: Maximum width times height of an image.
    """

    def __init__(
        self,
        model: MllmMsr,
        state: ServiceState,
        *,
        candidates: CandidateCache,
        backend: Backend,
        database_lock: asyncio.Lock,
        image_thread: Executor,
        images: Path,
        max_pixels: int,
    ) -> None:
        self._model = model
        self._state = state
        self._candidates = candidates
        self._backend = backend
        self._database_lock = database_lock
        self._image_thread = image_thread
        # Few, so that summaries of new items never take all threads of a model.
        self._threads = ThreadPoolExecutor(_MAX_CONCURRENT, thread_name_prefix="item")
        self._images = images
        self._max_pixels = max_pixels

    def close(self) -> None:
        """Cancel the additions that have not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def restore(self) -> None:
        """Add the items of the database to the catalog; this call blocks.

        Items for which this fails can be added by sending their request again.
        """
        for row in self._state.items():
            with contextlib.suppress(RunFolderError):  # logged
                self._add_to_catalog(row)

    async def add(self, item: Item, images: Sequence[bytes] = ()) -> tuple[dict[str, Any], bool]:
        """Summarize a new item, store it and add it to the catalog.

        Args:
            item: Id, title and text. Title and text are cleaned like those of a dataset.
            images: Contents of image files; the first `images.per_item` are used.

        Returns:
            The row of the item in the database, and whether it is new; False if the same item was
            added before.

        Raises:
            InvalidItemError: The title is empty after cleaning.
            ItemExistsError: Another item has this id.
            ImageError: The image cannot be opened safely.
            RunFolderError: The item cannot be stored, or is stored but could not be added to the
                catalog.
        """
        item = dataclasses.replace(item, title=clean_text(item.title), text=clean_text(item.text))
        if not item.title:
            raise InvalidItemError(
                f"The title of {item.item_id!r} contains only markup or invisible characters. Send "
                "a title with letters."
            )
        loop = asyncio.get_running_loop()
        digest = await loop.run_in_executor(None, _digest, item, images)
        row = await asyncio.to_thread(self._state.item, item.item_id)
        is_new = row is None
        if row is None:
            if item.item_id in self._model.catalog:
                raise _item_exists(item.item_id)
            convert = functools.partial(to_png, max_pixels=self._max_pixels)
            pngs = [
                await loop.run_in_executor(self._image_thread, convert, image, item.item_id)
                # Equal images are shown once, as in a run.
                for image in dict.fromkeys(images[: self._model.settings.images.per_item])
            ]
            summarized = await loop.run_in_executor(
                self._threads, self._summarize, item, pngs, digest
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

    def _summarize(self, item: Item, pngs: Sequence[bytes], digest: str) -> dict[str, Any]:
        paths = [str(path) for path in store_images(self._images, digest, pngs)]
        record = {"item_id": item.item_id, "title": item.title, "text": item.text}
        frame = with_images(pl.DataFrame([record]), pl.Series([paths], dtype=pl.List(pl.String)))
        summaries = summarize(
            frame,
            self._backend,
            item_type=self._model.catalog.item_type,
            **self._model.settings.summarize.arguments(),
        )
        first, *more = pngs or (None,)
        row = {**summaries.row(0, named=True), **record}
        return {**row, "image": first, "more_images": more, "digest": digest}

    def _add_to_catalog(self, row: Mapping[str, Any]) -> None:
        """Add a stored item to the catalog unless the catalog already contains it."""
        catalog = self._model.catalog
        try:
            with self._candidates.catalog_lock:
                if row["item_id"] in catalog:
                    return
                pngs = [row["image"], *row["more_images"]] if row["image"] else []
                images = store_images(self._images, row["digest"], pngs)
                item = Item(row["item_id"], row["title"], row["text"]).with_images(images)
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


def _digest(item: Item, images: Sequence[bytes]) -> str:
    """Return the hash of the content of an item."""
    digest = hashlib.sha256(repr((item.title, item.text)).encode("utf-8", "surrogatepass"))
    for number, image in enumerate(images):
        # The first image is hashed as it was when an item had only one.
        digest.update(hashlib.sha256(image).digest() if number else image)
    return digest.hexdigest()


def _item_exists(item_id: str) -> ItemExistsError:
    return ItemExistsError(
        f"Another item has the id {item_id!r}. Use a different id; items cannot be changed."
    )
