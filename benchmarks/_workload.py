"""Reproducible workload of the speed benchmarks, generated like the demo dataset.

Items have titles and drawn covers, and users have histories of twelve items. Summaries and
preferences are the sentences that the demo model was trained to generate. The same arguments
give the same workload on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from mllm_msr import tables
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.demo_model import language
from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.world import World, make_world
from mllm_msr.prompts.item_types import ITEM_TYPES
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.types import Item

ITEM_TYPE: Final = "video"
N_CANDIDATES: Final = 21
_HISTORY_LENGTH: Final = 12


@dataclass(frozen=True, slots=True)
class Workload:
    """A generated catalog from which the benchmarks make histories and prompts.

    Attributes:
        world: The generated items.
        items: `tables.ITEMS`.
    """

    world: World
    items: pl.DataFrame

    @classmethod
    def make(cls, folder: Path, n_items: int) -> Workload:
        """Generate items, and save their covers in a folder."""
        world = make_world(0, n_items=max(n_items, 30), n_users=1)
        rows = []
        for number, item in enumerate(world.items[:n_items]):
            cover = folder / f"{number}.png"
            draw_cover(item, size=256).save(cover)
            texts = {"title": language.title(item), "text": language.text(item)}
            rows.append({"item_id": f"{number:04}", **texts, "image": str(cover)})
        return cls(world, pl.DataFrame(rows, schema=dict(tables.ITEMS)))

    def summaries(self) -> pl.DataFrame:
        """Return `tables.SUMMARIES` with the sentences expected from the demo model."""
        rows = [
            {
                "item_id": item_id,
                "text_summary": language.text_summary(item.values, item.name, item_type=ITEM_TYPE),
                "image_summary": language.image_description(item.values),
                "summary": language.fusion(item.values, item.name, item_type=ITEM_TYPE),
                "image_status": "ok",
                "flags": "",
            }
            for item_id, item in zip(self.items["item_id"], self.world.items, strict=False)
        ]
        return pl.DataFrame(rows, schema=dict(tables.SUMMARIES))

    def histories(self, n_users: int) -> pl.DataFrame:
        """Return `tables.INTERACTIONS` of users with twelve items each."""
        rng = np.random.default_rng(0)
        ids = self.items["item_id"].to_list()
        rows = [
            {
                "user_id": f"u{user:05}",
                "item_id": ids[item],
                "timestamp": position,
                "position": position,
            }
            for user in range(n_users)
            for position, item in enumerate(rng.choice(len(ids), _HISTORY_LENGTH, replace=False))
        ]
        return pl.DataFrame(rows, schema=dict(tables.INTERACTIONS))

    def candidate_lists(self, n_users: int) -> list[Example]:
        """Return one list of 1 + 20 candidates per user, ordered by user, as in an evaluation."""
        rng = np.random.default_rng(1)
        examples = []
        for user in range(n_users):
            preference = self._preference(rng)
            items = rng.choice(len(self.items), N_CANDIDATES, replace=False)
            for index, item in enumerate(items):
                examples.append(self._example(user, int(item), preference, label=int(index == 0)))
        return examples

    def one_list(self, user: int, n_candidates: int, *, order: PromptOrder) -> list[Example]:
        """Return one user's list of candidates, as in a service, with prompts of an order."""
        preference = self._preference(np.random.default_rng([3, user]))
        numbers = [number % len(self.items) for number in range(n_candidates)]
        return [self._example(user, item, preference, label=0, order=order) for item in numbers]

    def training_pairs(self, n_examples: int) -> list[Example]:
        """Return interactions and as many sampled negatives for training, ordered by user."""
        rng = np.random.default_rng(2)
        examples: list[Example] = []
        while len(examples) < n_examples:
            preference = self._preference(rng)
            user = len(examples) // 2
            for label, item in zip((1, 0), rng.integers(len(self.items), size=2), strict=True):
                examples.append(self._example(user, int(item), preference, label=label))
        return examples[:n_examples]

    def texts(self) -> Iterator[str]:
        """Yield texts of the prompts, to train a tokenizer on."""
        yield from self.items["title"]
        yield from self.summaries()["summary"]
        for example in self.training_pairs(8):
            for message in example.prompt.messages:
                yield " ".join(getattr(part, "text", "") for part in message.parts)
        yield from (f"{words.plural} {words.chose}" for words in ITEM_TYPES.values())

    def _preference(self, rng: np.random.Generator) -> str:
        item = self.world.items[int(rng.integers(len(self.items), size=1)[0])]
        return language.preference(item.values, item_type=ITEM_TYPE)

    def _example(
        self,
        user: int,
        item: int,
        preference: str,
        *,
        label: int,
        order: PromptOrder = "item-first",
    ) -> Example:
        row = self.items.row(item, named=True)
        candidate = Item(row["item_id"], row["title"], image=Path(row["image"]))
        prompt = build_prompt(preference, candidate, item_type=ITEM_TYPE, order=order)
        return Example(
            fold=0,
            split="test",
            negatives="uniform",
            user_id=f"u{user:05}",
            position=_HISTORY_LENGTH,
            item_id=row["item_id"],
            label=label,
            prompt=prompt,
        )
