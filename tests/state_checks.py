"""Contract of the service's state, checked for every supported database."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_msr.serving.state import NewEvent, ServiceState
from mllm_msr.tables import PREFERENCES

PREFERENCE_HISTORY = pl.DataFrame(
    [("u", 0, 3, "first", False, ""), ("u", 1, 4, "second", True, "cut")],
    schema=dict(PREFERENCES),
    orient="row",
)
ITEM = {
    "item_id": "new", "title": "T", "text": "", "image": b"png", "digest": "d",
    "more_images": [b"second", b"third"],
    "text_summary": None, "image_summary": "red", "summary": "T red", "image_status": "ok",
    "flags": "",
}  # fmt: skip


def check_everything(open_state: Callable[[], ServiceState]) -> None:
    """Check events, preferences, items, removal and deletion, including a restart.

    Args:
        open_state: Function that opens the same, initially empty database in each call.
    """
    state = open_state()
    events = [NewEvent("1", "u", "a", 5), NewEvent("2", "u", "b")]
    assert state.add_events(events) == [True, True]
    # An event with a known id is ignored, even if its content differs.
    events = [NewEvent("1", "v", "z", 9), NewEvent("3", "u", "a", 1), NewEvent("3", "u", "c", 1)]
    assert state.add_events(events) == [False, True, False]
    state.set_preference_history("u", PREFERENCE_HISTORY[:1])
    state.set_preference_history("u", PREFERENCE_HISTORY)
    assert state.add_item(ITEM)
    assert not state.add_item({**ITEM, "title": "other"})
    state.close()
    state = open_state()
    user = state.user("u")
    assert (user.history, user.deleted) == (("a", "b", "a"), False)
    assert user.preference_history.equals(PREFERENCE_HISTORY)
    assert state.users_with_events() == ["u"]
    assert state.item("new") == ITEM
    assert list(state.items()) == [ITEM]
    assert state.item("old") is None
    assert state.delete_user("u", in_run=True) == (3, 2)
    assert state.delete_user("u", in_run=True) == (0, 0)
    assert state.delete_user("w", in_run=False) == (0, 0)
    deleted = state.user("u")
    assert (deleted.history, deleted.preference_history.height, deleted.deleted) == ((), 0, True)
    assert not state.user("w").deleted
    assert state.add_events([NewEvent("4", "u", "d")]) == [True]
    assert state.user("u").history == ("d",)
    check_removal(state)
    state.check()
    state.close()


def check_removal(state: ServiceState) -> None:
    """Check that a removed event is gone with the preferences that were inferred from it."""

    def remove(event_id: str, user_id: str = "r", n_run_read: int = 0) -> str:
        return state.remove_event(user_id, event_id, n_run_items=2, n_run_read=n_run_read)

    def n_items_read() -> list[int]:
        return state.user("r").preference_history["n_items"].to_list()

    events = [NewEvent(f"r{n}", "r", f"item{n}") for n in range(3)]
    state.add_events([*events, NewEvent("no", "r", "item9", None, "dislike")])
    read = [("r", n, n_items, "text", True, "") for n, n_items in enumerate((2, 3, 5))]
    history = pl.DataFrame(read, schema=dict(PREFERENCES), orient="row")
    state.set_preference_history("r", history)
    assert [event.type for event in state.user("r").events] == [*["interaction"] * 3, "dislike"]
    # Nothing was inferred from a dislike.
    assert (remove("no"), n_items_read()) == ("removed", [2, 3, 5])
    assert (remove("r1", user_id="other"), remove("unknown")) == ("unknown_event",) * 2
    # The fourth item of the history, after two of the run and one event.
    assert (remove("r1"), n_items_read()) == ("removed", [2, 3])
    assert state.user("r").history == ("item0", "item2")
    assert remove("r1") == "already_removed"
    assert state.add_events([events[1]]) == [False]
    # The run folder has a preference for both of its items, which is newer than the remaining one.
    older = history.with_columns(n_items=pl.Series([1, 3, 4], dtype=history.schema["n_items"]))
    state.set_preference_history("r", older)
    assert (remove("r0", n_run_read=2), n_items_read()) == ("removed", [])
