"""Bodies of requests and responses, version 1, as shown by `/openapi.json`.

All sizes are limited. Control characters and unknown fields are rejected. Images are sent as bytes,
so that the service never opens a path or URL from a client.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    model_validator,
)

from mllm_msr.serving.request_types import Id, Images, Number, Text, Time, Title
from mllm_msr.serving.schema_examples import EXAMPLES
from mllm_msr.serving.state import EventType


def _add_example(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Add the example of a body to its schema."""
    if model.__name__ in EXAMPLES:
        schema["examples"] = [EXAMPLES[model.__name__]]


class RequestBody(BaseModel):
    """Body of a request; unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_add_example)

    @model_validator(mode="before")
    @classmethod
    def _limit_fields(cls, body: Any) -> Any:
        """Reject a body with many unknown fields at once, instead of with one error for each."""
        if isinstance(body, dict) and len(body) > len(cls.model_fields):
            raise ValueError(
                f"{len(body):,} fields are more than the {len(cls.model_fields)} known ones: "
                f"{', '.join(cls.model_fields)}"
            )
        return body


class ResponseBody(BaseModel):
    """Body of a response."""

    model_config = ConfigDict(frozen=True, json_schema_extra=_add_example)


class Event(RequestBody):
    """Interaction of a user with an item, or a dislike."""

    event_id: Id = Field(description="set by the client; a repeated id has no effect")
    user_id: Id
    item_id: Id
    timestamp: Time | None = Field(
        None, description="milliseconds since 1970; stored, but events are ordered by arrival"
    )
    type: EventType = Field(
        "interaction",
        description="an interaction joins the history; a dislike only keeps the item out of lists",
    )


class EventsRequest(RequestBody):
    """Events in chronological order."""

    events: Annotated[list[Event], Field(min_length=1, max_length=1000, fail_fast=True)]


class EventStatus(ResponseBody):
    """Result of one event."""

    event_id: str
    status: Literal["accepted", "duplicate", "unknown_item"]


class EventsResponse(ResponseBody):
    """One status per event, in the order of the request."""

    events: list[EventStatus]


class RemovedEvent(ResponseBody):
    """Result of the removal of an event."""

    event_id: str
    status: Literal["removed", "already_removed"]


class _ListRequest(RequestBody):
    k: Number = Field(10, ge=1, le=100, description="length of the list")
    candidate_ids: (
        Annotated[list[Id], Field(min_length=1, max_length=500, fail_fast=True)] | None
    ) = Field(
        None,
        description="items to rank instead of the full catalog; unknown ones are listed in "
        "unknown_items",
    )
    budget: Number | None = Field(
        None,
        ge=0,
        le=500,
        description="number of candidates that the model scores; by default retrieve.budget, or "
        "what fit-lists has chosen; 0 for retrieval only",
    )
    exclude_seen: StrictBool = Field(True, description="whether items of the history are excluded")
    explain: StrictBool = Field(True, description="whether to return matches")
    model: Id = Field(
        "run",
        description="ranking model, one of /v1/models: run, zero_shot (the same model without "
        "fine-tuning) or a baseline",
    )


class UserListRequest(_ListRequest):
    """Request for a list for a user."""

    user_id: Id
    strict: StrictBool = Field(
        False, description="404 for an unknown user instead of popular items"
    )


class HistoryListRequest(_ListRequest):
    """Request for a list for an anonymous user, given their history; nothing is stored."""

    history: Annotated[list[Id], Field(min_length=1, max_length=200, fail_fast=True)]


# Tags of the two kinds of list requests. Pydantic inserts them in the location of an error.
_USER_TAG: Final = "<user>"
_HISTORY_TAG: Final = "<history>"
LIST_REQUEST_TAGS: Final = frozenset({_USER_TAG, _HISTORY_TAG})


def _list_request_tag(body: Any) -> str:
    has_history = "history" in body if isinstance(body, dict) else hasattr(body, "history")
    return _HISTORY_TAG if has_history else _USER_TAG


# The field selects the kind of request, so that errors concern only one kind.
ListRequest = Annotated[
    Annotated[UserListRequest, Tag(_USER_TAG)] | Annotated[HistoryListRequest, Tag(_HISTORY_TAG)],
    Discriminator(_list_request_tag),
]


class RecommendedItem(ResponseBody):
    """One item of a list."""

    item_id: str
    rank: int
    score: float | None = Field(description="P(yes); null if the model did not score the item")
    reason: str | None = Field(
        description="why there is no score: fallback_reason, scoring_failed, beyond_budget (after "
        "the candidates that the model scores), not_needed (no further score was likely to change "
        "the list, see retrieve.adaptive), or baseline (its scores are no probabilities)"
    )
    title: str
    generators: list[str] = Field(description="candidate generators that proposed the item")
    matches: list[str] | None = Field(
        description="phrases of the preference that match the item's summary; titles of similar "
        "items of the history, if the model reads it"
    )


class ListResponse(ResponseBody):
    """A list of recommendations."""

    recommendation_id: str
    model_version: str
    fallback_reason: str | None = Field(
        description="why the model scored no candidates; null if it scored some, or if only "
        "retrieval was requested"
    )
    preference: str = Field(description="text generated by a model")
    items: list[RecommendedItem]
    without_image: int = Field(
        description="number of scored items with an image that cannot be opened; they are scored "
        "without it"
    )
    unknown_items: list[str] = Field(description="ids of candidate_ids that are not in the catalog")
    variant: str | None = Field(description="variant of the running A/B test, if there is one")


class ScoresRequest(RequestBody):
    """Request for scores of given items."""

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=500, fail_fast=True)]


class ItemScore(ResponseBody):
    """Score of one item."""

    item_id: str
    score: float | None = Field(description="P(yes); null if there is no score")
    reason: str | None = Field(
        description="why there is no score: fallback_reason, unknown_item, or scoring_failed"
    )


class ScoresResponse(ResponseBody):
    """Scores in the order of the request."""

    model_version: str
    fallback_reason: str | None
    scores: list[ItemScore]


class PreferenceRow(ResponseBody):
    """Preference after one block of the history."""

    block: int
    n_items: int = Field(description="number of items that the preference was inferred from")
    preference: str
    flags: list[str] = Field(
        description="remarks: retried, cut, or failed (no usable response for the block, the "
        "previous preference is kept) and the reason"
    )


class UpdateFailure(ResponseBody):
    """Reason why a newer preference could not be generated so far."""

    reason: str = Field(
        description="failed check of the response; error if there was no response, unavailable if "
        "the model itself failed"
    )
    tries: int = Field(description="number of failed attempts")


class StoredEvent(ResponseBody):
    """Event of a user in the service's database."""

    event_id: str
    item_id: str
    type: EventType


