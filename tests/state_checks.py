"""Contract of the service's state, checked for every supported database."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_msr.serving.state import ServiceState
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
    """Check events, preferences, items and deletion, including a restart.

    Args:
        open_state: Function that opens the same, initially empty database in each call.
    """
    state = open_state()
    assert state.add_events([("1", "u", "a", 5), ("2", "u", "b", None)]) == [True, True]
    # An event with a known id is ignored, even if its content differs.
    assert state.add_events([("1", "v", "z", 9), ("3", "u", "a", 1), ("3", "u", "c", 1)]) == [
        False, True, False,
    ]  # fmt: skip
    state.set_preference_history("u", PREFERENCE_HISTORY[:1])
    state.set_preference_history("u", PREFERENCE_HISTORY)
    assert state.add_item(ITEM)
    assert not state.add_item({**ITEM, "title": "other"})
    state.close()
    state = open_state()
    user = state.user("u")
    assert (user.events, user.deleted) == (("a", "b", "a"), False)
    assert user.preference_history.equals(PREFERENCE_HISTORY)
    assert state.users_with_events() == ["u"]
    assert state.item("new") == ITEM
    assert list(state.items()) == [ITEM]
    assert state.item("old") is None
    assert state.delete_user("u", in_run=True) == (3, 2)
    assert state.delete_user("u", in_run=True) == (0, 0)
    assert state.delete_user("w", in_run=False) == (0, 0)
    deleted = state.user("u")
    assert (deleted.events, deleted.preference_history.height, deleted.deleted) == ((), 0, True)
    assert not state.user("w").deleted
    assert state.add_events([("4", "u", "d", None)]) == [True]
    assert state.user("u").events == ("d",)
    state.check()
    state.close()
