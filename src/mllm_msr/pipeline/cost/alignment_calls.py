"""Calls of the stage "align" for a sample of items, for `estimate.py`."""

from __future__ import annotations

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.cost.token_counter import Call, TokenCounter
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.types import Item


def alignment_calls(
    items: pl.DataFrame, counter: TokenCounter, settings: Settings, *, item_type: ItemType
) -> list[Call]:
    """Return one pass over the training examples of some items.

    Args:
        items: `tables.ITEMS`; items without a readable image have no examples.
        counter: Counts tokens.
        settings: The run's settings.
        item_type: Words for an item.

    Raises:
        BackendError: The model reads no images.
    """
    from mllm_msr.ranker.alignment.examples import alignment_examples  # noqa: PLC0415 - PyTorch

    examples = alignment_examples(
        map(Item.from_row, items.iter_rows(named=True)),
        item_type=item_type,
        words=settings.summarize.image_words,
    )
    longest = settings.align.max_answer_tokens
    return [
        Call(
            counter.count(example.prompt),
            min(longest, counter.count_text(example.answer)),
            n_characters=0,
        )
        for example in examples
    ]