class PreferenceResponse(ResponseBody):
    """Preference of a user and its history."""

    user_id: str
    preference: str = Field(description="text generated by a model; blank if there is none yet")
    n_items: int = Field(description="number of items that the preference was inferred from")
    history: list[str]
    preference_history: list[PreferenceRow]
    events: list[StoredEvent] = Field(
        description="events of the user that the service has stored, in the order of arrival"
    )
    dislikes: list[str] = Field(description="items that lists leave out")
    updating: bool = Field(description="whether a newer preference is being generated or retried")
    next_update: int | None = Field(
        description="number of interactions until the preference is updated; 0 if one is due, null "
        "if the run has no written preferences"
    )
    failure: UpdateFailure | None = Field(
        description="why the preference is outdated, if an update failed"
    )
    generated: Literal[True] = True


class UpdateResponse(ResponseBody):
    """Result of a requested update."""

    user_id: str
    updating: bool = Field(
        description="whether an update is running; false if the preference includes the full "
        "history, or if the model is paused after repeated failures"
    )


class DeletedResponse(ResponseBody):
    """Numbers of deleted rows."""

    user_id: str
    events: int
    preferences: int


class NewItem(RequestBody):
    """Item that is not in the catalog yet."""

    item_id: Id
    title: Title
    text: Text = ""
    image: Images = Field(
        (),
        description="JPEG, PNG, WebP or GIF in base64; of an animation, the first frame. "
        "Of a list, the first images.per_item images are used",
    )


class ItemResponse(ResponseBody):
    """Summary of an added item."""

    item_id: str
    summary: str = Field(description="text generated by a model")
    image_status: str


class ListedItem(ResponseBody):
    """Item of the catalog."""

    item_id: str
    title: str
    summary: str = Field(description="text generated by a model")
    image: bool = Field(description="whether it has an image, at /v1/items/{item_id}/image")
    text: str | None = Field(None, description="text of the item, if it was requested")


class ItemsResponse(ResponseBody):
    """Known items of a request, in the order of the request, without duplicates."""

    items: list[ListedItem]


class UsersResponse(ResponseBody):
    """First matching user ids in sorted order."""

    users: list[str]
    total: int = Field(description="total number of matching users")
    similar: list[str] = Field(description="the most similar ids, if no id contains the text")


class ServedModel(ResponseBody):
    """Ranking model."""

    name: str
    label: str
    version: str
    fine_tuned: bool
    scores: bool = Field(description="whether it returns P(yes); baselines only rank")


class ModelsResponse(ResponseBody):
    """Ranking models of the service."""

    models: list[ServedModel]


class RunResponse(ResponseBody):
    """The served run."""

    name: str = Field(description="name of the run folder")
    dataset: str
    model: str = Field(description="name of the ranking model")
    version: str = Field(description="version of the ranking model")
    items: int = Field(description="number of items in the catalog")
    update: Literal["block", "event"] = Field(
        description="when preferences are updated: after a block of interactions, or after each"
    )
    preferences: bool = Field(
        description="whether the run has written preferences; otherwise the model reads histories"
    )
    history_items: int = Field(description="latest items of a history that the model reads, or 0")
    report: bool = Field(description="whether /report has the run's report")


class Health(ResponseBody):
    """State of the process."""

    status: Literal["ok"]


class Readiness(ResponseBody):
    """State of the service."""

    status: Literal["ready", "fallback"] = Field(
        description="fallback: lists are created without the model"
    )
    model: str = Field(description="version of the model, or the reason why it does not score")
    items: int = Field(description="number of items in the catalog")
    waiting: int = Field(description="number of prompts that wait for the model")


class Problem(ResponseBody):
    """Error message with the problem and the fix."""

    detail: str
