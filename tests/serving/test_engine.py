"""Requests that meet: items and events at the same time, updates beside lists, forgotten users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr.interfaces import Backend
from mllm_msr.recommending import MllmMsr
from mllm_msr.records import Item
from mllm_msr.retrieval import Profile
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.judging import Judge
from mllm_msr.serving.metrics import Metrics
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.users import ItemExistsError
from online_worlds import MoodyBackend

Start = Callable[[], OnlineEngine]


@pytest.fixture
def start(run: Path, tmp_path: Path, scorer: MoodyBackend, writer: MoodyBackend) -> Iterator[Start]:
    """Makes an engine over one database; to be called in an event loop."""
    with ExitStack() as opened:

        def make() -> OnlineEngine:
            model = MllmMsr.from_run(run)
            state = ServiceState(f"sqlite:///{tmp_path / 'state.sqlite'}")
            opened.callback(state.close)
            return OnlineEngine(
                model,
                state,
                settings=model.settings.serve,
                pictures=tmp_path / "pictures",
                metrics=Metrics(),
            )

        yield make
        scorer.gate.set()
        writer.gate.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def test_an_item_that_arrives_while_events_wait_changes_no_status(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    add_item = ServiceState.add_item

    def slowly(self: ServiceState, row: Mapping[str, Any]) -> bool:
        gate.wait(20)
        return add_item(self, row)

    monkeypatch.setattr(ServiceState, "add_item", slowly)

    async def main() -> None:
        engine = start()
        adding = asyncio.create_task(engine.add_item(Item("late", "Thing 7"), None))
        await until(engine._writes.locked)
        events = [("1", "u", "late", None), ("2", "u", "item1", None)]
        sending = asyncio.create_task(engine.add_events(events))
        await asyncio.sleep(0)  # it has seen that the item is unknown, and waits
        gate.set()
        assert (await adding)[1]
        assert await sending == ["unknown_item", "accepted"]
        assert await engine.add_events(events) == ["accepted", "duplicate"]
        await engine.stop()

    asyncio.run(main())


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


def test_the_model_is_not_warmed_up_with_a_forgotten_users_preference(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    async def warm_up(self: Judge, item_ids: Any, preference: str) -> None:
        shown.append(preference)

    monkeypatch.setattr(Judge, "warm_up", warm_up)
    monkeypatch.setattr(MllmMsr, "preference", lambda self, user_id: f"what {user_id} likes")

    async def main() -> None:
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.forget("user0")
        await engine.stop()
        engine = start()
        await engine.start()
        await asyncio.sleep(0)
        await engine.stop()

    asyncio.run(main())
    assert shown == ["what user0 likes", "what user1 likes"]


def test_somebody_who_waits_does_not_stand_behind_updates(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    infer = MllmMsr.infer

    def slow_for_users(
        self: MllmMsr, profile: Profile, trail: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        if profile.user_id:
            gate.wait(20)
        return infer(self, profile, trail, backend)

    monkeypatch.setattr(MllmMsr, "infer", slow_for_users)

    async def main() -> None:
        engine = start()
        events = [(str(n), f"late{n}", "item1", None) for n in range(20)]
        await engine.add_events(events)
        found = await engine.anonymous(["item1", "item2"])
        assert found.profile.preference.startswith("The user appears")
        gate.set()
        await until(lambda: not any(engine.users.updating(event[1]) for event in events))
        await engine.stop()

    try:
        asyncio.run(main())
    finally:
        gate.set()


def test_items_of_an_earlier_service_are_there_with_their_pictures(
    start: Start, pictures: list[Path], tmp_path: Path
) -> None:
    async def main() -> None:
        engine = start()
        row, new = await engine.add_item(Item("shown", "Thing 7"), pictures[0].read_bytes())
        assert (new, row["image_status"]) == (True, "ok")
        await engine.stop()
        for path in (tmp_path / "pictures").iterdir():
            path.unlink()
        engine = start()
        await engine.start()
        path = engine.catalogue.item("shown").image
        assert path is not None
        assert path.read_bytes() == row["image"]
        assert await engine.add_item(Item("shown", "Thing 7"), pictures[0].read_bytes()) == (
            row, False,
        )  # fmt: skip
        await engine.stop()

    asyncio.run(main())
