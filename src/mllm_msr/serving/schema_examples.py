"""Examples of bodies in `/openapi.json` and in the API reference."""

from __future__ import annotations

from typing import Any, Final

_EVENT: Final = {"event_id": "e1", "user_id": "u0001", "item_id": "v0007"}
_PREFERENCE: Final = "The user appears to have a preference for festive videos about cooking."

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "EventsRequest": {"events": [_EVENT]},
    "EventsResponse": {"events": [{"event_id": "e1", "status": "accepted"}]},
    "RemovedEvent": {"event_id": "e1", "status": "removed"},
    "UserListRequest": {"user_id": "u0001", "k": 3},
    "HistoryListRequest": {"history": ["v0001", "v0002"], "k": 3},
    "ListResponse": {
        "recommendation_id": "df5b650a-8b28-4b24-9a68-0f4728bc50fe",
        "model_version": "02e3c4ceed03",
        "fallback_reason": None,
        "preference": _PREFERENCE,
        "items": [
            {
                "item_id": "v0360",
                "rank": 1,
                "score": 0.97,
                "reason": None,
                "title": "Festive cooking",
                "generators": ["preference", "collaborative"],
                "matches": ["festive", "cooking"],
            }
        ],
        "without_image": 0,
        "unknown_items": [],
        "variant": None,
    },
    "ScoresRequest": {"user_id": "u0001", "item_ids": ["v0007", "v0008"]},
    "ScoresResponse": {
        "model_version": "02e3c4ceed03",
        "fallback_reason": None,
        "scores": [
            {"item_id": "v0007", "score": 0.31, "reason": None},
            {"item_id": "v0008", "score": 0.79, "reason": None},
        ],
    },
    "RerankRequest": {"query": "u0001", "documents": ["v0007", "Calm cooking"], "top_n": 1},
    "RerankResponse": {
        "id": "0b5c0b5e-5f0e-4d43-a8a4-5b3a9c1c9b55",
        "model": "run",
        "model_version": "02e3c4ceed03",
        "results": [
            {
                "index": 0,
                "relevance_score": 0.79,
                "document": {"text": "Festive cooking", "item_id": "v0007"},
            }
        ],
        "unscored": [],
    },
    "PreferenceResponse": {
        "user_id": "u0001",
        "preference": _PREFERENCE,
        "n_items": 3,
        "history": ["v0001", "v0002", "v0003", "v0007"],
        "preference_history": [
            {"block": 0, "n_items": 3, "preference": _PREFERENCE, "flags": []},
        ],
        "events": [{"event_id": "e1", "item_id": "v0007", "type": "interaction"}],
        "dislikes": [],
        "updating": False,
        "next_update": 2,
        "failure": None,
        "generated": True,
    },
    "UpdateResponse": {"user_id": "u0001", "updating": True},
    "DeletedResponse": {"user_id": "u0001", "events": 1, "preferences": 1},
    "NewItem": {"item_id": "new1", "title": "Calm cooking", "text": "Soup in an hour"},
    "ItemResponse": {
        "item_id": "new1",
        "summary": "A calm video about cooking.",
        "image_status": "missing",
    },
    "UsersResponse": {"users": ["u0001"], "total": 1, "similar": []},
}
