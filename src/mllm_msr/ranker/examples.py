"""Examples: prompts of the MLLM ranker (Figure 3) for training, scoring and serving.

A candidate row becomes an `Example`: what the ranker reads about the user before the target
(`user_inputs.py`), the title and image of the candidate, and the question whether the user
interacts with it next. The prompt begins with the candidate, as in the paper, or with the user
(`recommend.order`): prompts share the work on what they begin with. Examples contain no tensors and
no model-specific markup. Section "Tuning MLLM based Recommender" of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl

from mllm_msr.config.recommend_settings import DEFAULT_PROMPT, PromptOrder, RecommendSettings
from mllm_msr.errors import DataError
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.prompts.templates import limit_words, render
from mllm_msr.ranker.collaborative import CollaborativeVectors, hide_item, insert_vectors
from mllm_msr.ranker.user_inputs import UserInput, UserInputs
from mllm_msr.tables import CANDIDATES, IMAGE_COLUMNS, ITEMS, conform
from mllm_msr.types import Item, Prompt

# Answers of the ranker, the positive one first. Their probabilities define the score of an item.
CHOICES: Final = ("yes", "no")

_HIDDEN_SHARE: Final = 0.1

# Template of the paper's prompt for each order, and of the prompts with other inputs.
TEMPLATES: Final[Mapping[PromptOrder, str]] = MappingProxyType(
    {
        "item-first": "recommend",
        "user-first": "recommend_user_first",
        "reranker": "recommend_reranker",
    }
)
HISTORY_TEMPLATES: Final[Mapping[PromptOrder, str]] = MappingProxyType(
    {
        "item-first": "recommend_history",
        "user-first": "recommend_history_user_first",
        "reranker": "recommend_history_reranker",
    }
)


@dataclass(frozen=True, slots=True)
class Example:
    """A candidate row and its prompt.

    Attributes:
        fold: Fold of the row.
        split: "train", "validation" or "test".
        negatives: How the negatives of the target were sampled ("uniform" or "popularity").
        user_id: The user; never part of the prompt.
        position: The target's position in the user's history.
        item_id: The candidate; never part of the prompt.
        label: 1 if the candidate is the target, else 0.
        prompt: Question whether the user interacts with the candidate next.
    """

    fold: int
    split: str
    negatives: str
    user_id: str
    position: int
    item_id: str
    label: int
    prompt: Prompt

    @property
    def answer(self) -> str:
        """Return the answer that the model is trained to give."""
        positive, negative = CHOICES
        return positive if self.label == 1 else negative


def template_name(settings: RecommendSettings) -> str:
    """Return the name of the template of the ranker's prompts."""
    is_papers = settings.reads == "preference" and settings.item_text == "none"
    return (TEMPLATES if is_papers else HISTORY_TEMPLATES)[settings.order]


def build_prompt(
    user: str | UserInput,
    item: Item,
    *,
    item_type: str | ItemType,
    order: PromptOrder = "item-first",
    text: str | None = None,
    max_text_tokens: int | None = None,
    use_images: bool = True,
    vectors: CollaborativeVectors | None = None,
) -> Prompt:
    """Build the question whether a user interacts with an item next.

    Args:
        user: What is known about the user; a text is a written preference. A neutral sentence
            replaces a blank preference.
        item: Candidate. Its id and its text are not part of the prompt, as in the paper.
        item_type: Word for an item in the prompt, such as "movie".
        order: Whether the prompt begins with the candidate's images or with the user.
        text: Text about the candidate beside its title; None if the model does not read any.
        max_text_tokens: Upper bound on the text tokens. `text` is trimmed first, then the
            preference, the history and the title.
        use_images: Show the images of the item if it has some.
        vectors: Vectors of the item, if `user` has a state.

    Returns:
        A prompt that asks for one new token, the answer.
    """
    if isinstance(user, str):
        user = UserInput(user)
    data: dict[str, str | None] = {**user.variables(), "title": item.title}
    templates = TEMPLATES
    if user.history is None and text is None:
        del data["history"]
    else:
        templates = HISTORY_TEMPLATES
        data["text"] = text or None
    cut_first = ("text", "preference", "history", "title")
    trimmable = [name for name in cut_first if data.get(name) is not None]
    prompt = render(
        templates[order],
        data,
        item_type=item_type,
        images=item.images if use_images else (),
        trimmable=trimmable,
        max_new_tokens=1,
        max_text_tokens=max_text_tokens,
    )
    if vectors is None or user.state is None:
        return prompt
    known = "preference" if user.history is None else "history"
    return insert_vectors(
        prompt,
        vectors.parts(user.state, item.item_id),
        after_user=trimmable.index(known) + 1,
        after_item=trimmable.index("title") + 1,
    )


