"""Tests for the item catalog: records, summaries, prompts, matches and added items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from mllm_msr import tables
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.profiles import Profile
from mllm_msr.types import Item, Prompt


def summaries(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Return `tables.SUMMARIES` of ids, summaries and image statuses."""
    values = [(item_id, text, None, text, status, "") for item_id, text, status in rows]
    return pl.DataFrame(values, schema=dict(tables.SUMMARIES), orient="row")


@pytest.fixture
def boat(tmp_path: Path) -> Path:
    """Write an image that can be opened."""
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "boat.png")
    return tmp_path / "boat.png"


@pytest.fixture
def catalog(boat: Path) -> ItemCatalog:
    boat.with_name("song.png").write_bytes(b"damaged")
    items = pl.DataFrame(
        [
            ("boat", "The boat", "A text.", str(boat)),
            ("song", "A song", None, str(boat.with_name("song.png"))),
            ("lamp", "Quiet lantern", None, None),
        ],
        schema=dict(tables.ITEMS),
        orient="row",
    )
    table = summaries(("boat", "a calm boat", "ok"), ("song", "a loud song", "unreadable"))
    return ItemCatalog(items, table, encoder="hashing", item_type="item", max_text_tokens=None)


def text_of(prompt: Prompt) -> str:
    return "".join(getattr(p, "text", "") for m in prompt.messages for p in m.parts)


def test_items_without_content_are_blank_until_they_get_some(
    catalog: ItemCatalog, boat: Path
) -> None:
    assert catalog.blank == set()
    catalog.add(Item("new", ""), summaries(("new", "", "missing")))
    catalog.add(Item("shown", "", "", boat), summaries(("shown", "", "ok")))
    assert catalog.blank == {"new"}
    catalog.add(Item("new", "Calm lantern"), summaries(("new", "a calm lantern", "missing")))
    assert catalog.blank == set()


def test_items_keep_their_order_and_unreadable_images_are_left_out(
    catalog: ItemCatalog, boat: Path
) -> None:
    assert (list(catalog), len(catalog)) == (["boat", "song", "lamp"], 3)
    assert catalog.item("boat") == Item("boat", "The boat", "A text.", boat)
    assert catalog.item("song") == Item("song", "A song", "", None)
    lacking = [item_id for item_id in catalog if catalog.lacks_image(item_id)]
    assert lacking == ["song"]


def test_an_image_is_shown_while_it_can_be_opened(catalog: ItemCatalog, boat: Path) -> None:
    content = boat.read_bytes()
    boat.unlink()
    assert catalog.item("boat").image is None
    boat.write_bytes(content)
    assert catalog.item("boat").image == boat


def test_title_replaces_a_missing_summary(catalog: ItemCatalog) -> None:
    assert [catalog.summary(item_id) for item_id in catalog] == [
        "a calm boat", "a loud song", "Quiet lantern",
    ]  # fmt: skip
    nearest = catalog.index.nearest(catalog.encoder.encode(["a quiet lantern"])[0], 1)[0]
    assert nearest == ["lamp"]


@pytest.mark.parametrize(
    "call",
    [
        lambda catalog: catalog.item("?"),
        lambda catalog: catalog.summary("?"),
        lambda catalog: catalog.prompt("calm", "?"),
        lambda catalog: catalog.matches("calm", "?"),
    ],
    ids=["item", "summary", "prompt", "matches"],
)
def test_unknown_id_raises_key_error(
    catalog: ItemCatalog, call: Callable[[ItemCatalog], Any]
) -> None:
    assert "?" not in catalog
    with pytest.raises(KeyError, match=r"\?"):
        call(catalog)
    assert "?" not in catalog


def test_prompt_contains_preference_title_and_image(catalog: ItemCatalog, boat: Path) -> None:
    prompt = catalog.prompt("likes calm boats", "boat")
    assert "likes calm boats" in text_of(prompt)
    assert "The boat" in text_of(prompt)
    assert prompt.images == (boat,)
    assert not catalog.prompt("likes calm boats", "song").images


def test_prompts_of_runs_with_summaries_of_text_alone_have_no_image(
    catalog: ItemCatalog, boat: Path
) -> None:
    catalog.add(Item("boat", "The boat", "", boat), summaries(("boat", "a boat", "unused")))
    assert catalog.item("boat").image == boat
    assert not catalog.prompt("calm films", "boat").images
    assert not catalog.lacks_image("boat")


def test_matches_are_shared_by_summary_and_preference(catalog: ItemCatalog) -> None:
    assert catalog.matches("The user likes calm boats and songs.", "boat") == ("calm boats",)
    assert catalog.matches("The user likes calm boats and songs.", "song") == ("songs",)


def test_added_item_is_retrieved_prompted_and_explained(catalog: ItemCatalog) -> None:
    catalog.add(Item("new", "Calm lantern"), summaries(("new", "a calm lantern", "missing")))
    assert "new" in catalog
    assert list(catalog)[-1] == "new"
    assert "Calm lantern" in text_of(catalog.prompt("calm", "new"))
    assert catalog.matches("loves a lantern", "new") == ("lantern",)
    assert "new" in catalog.index.nearest(catalog.encoder.encode(["calm lantern"])[0], 4)[0]
    assert catalog.summaries["item_id"].to_list() == ["boat", "song", "new"]


