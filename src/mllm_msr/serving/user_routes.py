"""Routes of users: their events, preferences, search and deletion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import polars as pl
from fastapi import APIRouter, Query, Request

from mllm_msr.serving import request_types, schemas
from mllm_msr.serving.dependencies import USER_EXAMPLE, UserPath, error_responses, get_engine
from mllm_msr.serving.state import NewEvent
from mllm_msr.serving.users import UnknownUserError
from mllm_msr.serving.validation import BoundedRoute

router = APIRouter(route_class=BoundedRoute, tags=["Users"])


@router.post("/v1/events", status_code=202, responses=error_responses())
async def add_events(body: schemas.EventsRequest, request: Request) -> schemas.EventsResponse:
    """Add interactions of users with items, and dislikes. Acknowledged events survive a crash."""
    events = [NewEvent(e.event_id, e.user_id, e.item_id, e.timestamp, e.type) for e in body.events]
    statuses = await get_engine(request).add_events(events)
    return schemas.EventsResponse.model_validate(
        {
            "events": [
                {"event_id": event.event_id, "status": status}
                for event, status in zip(events, statuses, strict=True)
            ]
        }
    )


@router.delete("/v1/events", responses=error_responses(404))
async def remove_event(
    request: Request,
    user_id: Annotated[
        request_types.Id, Query(description="user of the event", openapi_examples=USER_EXAMPLE)
    ],
    event_id: Annotated[request_types.Id, Query(openapi_examples={"event": {"value": "e1"}})],
) -> schemas.RemovedEvent:
    """Undo an event. Preferences that were inferred from it are removed and inferred again.

    The id stays used: an event with this id that is sent again is a duplicate.
    """
    status = await get_engine(request).remove_event(user_id, event_id)
    return schemas.RemovedEvent.model_validate({"event_id": event_id, "status": status})


@router.get("/v1/users", responses=error_responses())
async def find_users(
    request: Request,
    contains: Annotated[
        str, Query(max_length=200, description="part of the id", openapi_examples=USER_EXAMPLE)
    ] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> schemas.UsersResponse:
    """Search the ids of known users."""
    users = get_engine(request).users
    user_ids, total = await users.find(contains, limit=limit)
    similar = [] if total else await users.similar(contains)
    return schemas.UsersResponse(users=user_ids, total=total, similar=similar)


@router.get("/v1/users/{user_id:path}/preference", responses=error_responses(404))
async def get_preference(user_id: UserPath, request: Request) -> schemas.PreferenceResponse:
    """Return the preference of a user and its history."""
    engine = get_engine(request)
    user = await engine.users.get(user_id)
    if not user.known:
        raise UnknownUserError.of(user_id)
    rows = user.preference_history.sort("block").select(
        "block", "n_items", "preference", flags=pl.col("flags").str.extract_all("[^,]+")
    )
    failure = engine.updates.failure(user_id)
    return schemas.PreferenceResponse(
        user_id=user_id,
        preference=user.profile.preference,
        n_items=user.n_items,
        history=list(user.profile.history),
        preference_history=[schemas.PreferenceRow(**row) for row in rows.iter_rows(named=True)],
        events=[schemas.StoredEvent(**asdict(event)) for event in user.events],
        dislikes=sorted(user.dislikes),
        updating=engine.updates.is_running(user_id),
        next_update=engine.updates.n_missing(user),
        failure=schemas.UpdateFailure(**asdict(failure)) if failure else None,
    )


@router.post("/v1/users/{user_id:path}/preference", status_code=202, responses=error_responses(404))
async def update_preference(user_id: UserPath, request: Request) -> schemas.UpdateResponse:
    """Update the preference of a user now. The update does not wait until a block is complete."""
    engine = get_engine(request)
    user = await engine.users.get(user_id)
    if not user.known:
        raise UnknownUserError.of(user_id)
    return schemas.UpdateResponse(user_id=user_id, updating=engine.updates.start_now(user))


# Also 404: the path matches no route if the id contains a line break.
@router.delete("/v1/users/{user_id:path}", responses=error_responses(404))
async def delete_user(user_id: UserPath, request: Request) -> schemas.DeletedResponse:
    """Delete the events, preferences and cached scores of a user. The user may be unknown."""
    events, preferences = await get_engine(request).delete_user(user_id)
    return schemas.DeletedResponse(user_id=user_id, events=events, preferences=preferences)
