"""Catalog of items that can be recommended: records, summaries, vectors and prompts.

It is built from the tables of a run. `recommend/recommender.py` and the service retrieve, score and
explain items with it, and the service adds new items.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr import tables
from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, RecommendSettings
from mllm_msr.data.images import image_status
from mllm_msr.models.encoders.base import TextEncoder
from mllm_msr.models.encoders.factory import open_retrieval_encoder
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.prompts.templates import limit_words
from mllm_msr.ranker.collaborative import CollaborativeVectors
from mllm_msr.ranker.examples import build_prompt, item_text
from mllm_msr.ranker.user_inputs import UserInput, latest_titles
from mllm_msr.recommend.explanations import MAX_TITLES, Explainer
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.vector_index import VectorIndex
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.types import Item, Prompt

# Words of a title and text that stand for a missing summary.
_SUMMARY_WORDS: Final = 60


class ItemCatalog:
    """Catalog of all items that can be recommended, with their summaries; items can be added.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        summaries: `tables.SUMMARIES`; items without a row use their title and text as summary.
        encoder: Name of the text encoder.
        item_type: Word for an item in prompts.
        prompt: Order and content of the ranker's prompts.
        max_text_tokens: Upper bound on the text tokens of the ranker's prompt.
        vectors: Vectors of users and items, if the ranker's prompts contain them.
        artifact_cache: Cache for the vectors of the summaries.

    Attributes:
        item_type: As given.
        summaries: As given, with the rows of added items.
        prompt_settings: Order and content of the ranker's prompts.
        encoder: The text encoder of summaries and preferences.
        index: Vectors of the summaries.
        blank: Items without title, text and image, such as those that occur in interactions only.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        summaries: pl.DataFrame,
        *,
        encoder: str,
        item_type: str | ItemType,
        prompt: RecommendSettings = DEFAULT_PROMPT,
        max_text_tokens: int | None,
        vectors: CollaborativeVectors | None = None,
        artifact_cache: ArtifactCache | None = None,
    ) -> None:
        self.item_type = item_type
        self.summaries = summaries
        self.prompt_settings = prompt
        self._max_text_tokens = max_text_tokens
        self._vectors = vectors
        self._items: dict[str, Item] = {}
        self._summaries: dict[str, str] = {}
        self._text_only: set[str] = set()
        self.blank: set[str] = set()
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
        encoded = artifact_cache.array("vectors", key, lambda: self.encoder.encode(texts))
        self.index = VectorIndex(encoded.shape[1])
        self.index.add(list(self._items), encoded)

    def __repr__(self) -> str:
        return f"ItemCatalog({len(self):,} items)"

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

    def user_input(self, profile: Profile) -> UserInput:
        """Return what the ranker reads about a user: preference, titles of items, and vector."""
        prompt = self.prompt_settings
        history: tuple[str, ...] | None = None
        if prompt.reads_history:
            history = latest_titles(reversed(profile.history), self.title, prompt)
        preference = profile.preference if prompt.reads_preference else None
        state = None if self._vectors is None else self._vectors.state(profile.history)
        return UserInput(preference, history, state)

    def title(self, item_id: str) -> str:
        """Return the title of an item; empty for an unknown item or one without a title."""
        item = self._items.get(item_id)
        return "" if item is None else item.title

    def image(self, item_id: str) -> Path | None:
        """Return the path of the first image of an item, which may be unreadable, or None."""
        return self._items[item_id].image

    def prompt(self, user: str | UserInput, item_id: str) -> Prompt:
        """Build the ranker's prompt for an item.

        It contains the item's images if the run's summaries describe images.

        Args:
            user: What is known about the user; a text is a written preference.
            item_id: The item.
        """
        item = self.item(item_id)
        if item_id in self._text_only:
            item = item.with_images(())
        return self._build_prompt(user, item, self._summaries[item_id])

    def prompt_for(self, user: str | UserInput, item: Item) -> Prompt:
        """Build the ranker's prompt for an item that is not in the catalog.

        Args:
            user: As for `prompt`.
            item: The item; its title and text stand for a summary.
        """
        return self._build_prompt(user, item, _first_words(item.title, item.text))

    def with_prompts_of(self, other: ItemCatalog) -> ItemCatalog:
        """Return the same items, also those that are added later, with the prompts of a catalog.

        Args:
            other: Catalog of another run, whose ranker reads the prompts.
        """
        view = copy.copy(self)
        view.prompt_settings = other.prompt_settings
        view._max_text_tokens = other._max_text_tokens  # noqa: SLF001 - of the same class
        view._vectors = other._vectors  # noqa: SLF001
        return view

    def without_vectors(self) -> ItemCatalog:
        """Return the same items with prompts for a ranker that reads no collaborative tokens."""
        view = copy.copy(self)
        view._vectors = None  # noqa: SLF001 - of the same class
        return view

    def _build_prompt(self, user: str | UserInput, item: Item, summary: str) -> Prompt:
        return build_prompt(
            user,
            item,
            item_type=self.item_type,
            order=self.prompt_settings.order,
            text=item_text(item, summary, self.prompt_settings),
            max_text_tokens=self._max_text_tokens,
            use_images=self.prompt_settings.use_images,
            vectors=self._vectors,
        )

    def matches(self, user: str | Profile, item_id: str) -> tuple[str, ...]:
        """Return what an item has in common with what the ranker reads about a user.

        Args:
            user: A user, or a written preference.
            item_id: The item.

        Returns:
            Phrases of the preference, see `Explainer.matches`; and titles of the history, if the
            ranker reads it. With collaborative tokens, these are the items with similar vectors,
            which affect the score more than those with common words, see `Explainer.similar`.
        """
        summary = self._summaries[item_id]
        if isinstance(user, str):
            return self._explainer.matches(user, summary)
        found: tuple[str, ...] = ()
        if self.prompt_settings.reads_preference:
            found = self._explainer.matches(user.preference, summary)
        if self.prompt_settings.reads_history:
            n_read = self.prompt_settings.history_items
            latest = [
                one
                for one in user.history[: -n_read - 1 : -1]
                if one in self._items and one != item_id
            ]
            alike = [] if self._vectors is None else self._vectors.similar(item_id, latest)
            described: dict[str, str] = {}
            for one in latest:
                described.setdefault(self.title(one), self._summaries[one])
            described.pop("", None)
            titles = [title for title in dict.fromkeys(map(self.title, alike)) if title]
            found += tuple(titles[:MAX_TITLES]) or self._explainer.similar(described, summary)
        return found

    def _store(self, row: Mapping[str, Any]) -> None:
        item_id = row["item_id"]
        self._summaries[item_id] = _summary_text(row)
        if row["image_status"] == "unused":
            self._text_only.add(item_id)
        else:
            self._text_only.discard(item_id)
        item = self._items[item_id] = Item.from_row(row)
        if item.title or item.text or item.image is not None:
            self.blank.discard(item_id)
        else:
            self.blank.add(item_id)


def _summary_text(row: Mapping[str, Any]) -> str:
    """Return the summary of an item, or the beginning of its title and text if it has none."""
    return str(row["summary"]) if row["summary"] else _first_words(row["title"], row["text"])


def _first_words(title: str | None, text: str | None) -> str:
    """Return the beginning of a title and text, which stands for a missing summary."""
    return limit_words(". ".join(one for one in (title, text) if one), _SUMMARY_WORDS)[0]
