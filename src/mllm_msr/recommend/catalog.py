"""The catalogue as recommendations need it: items, summaries, vectors, prompts; it grows.

Built from a run's tables; `recommend/recommender.py` and the service retrieve, ask and explain through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mllm_msr import tables
from mllm_msr.models.text_encoders import TextEncoder, text_encoder
from mllm_msr.ranker.examples import build_prompt
from mllm_msr.recommend.explanations import Explainer
from mllm_msr.recommend.retrieval import VectorIndex
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.types import Item, Prompt


class Catalogue:
    """Every item that can be recommended, with its summary; grows while a service runs.

    Args:
        items: `tables.ITEMS` with image paths that can be opened from here.
        summaries: `tables.SUMMARIES`; items without a row have their title as summary.
        encoder: Name of the text encoder.
        item_type: What an item is called in prompts.
        max_text_tokens: Budget for the text of the recommender's prompt.
        artifact_cache: Where vectors are kept for the next time.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        summaries: pl.DataFrame,
        *,
        encoder: str,
        item_type: str,
        max_text_tokens: int | None,
        artifact_cache: ArtifactCache | None = None,
    ) -> None:
        self.item_type = item_type
        self.summaries = summaries
        self._max_text_tokens = max_text_tokens
        self._items: dict[str, Item] = {}
        self._summaries: dict[str, str] = {}
        rows = items.join(summaries, on="item_id", how="left", maintain_order="left")
        for row in rows.iter_rows(named=True):
            self._keep(row)
        texts = list(self._summaries.values())
        artifact_cache = artifact_cache or ArtifactCache()
        self.encoder: TextEncoder = text_encoder(encoder, texts, artifact_cache=artifact_cache)
        self._explainer = Explainer(texts)
        made_of = digest(encoder=self.encoder.fingerprint, texts=texts)
        vectors = artifact_cache.array("vectors", made_of, lambda: self.encoder.encode(texts))
        self.index = VectorIndex(vectors.shape[1])
        self.index.add(list(self._items), vectors)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def item(self, item_id: str) -> Item:
        """An item's record; its image is left out where it cannot be opened."""
        return self._items[item_id]

    def summary(self, item_id: str) -> str:
        """An item's summary."""
        return self._summaries[item_id]

    def add(self, item: Item, summaries: pl.DataFrame) -> None:
        """Add an item that is not there; it is found when all that is known of it has been kept.

        Whatever goes wrong, the item is not there afterwards, and may be added again.

        Args:
            item: The item, its image under a path that can be opened.
            summaries: `tables.SUMMARIES` with its one row.
        """
        new = tables.conform(summaries, tables.SUMMARIES, name="new")
        image = str(item.image) if item.image else None
        plain = {"item_id": item.item_id, "title": item.title, "text": item.text, "image": image}
        row = {**plain, **summaries.row(0, named=True)}
        self.index.add([item.item_id], self.encoder.encode([_summary(row)]))
        rest = self.summaries.filter(pl.col("item_id") != item.item_id)
        self.summaries = pl.concat([rest, new])
        self._keep(row)

    def prompt(self, preference: str, item_id: str) -> Prompt:
        """The recommender's question about one item."""
        return build_prompt(
            preference,
            self._items[item_id],
            item_type=self.item_type,
            max_text_tokens=self._max_text_tokens,
        )

    def answers(self, preference: str, item_id: str) -> tuple[str, ...]:
        """What in a preference an item answers; see `recommend/explanations.py`."""
        return self._explainer.shared(preference, self._summaries[item_id])

    def _keep(self, row: Mapping[str, Any]) -> None:
        item_id, image = row["item_id"], row["image"]
        usable = image and row["image_status"] in {None, "ok", "unused"}
        path = Path(image) if usable else None
        self._summaries[item_id] = _summary(row)
        self._items[item_id] = Item(item_id, row["title"] or "", row["text"] or "", path)


def _summary(row: Mapping[str, Any]) -> str:
    return row["summary"] or row["title"] or ""
