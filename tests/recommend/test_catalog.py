"""The catalogue: what it holds, what it refuses, how it grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.types import Item, Prompt


def summaries(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """`tables.SUMMARIES` of ids, summaries and how it stands with their images."""
    found = [(item_id, text, None, text, status, "") for item_id, text, status in rows]
    return pl.DataFrame(found, schema=dict(tables.SUMMARIES), orient="row")


@pytest.fixture
def catalogue() -> Catalogue:
    items = pl.DataFrame(
        [
            ("boat", "The boat", "A text.", "boat.png"),
            ("song", "A song", None, "song.png"),
            ("bare", "Untold lantern", None, None),
        ],
        schema=dict(tables.ITEMS),
        orient="row",
    )
    told = summaries(("boat", "a calm boat", "ok"), ("song", "a loud song", "unreadable"))
    return Catalogue(items, told, encoder="hashing", item_type="item", max_text_tokens=None)


def text_of(prompt: Prompt) -> str:
    return "".join(getattr(p, "text", "") for m in prompt.messages for p in m.parts)


def test_items_keep_their_order_and_only_images_that_can_be_opened(catalogue: Catalogue) -> None:
    assert (list(catalogue), len(catalogue)) == (["boat", "song", "bare"], 3)
    assert catalogue.item("boat") == Item("boat", "The boat", "A text.", Path("boat.png"))
    assert catalogue.item("song") == Item("song", "A song", "", None)


def test_an_item_without_a_summary_is_told_by_its_title(catalogue: Catalogue) -> None:
    assert [catalogue.summary(one) for one in catalogue] == [
        "a calm boat", "a loud song", "Untold lantern",
    ]  # fmt: skip
    nearest = catalogue.index.nearest(catalogue.encoder.encode(["an untold lantern"])[0], 1)
    assert nearest == ["bare"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda known: known.item("?"),
        lambda known: known.summary("?"),
        lambda known: known.prompt("calm", "?"),
        lambda known: known.answers("calm", "?"),
    ],
    ids=["item", "summary", "prompt", "answers"],
)
def test_an_unknown_id_is_never_made_up(
    catalogue: Catalogue, ask: Callable[[Catalogue], Any]
) -> None:
    assert "?" not in catalogue
    with pytest.raises(KeyError, match=r"\?"):
        ask(catalogue)
    assert "?" not in catalogue


def test_the_prompt_holds_preference_title_and_image(catalogue: Catalogue) -> None:
    prompt = catalogue.prompt("likes calm boats", "boat")
    assert "likes calm boats" in text_of(prompt)
    assert "The boat" in text_of(prompt)
    assert Path("boat.png") in prompt.images
    assert not catalogue.prompt("likes calm boats", "song").images


def test_an_item_answers_what_its_summary_shares_with_the_preference(catalogue: Catalogue) -> None:
    assert catalogue.answers("The user likes calm boats and songs.", "boat") == ("calm boats",)
    assert catalogue.answers("The user likes calm boats and songs.", "song") == ("songs",)


def test_a_new_item_is_found_asked_about_and_explained(catalogue: Catalogue) -> None:
    catalogue.add(Item("new", "Calm lantern"), summaries(("new", "a calm lantern", "missing")))
    assert "new" in catalogue
    assert list(catalogue)[-1] == "new"
    assert "Calm lantern" in text_of(catalogue.prompt("calm", "new"))
    assert catalogue.answers("loves a lantern", "new") == ("lantern",)
    assert "new" in catalogue.index.nearest(catalogue.encoder.encode(["calm lantern"])[0], 4)
    assert catalogue.summaries["item_id"].to_list() == ["boat", "song", "new"]


def test_a_replaced_item_leaves_nothing_of_the_old_one(catalogue: Catalogue) -> None:
    catalogue.add(Item("boat", "The ship", "", Path("ship.png")), summaries(("boat", "ship", "ok")))
    assert (len(catalogue), next(iter(catalogue))) == (3, "boat")
    assert catalogue.item("boat") == Item("boat", "The ship", "", Path("ship.png"))
    assert catalogue.summary("boat") == "ship"
    assert "The boat" not in text_of(catalogue.prompt("calm", "boat"))
    kept = catalogue.summaries.filter(pl.col("item_id") == "boat")
    assert kept["summary"].to_list() == ["ship"]


def test_a_new_items_unreadable_image_is_left_out(catalogue: Catalogue) -> None:
    shown = Item("new", "New", "", Path("new.png"))
    catalogue.add(shown, summaries(("new", "new", "unreadable")))
    assert catalogue.item("new").image is None