def test_replaced_item_leaves_nothing_of_the_old_one(catalog: ItemCatalog, boat: Path) -> None:
    catalog.add(Item("boat", "The ship", "", boat), summaries(("boat", "ship", "ok")))
    assert (len(catalog), next(iter(catalog))) == (3, "boat")
    assert catalog.item("boat") == Item("boat", "The ship", "", boat)
    assert catalog.summary("boat") == "ship"
    assert "The boat" not in text_of(catalog.prompt("calm", "boat"))
    rows = catalog.summaries.filter(pl.col("item_id") == "boat")
    assert rows["summary"].to_list() == ["ship"]


def test_unreadable_image_of_an_added_item_is_left_out(catalog: ItemCatalog) -> None:
    item = Item("new", "New", "", Path("new.png"))
    catalog.add(item, summaries(("new", "new", "unreadable")))
    assert catalog.item("new").image is None


def test_prompts_show_all_images_that_can_be_opened(boat: Path) -> None:
    side = boat.with_name("side.png")
    Image.new("RGB", (8, 8), "red").save(side)
    lost = str(boat.with_name("lost.png"))
    items = pl.DataFrame(
        [
            ("boat", "The boat", "", str(boat), [str(side)]),
            ("song", "A song", "", lost, [str(side)]),
            ("lamp", "A lamp", "", str(boat), [str(side)]),
        ],
        schema={**tables.ITEMS, **tables.MORE_IMAGES},
        orient="row",
    )
    table = summaries(*((name, "calm", "ok") for name in ("boat", "song")), ("lamp", "", "unused"))
    options = {"encoder": "hashing", "item_type": "item", "max_text_tokens": None}
    catalog = ItemCatalog(items, table, **options)  # type: ignore[arg-type]
    assert [catalog.prompt("calm", name).images for name in catalog] == [(boat, side), (side,), ()]
    assert [name for name in catalog if catalog.lacks_image(name)] == ["song"]
    new = Item("new", "Two boats", "", side, (boat,))
    catalog.add(new, summaries(("new", "boats", "ok")))
    assert catalog.item("new") == new


@pytest.mark.parametrize("reads", ["history", "both"])
def test_prompts_and_explanations_name_the_latest_items(
    reads: str, boat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pl.DataFrame(
        [(name, f"The {name}", f"A {color} {name}.", None) for name, color in
         (("boat", "calm"), ("song", "loud"), ("raft", "calm"), ("lamp", "red"), ("tale", "old"))],
        schema=dict(tables.ITEMS),
        orient="row",
    )  # fmt: skip
    prompt = RecommendSettings.model_validate({"reads": reads, "history_items": 3})
    catalog = ItemCatalog(
        items,
        tables.empty(tables.SUMMARIES),
        encoder="hashing",
        item_type="item",
        prompt=prompt,
        max_text_tokens=None,
    )
    profile = Profile("u", ("raft", "song", "unknown", "boat"), "likes calm things")
    user = catalog.user_input(profile)
    preference = "likes calm things" if reads == "both" else None
    assert user == UserInput(preference, ("The boat", "The song"))
    text = text_of(catalog.prompt(user, "raft"))
    assert '"The boat; The song"' in text
    assert ("likes calm things" in text) == (reads == "both")
    # Without summaries, titles and texts are compared.
    assert catalog.summary("raft") == "The raft. A calm raft."
    assert catalog.matches(profile, "raft")[-1] == "The boat"
    assert ("calm" in catalog.matches(profile, "raft")) == (reads == "both")
    # An item without a title explains nothing.
    untitled = replace(catalog.item("boat"), title="")
    with pytest.MonkeyPatch.context() as changed:
        changed.setitem(catalog._items, "boat", untitled)
        assert not {"", "The boat"} & set(catalog.matches(profile, "raft"))
    # With collaborative tokens, items with similar vectors explain before those with common words.
    read: list[list[str]] = []

    class Alike:
        def similar(self, item_id: str, others: list[str]) -> list[str]:
            read.append(others)
            return ["song"] if item_id == "raft" else []

    monkeypatch.setattr(catalog, "_vectors", Alike())
    assert catalog.matches(profile, "raft")[-1] == "The song"
    assert catalog.matches(profile, "lamp") == ()
    assert read == [["boat", "song"], ["boat", "song"]]  # the items that the prompt names


def test_equal_titles_explain_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("new", "Sea", "A calm boat."),
        ("old", "Sea", "A loud song."),
        ("raft", "Raft", ""),
        ("lamp", "Lamp", ""),
    ]
    items = pl.DataFrame([(*row, None) for row in rows], schema=dict(tables.ITEMS), orient="row")
    catalog = ItemCatalog(
        items,
        summaries(*((name, text, "ok") for name, _, text in rows[:2]), ("raft", "calm boat", "ok")),
        encoder="hashing",
        item_type="item",
        prompt=RecommendSettings(reads="history"),
        max_text_tokens=None,
    )
    profile = Profile("u", ("old", "new"))
    assert catalog.matches(profile, "raft") == ("Sea",)  # that of the latest one

    class Alike:
        def similar(self, item_id: str, others: list[str]) -> list[str]:
            return others

    monkeypatch.setattr(catalog, "_vectors", Alike())
    assert catalog.matches(profile, "raft") == ("Sea",)
    assert catalog.matches(profile, "lamp") == ("Sea",)
    assert catalog.without_vectors().matches(profile, "lamp") == ()


def test_prompts_describe_the_item_if_set(catalog: ItemCatalog) -> None:
    catalog.prompt_settings = RecommendSettings(item_text="summary", use_images=False)
    prompt = catalog.prompt("likes calm boats", "boat")
    assert '"a calm boat"' in text_of(prompt)
    assert prompt.images == ()
    catalog.prompt_settings = RecommendSettings(item_text="text")
    assert '"A text."' in text_of(catalog.prompt("likes calm boats", "boat"))
