"""Fixed work for the benchmarks of speed, out of the generated world that `make demo` shows.

Items have titles and drawn covers, users have histories of twelve items; summaries and preferences
are the sentences that the packaged model was taught to write. The same arguments give the same
work everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from mllm_msr import tables
from mllm_msr.demo_model import language
from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.world import World, make_world
from mllm_msr.prompts.templates import ITEM_TYPES
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.types import Item

NOUN: Final = "video"
CANDIDATES: Final = 21
_HISTORY: Final = 12


@dataclass(frozen=True, slots=True)
class Work:
    """A catalogue and what is asked of it.

    Attributes:
        world: The generated items.
        items: `tables.ITEMS`.
    """

    world: World
    items: pl.DataFrame

    @classmethod
    def make(cls, folder: Path, n_items: int) -> Work:
        """Generate items and draw their covers into a folder."""
        world = make_world(0, n_items=max(n_items, 30), n_users=1)
        rows = []
        for number, item in enumerate(world.items[:n_items]):
            cover = folder / f"{number}.png"
            draw_cover(item, size=256).save(cover)
            texts = {"title": language.title(item), "text": language.text(item)}
            rows.append({"item_id": f"{number:04}", **texts, "image": str(cover)})
        return cls(world, pl.DataFrame(rows, schema=dict(tables.ITEMS)))

    def summaries(self) -> pl.DataFrame:
        """`tables.SUMMARIES`: what the packaged model is meant to write about the items."""
        rows = [
            {
                "item_id": item_id,
                "text_summary": language.text_summary(item.values, item.name, item_type=NOUN),
                "image_summary": language.image_description(item.values),
                "summary": language.fusion(item.values, item.name, item_type=NOUN),
                "image_status": "ok",
                "flags": "",
            }
            for item_id, item in zip(self.items["item_id"], self.world.items, strict=False)
        ]
        return pl.DataFrame(rows, schema=dict(tables.SUMMARIES))

    def histories(self, n_users: int) -> pl.DataFrame:
        """`tables.INTERACTIONS` of users who met twelve items each."""
        chance = np.random.default_rng(0)
        ids = self.items["item_id"].to_list()
        rows = [
            {"user_id": f"u{user:05}", "item_id": ids[item], "timestamp": place, "position": place}
            for user in range(n_users)
            for place, item in enumerate(chance.choice(len(ids), _HISTORY, replace=False))
        ]
        return pl.DataFrame(rows, schema=dict(tables.INTERACTIONS))

    def candidate_lists(self, n_users: int) -> list[Example]:
        """One list of 1 + 20 candidates per user, user after user, as an evaluation has them."""
        chance = np.random.default_rng(1)
        examples = []
        for user in range(n_users):
            preference = self._preference(chance)
            for place, item in enumerate(chance.choice(len(self.items), CANDIDATES, replace=False)):
                examples.append(self._example(user, int(item), preference, label=int(place == 0)))
        return examples

    def training_pairs(self, n_examples: int) -> list[Example]:
        """Interactions to learn from and as many sampled negatives, user after user."""
        chance = np.random.default_rng(2)
        examples: list[Example] = []
        while len(examples) < n_examples:
            preference = self._preference(chance)
            user = len(examples) // 2
            for label, item in zip((1, 0), chance.integers(len(self.items), size=2), strict=True):
                examples.append(self._example(user, int(item), preference, label=label))
        return examples[:n_examples]

    def texts(self) -> Iterator[str]:
        """Everything that prompts say, for a tokenizer to be trained on."""
        yield from self.items["title"]
        yield from self.summaries()["summary"]
        for example in self.training_pairs(8):
            for message in example.prompt.messages:
                yield " ".join(getattr(part, "text", "") for part in message.parts)
        yield from (f"{words.plural} {words.chose}" for words in ITEM_TYPES.values())

    def _preference(self, chance: np.random.Generator) -> str:
        """A user's preference of one to three sentences."""
        liked = chance.integers(len(self.items), size=1)
        sentences = (language.preference(self.world.items[i].values, item_type=NOUN) for i in liked)
        return " ".join(sentences)

    def _example(self, user: int, item: int, preference: str, *, label: int) -> Example:
        row = self.items.row(item, named=True)
        shown = Item(row["item_id"], row["title"], image=Path(row["image"]))
        prompt = build_prompt(preference, shown, item_type=NOUN)
        return Example(0, "test", "uniform", f"u{user:05}", _HISTORY, row["item_id"], label, prompt)