def item_text(item: Item, summary: str, settings: RecommendSettings) -> str | None:
    """Return what prompts say about a candidate beside its title; None for nothing.

    Args:
        item: The candidate.
        summary: Its summary; may be blank.
        settings: The section `recommend`.
    """
    if settings.item_text == "none":
        return None
    text = item.text if settings.item_text == "text" else summary
    return limit_words(text, settings.item_words)[0]


def build_examples(
    candidates: pl.DataFrame,
    preferences: pl.DataFrame | None,
    items: pl.DataFrame,
    *,
    item_type: str | ItemType,
    settings: RecommendSettings = DEFAULT_PROMPT,
    interactions: pl.DataFrame | None = None,
    summaries: pl.DataFrame | None = None,
    vectors: CollaborativeVectors | None = None,
    max_text_tokens: int | None = None,
) -> Iterator[Example]:
    """Build examples of candidate rows lazily, in the order of the rows.

    A row gets the latest preference of its user that was inferred from interactions before the
    row's position, and the titles of the latest items before it, as `settings.reads` says.

    Args:
        candidates: `tables.CANDIDATES`.
        preferences: `tables.PREFERENCES`: all preferences of each user, in any order. None if the
            prompts do not contain them.
        items: `tables.ITEMS` with image paths that can be opened; items without an image get the
            text-only prompt.
        item_type: Word for an item in the prompts, such as "movie".
        settings: Content of the prompts.
        interactions: `tables.INTERACTIONS`, if the prompts contain a history or vectors.
        summaries: `tables.SUMMARIES`, if the prompts contain the candidate's summary.
        vectors: Vectors of users and items, if the prompts contain them.
        max_text_tokens: Upper bound on the text tokens of each prompt.

    Raises:
        DataError: A table or a column is missing, or a candidate is not among the items.
    """
    rows = conform(candidates, CANDIDATES, name="candidates")
    catalog = _items_of(rows, items)
    written = _written(summaries, settings)
    users = UserInputs(
        settings,
        preferences=preferences,
        interactions=interactions,
        titles={item.item_id: item.title for item in catalog.values()},
        vectors=vectors,
        targets=rows,
    )
    return (
        Example(
            **row,
            prompt=build_prompt(
                users.before(row["user_id"], row["position"]),
                item := catalog[row["item_id"]],
                item_type=item_type,
                order=settings.order,
                text=item_text(item, written.get(item.item_id) or "", settings),
                max_text_tokens=max_text_tokens,
                use_images=settings.use_images,
                vectors=vectors,
            ),
        )
        for row in rows.iter_rows(named=True)
    )


def hide_some_items(examples: Iterable[Example], *, seed: int) -> list[Example]:
    """Return training examples, a tenth of them without the vectors of their candidate.

    The ranker then learns what to do with items that the collaborative model does not know, also
    from data in which they are rare.
    """
    generator = np.random.default_rng(seed)
    return [
        replace(example, prompt=hide_item(example.prompt))
        if example.prompt.vectors and generator.random() < _HIDDEN_SHARE
        else example
        for example in examples
    ]


def _written(summaries: pl.DataFrame | None, settings: RecommendSettings) -> dict[str, str | None]:
    """Return the summaries by item; check that there are some if the prompts contain them."""
    if summaries is None:
        if settings.item_text == "summary":
            raise DataError(
                "recommend.item_text=summary needs summaries. Run the stage 'summarize'."
            )
        return {}
    return dict(summaries.select("item_id", "summary").iter_rows())


def items_by_id(items: pl.DataFrame) -> dict[str, Item]:
    """Return the items of `tables.ITEMS` by their ids."""
    rows = conform(items, ITEMS, name="items").iter_rows(named=True)
    return {row["item_id"]: Item.from_row(row) for row in rows}


def _items_of(candidates: pl.DataFrame, items: pl.DataFrame) -> dict[str, Item]:
    """Return all items by id; check that the candidates are among them."""
    catalog = items_by_id(items)
    unknown = candidates.filter(~pl.col("item_id").is_in(list(catalog)))
    if unknown.height:
        raise DataError(
            f"{unknown.height} candidates are not in the items table, such as "
            f"{unknown['item_id'][0]!r}. Add them to the items, or prepare the candidates again."
        )
    return catalog


def hide_unused_images(items: pl.DataFrame, summaries: pl.DataFrame | None) -> pl.DataFrame:
    """Remove the images of items whose summaries were made from text alone.

    A run without the modality "image" is for models that read only text, so its ranker must not
    show images either.

    Args:
        items: `tables.ITEMS`.
        summaries: `tables.SUMMARIES`, or `None` if there are none.
    """
    if summaries is None:
        return items
    unused = summaries.filter(pl.col("image_status") == "unused")["item_id"]
    is_used = ~pl.col("item_id").is_in(unused.implode())
    return items.with_columns(pl.when(is_used).then(IMAGE_COLUMNS))
