"""Items that come: kept once, told anew at the next start, made up for where adding them failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.retrieval import VectorIndex
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.users import ItemExistsError
from mllm_msr.types import Item
from online_worlds import MoodyBackend

Start = Callable[[], OnlineEngine]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("same", [True, False])
def test_of_two_items_under_one_id_at_the_same_time_one_is_kept(
    start: Start, writer: MoodyBackend, same: bool
) -> None:
    async def main() -> None:
        engine = start()
        writer.gate.clear()
        items = [Item("twin", "Thing 7"), Item("twin", "Thing 7" if same else "Thing 8")]
        asked = [asyncio.create_task(engine.add_item(item, None)) for item in items]
        await until(lambda: engine._writer.waiting + sum(writer.batches) == 2)
        writer.gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        kept = engine.catalogue.item("twin").title
        refused = [one for one in found if isinstance(one, ItemExistsError)]
        added = [one for one in found if not isinstance(one, BaseException)]
        assert [len(refused), len(added)] == ([0, 2] if same else [1, 1])
        assert sum(new for _, new in added) == 1
        assert {row["title"] for row, _ in added} == {kept}
        await engine.stop()

    asyncio.run(main())


def test_items_of_an_earlier_service_are_there_with_their_images(
    start: Start, images: list[Path], tmp_path: Path
) -> None:
    async def main() -> None:
        engine = start()
        row, new = await engine.add_item(Item("shown", "Thing 7"), images[0].read_bytes())
        assert (new, row["image_status"]) == (True, "ok")
        await engine.stop()
        for path in (tmp_path / "images").iterdir():
            path.unlink()
        engine = start()
        await engine.start()
        path = engine.catalogue.item("shown").image
        assert path is not None
        assert path.read_bytes() == row["image"]
        assert await engine.add_item(Item("shown", "Thing 7"), images[0].read_bytes()) == (
            row, False,
        )  # fmt: skip
        await engine.stop()

    asyncio.run(main())


def test_an_item_that_is_kept_but_could_not_be_added_is_added_by_the_same_request(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = VectorIndex.add

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    async def main() -> None:
        engine = start()
        monkeypatch.setattr(VectorIndex, "add", fail)
        with pytest.raises(RunFolderError, match=r"'late'.*MemoryError: no room.*send the item"):
            await engine.add_item(Item("late", "Thing 7"), None)
        assert "late" not in engine.catalogue
        monkeypatch.setattr(VectorIndex, "add", add)
        with pytest.raises(ItemExistsError):
            await engine.add_item(Item("late", "Thing 8"), None)
        _, new = await engine.add_item(Item("late", "Thing 7"), None)
        assert not new
        assert engine.catalogue.item("late").title == "Thing 7"
        user = await engine.anonymous(["item1"])
        found = await engine.recommend(user, k=100, budget=0, exclude_seen=True)
        assert "late" in {one.item_id for one in found.items}
        await engine.stop()

    asyncio.run(main())


def test_an_item_that_cannot_be_taken_up_keeps_no_service_from_starting(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = Catalogue.add

    def fail_once(self: Catalogue, item: Item, summaries: pl.DataFrame) -> None:
        if item.item_id == "bad":
            raise OSError("no room")
        add(self, item, summaries)

    async def main() -> None:
        engine = start()
        for name in ("bad", "good"):
            await engine.add_item(Item(name, f"Thing {name}"), None)
        await engine.stop()
        monkeypatch.setattr(Catalogue, "add", fail_once)
        engine = start()
        await engine.start()
        assert ["bad" in engine.catalogue, "good" in engine.catalogue] == [False, True]
        await engine.stop()

    asyncio.run(main())
    assert "needed the item 'bad'" in caplog.text
