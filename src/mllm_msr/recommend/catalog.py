"""Catalog of items that can be recommended: records, summaries, vectors and prompts.

It is built from the tables of a run. `recommend/recommender.py` and the service retrieve, score and
explain items with it, and the service adds new items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from mllm_msr import tables
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.data.images import image_status
from mllm_msr.models.encoders.base import TextEncoder
from mllm_msr.models.encoders.factory import open_retrieval_encoder
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.ranker.examples import build_prompt
from mllm_msr.recommend.explanations import Explainer
from mllm_msr.recommend.vector_index import VectorIndex
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.types import Item, Prompt


class ItemCatalog:
    """Catalog of all items that can be recommended, with their summaries; items can be added.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        summaries: `tables.SUMMARIES`; items without a row use their title as summary.
        encoder: Name of the text encoder.
        item_type: Word for an item in prompts.
        order: What the ranker's prompt begins with.
        max_text_tokens: Upper bound on the text tokens of the ranker's prompt.
        artifact_cache: Cache for the vectors of the summaries.

    Attributes:
        item_type: As given.
        summaries: As given, with the rows of added items.
        encoder: The text encoder of summaries and preferences.
        index: Vectors of the summaries.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        summaries: pl.DataFrame,
        *,
        encoder: str,
        item_type: str | ItemType,
        order: PromptOrder = "item-first",
        max_text_tokens: int | None,
        artifact_cache: ArtifactCache | None = None,
    ) -> None:
        self.item_type = item_type
        self.summaries = summaries
        self._order: PromptOrder = order
        self._max_text_tokens = max_text_tokens
        self._items: dict[str, Item] = {}
        self._summaries: dict[str, str] = {}
        self._text_only: set[str] = set()
        rows = items.join(summaries, on="item_id", how="left", maintain_order="left")
        for row in rows.iter_rows(named=True):
            self._store(row)
        texts = list(self._summaries.values())
        artifact_cache = artifact_cache or ArtifactCache()
        self.encoder: TextEncoder = open_retrieval_encoder(
            encoder, texts, artifact_cache=artifact_cache
        )
        self._explainer = Explainer(texts)
        key = digest(encoder=self.encoder.fingerprint, texts=texts)
        vectors = artifact_cache.array("vectors", key, lambda: self.encoder.encode(texts))
        self.index = VectorIndex(vectors.shape[1])
        self.index.add(list(self._items), vectors)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def item(self, item_id: str) -> Item:
        """Return the record of an item, without the images that cannot be opened now."""
        item = self._items[item_id]
        good = [path for path in item.images if image_status(path).status == "ok"]
        return item if len(good) == len(item.images) else item.with_images(good)

    def lacks_image(self, item_id: str) -> bool:
        """Return whether prompts lack an image of an item because it cannot be opened now."""
        missing = self.item(item_id) is not self._items[item_id]
        return missing and item_id not in self._text_only

    def summary(self, item_id: str) -> str:
        """Return the summary of an item."""
        return self._summaries[item_id]

    def add(self, item: Item, summaries: pl.DataFrame) -> None:
        """Add an item. If this fails, the catalog is unchanged and the item can be added again.

        Args:
            item: The item, with an image path that can be opened in this process.
            summaries: `tables.SUMMARIES` with the row of the item.
        """
        summaries = tables.conform(summaries, tables.SUMMARIES, name="new")
        row = {
            "item_id": item.item_id,
            "title": item.title,
            "text": item.text,
            "image": str(item.image) if item.image else None,
            "more_images": [str(path) for path in item.more_images],
            **summaries.row(0, named=True),
        }
        self.index.add([item.item_id], self.encoder.encode([_summary_text(row)]))
        others = self.summaries.filter(pl.col("item_id") != item.item_id)
        self.summaries = pl.concat([others, summaries])
        self._store(row)

    def prompt(self, preference: str, item_id: str) -> Prompt:
        """Build the ranker's prompt for an item, given a user's preference.

        It contains the item's images if the run's summaries describe images.
        """
        item = self.item(item_id)
        if item_id in self._text_only:
            item = item.with_images(())
        return build_prompt(
            preference,
            item,
            item_type=self.item_type,
            order=self._order,
            max_text_tokens=self._max_text_tokens,
        )

    def matches(self, preference: str, item_id: str) -> tuple[str, ...]:
        """Return the phrases of a preference that an item matches, see `Explainer.matches`."""
        return self._explainer.matches(preference, self._summaries[item_id])

    def _store(self, row: Mapping[str, Any]) -> None:
        item_id = row["item_id"]
        self._summaries[item_id] = _summary_text(row)
        if row["image_status"] == "unused":
            self._text_only.add(item_id)
        else:
            self._text_only.discard(item_id)
        self._items[item_id] = Item.from_row(row)


def _summary_text(row: Mapping[str, Any]) -> str:
    return row["summary"] or row["title"] or ""
