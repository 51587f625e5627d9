"""What every kind of database of the service must do, run once for each kind."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_msr.serving.state import ServiceState
from mllm_msr.tables import PREFERENCES

TRAIL = pl.DataFrame(
    [("u", 0, 3, "first", False, ""), ("u", 1, 4, "second", True, "cut")],
    schema=dict(PREFERENCES),
    orient="row",
)
ITEM = {
    "item_id": "new", "title": "T", "text": "", "image": b"png", "digest": "d",
    "text_summary": None, "image_summary": "red", "summary": "T red", "image_status": "ok",
    "flags": "",
}  # fmt: skip


def check_everything(open_state: Callable[[], ServiceState]) -> None:
    """The same on every kind of database."""
    state = open_state()
    assert state.add_events([("1", "u", "a", 5), ("2", "u", "b", None)]) == [True, True]
    # A repeated id does nothing, in the same call or later, whatever else it says.
    assert state.add_events([("1", "v", "z", 9), ("3", "u", "a", 1), ("3", "u", "c", 1)]) == [
        False, True, False,
    ]  # fmt: skip
    state.keep_preference_history("u", TRAIL[:1])
    state.keep_preference_history("u", TRAIL)
    assert state.add_item(ITEM)
    assert not state.add_item({**ITEM, "title": "other"})
    state.close()
    state = open_state()
    user = state.user("u")
    assert (user.events, user.forgotten) == (("a", "b", "a"), False)
    assert user.preference_history.equals(TRAIL)
    assert state.users_with_events() == ["u"]
    assert state.item("new") == ITEM
    assert list(state.items()) == [ITEM]
    assert state.item("old") is None
    assert state.forget("u", in_run=True) == (3, 2)
    assert state.forget("u", in_run=True) == (0, 0)
    assert state.forget("w", in_run=False) == (0, 0)
    gone = state.user("u")
    assert (gone.events, gone.preference_history.height, gone.forgotten) == ((), 0, True)
    assert not state.user("w").forgotten
    assert state.add_events([("4", "u", "d", None)]) == [True]
    assert state.user("u").events == ("d",)
    state.check()
    state.close()
