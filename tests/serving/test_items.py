"""Tests for new items: stored once, restored at the next start, repaired after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.settings import ImagesSettings
from mllm_msr.errors import RunFolderError
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.vector_index import VectorIndex
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.items import ItemExistsError
from mllm_msr.serving.list_builder import ListOptions
from mllm_msr.types import Item, Prompt
from online_worlds import FakeBackend, until

Start = Callable[[], OnlineEngine]


@pytest.mark.parametrize("same", [True, False])
def test_one_of_two_concurrent_items_with_the_same_id_is_stored(
    start: Start, preference_model: FakeBackend, same: bool
) -> None:
    async def main() -> None:
        engine = start()
        preference_model.gate.clear()
        items = [Item("twin", "Thing 7"), Item("twin", "Thing 7" if same else "Thing 8")]
        asked = [asyncio.create_task(engine.add_item(item)) for item in items]
        await until(lambda: engine._preference_queue.waiting + sum(preference_model.batches) == 2)
        preference_model.gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        kept = engine.catalog.item("twin").title
        refused = [one for one in found if isinstance(one, ItemExistsError)]
        added = [one for one in found if not isinstance(one, BaseException)]
        assert [len(refused), len(added)] == ([0, 2] if same else [1, 1])
        assert sum(new for _, new in added) == 1
        assert {row["title"] for row, _ in added} == {kept}
        await engine.stop()

    asyncio.run(main())


def test_titles_and_texts_are_cleaned(start: Start) -> None:
    async def main() -> None:
        engine = start()
        escaped = Item("new", "<b>Thing</b> &amp;amp; 7\u202e", "Soft&nbsp;\x07wool")
        row, _ = await engine.add_item(escaped)
        assert (row["title"], row["text"]) == ("Thing & 7", "Soft wool")
        assert engine.catalog.item("new").title == "Thing & 7"
        plain = Item("new", "Thing & 7", "Soft wool")
        assert await engine.add_item(plain) == (row, False)
        await engine.stop()

    asyncio.run(main())


def test_restart_restores_items_with_their_images(
    start: Start, images: list[Path], tmp_path: Path
) -> None:
    async def main() -> None:
        engine = start()
        row, new = await engine.add_item(Item("shown", "Thing 7"), [images[0].read_bytes()])
        assert (new, row["image_status"]) == (True, "ok")
        await engine.stop()
        for path in (tmp_path / "images").iterdir():
            path.unlink()
        engine = start()
        await engine.start()
        path = engine.catalog.item("shown").image
        assert path is not None
        assert path.read_bytes() == row["image"]
        assert await engine.add_item(Item("shown", "Thing 7"), [images[0].read_bytes()]) == (
            row, False,
        )  # fmt: skip
        await engine.stop()

    asyncio.run(main())


def test_several_images_of_an_item_are_described_and_restored(
    start: Start,
    images: list[Path],
    tmp_path: Path,
    preference_model: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[int] = []
    receive = preference_model._receive

    def record(prompts: Iterable[Prompt]) -> Iterable[Prompt]:
        prompts = list(prompts)
        shown.extend(len(prompt.images) for prompt in prompts if prompt.images)
        return receive(prompts)

    monkeypatch.setattr(preference_model, "_receive", record)
    contents = [path.read_bytes() for path in images[:3]]

    async def main() -> None:
        engine = start()
        read = {"images": ImagesSettings(per_item=2)}
        engine._model.settings = engine._model.settings.model_copy(update=read)
        row, _ = await engine.add_item(Item("shown", "Thing 7"), contents)
        assert shown == [2]
        twice, _ = await engine.add_item(Item("same", "Thing 8"), contents[:1] * 2)
        assert shown == [2, 1]
        assert twice["more_images"] == []
        await engine.stop()
        for path in (tmp_path / "images").iterdir():
            path.unlink()
        engine = start()
        await engine.start()
        stored = engine.catalog.item("shown").images
        assert [path.read_bytes() for path in stored] == [row["image"], *row["more_images"]]
        assert len(set(stored)) == 2
        assert await engine.add_item(Item("shown", "Thing 7"), contents) == (row, False)
        with pytest.raises(ItemExistsError):
            await engine.add_item(Item("shown", "Thing 7"), contents[:2])
        await engine.stop()

    asyncio.run(main())


def test_repeated_request_adds_a_stored_item_to_the_catalog(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = VectorIndex.add

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    async def main() -> None:
        engine = start()
        monkeypatch.setattr(VectorIndex, "add", fail)
        with pytest.raises(
            RunFolderError,
            match=r"^Item 'late' is stored but .* catalog: no room\. Send the same request",
        ):
            await engine.add_item(Item("late", "Thing 7"))
        assert "late" not in engine.catalog
        monkeypatch.setattr(VectorIndex, "add", add)
        with pytest.raises(ItemExistsError, match="Another item has the id 'late'"):
            await engine.add_item(Item("late", "Thing 8"))
        _, new = await engine.add_item(Item("late", "Thing 7"))
        assert not new
        assert engine.catalog.item("late").title == "Thing 7"
        user = await engine.anonymous_user(["item1"])
        built = await engine.recommend(user, ListOptions(k=100, budget=0))
        assert "late" in {one.item_id for one in built.recommendations.items}
        await engine.stop()

    asyncio.run(main())


def test_service_starts_even_if_an_item_cannot_be_restored(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = ItemCatalog.add

    def fail_once(self: ItemCatalog, item: Item, summaries: pl.DataFrame) -> None:
        if item.item_id == "bad":
            raise OSError("no room")
        add(self, item, summaries)

    async def main() -> None:
        engine = start()
        for name in ("bad", "good"):
            await engine.add_item(Item(name, f"Thing {name}"))
        await engine.stop()
        monkeypatch.setattr(ItemCatalog, "add", fail_once)
        engine = start()
        await engine.start()
        assert ["bad" in engine.catalog, "good" in engine.catalog] == [False, True]
        await engine.stop()

    asyncio.run(main())
    assert "Item 'bad' could not be added" in caplog.text
    assert "no room" in caplog.text
