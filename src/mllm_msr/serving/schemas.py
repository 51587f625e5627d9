"""Bodies of requests and responses, version 1: what `/openapi.json` shows.

Everything has a bound. Texts with control characters and unknown keys are refused; an image comes
as its bytes, so that no path or address of a client is ever opened.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints

# No control characters: they are of no use in ids, and databases refuse some of them.
Id = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Title = Annotated[
    str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(frozen=True)


class Event(_In):
    """A user met an item."""

    event_id: Id = Field(description="chosen by the client; a repeated id does nothing")
    user_id: Id
    item_id: Id
    timestamp: int | None = Field(
        None, ge=0, le=2**53, description="milliseconds since 1970; kept, but order is by arrival"
    )


class EventsRequest(_In):
    """Events in the order in which they happened."""

    events: Annotated[list[Event], Field(min_length=1, max_length=1000)]


class EventStatus(_Out):
    """What became of one event."""

    event_id: str
    status: Literal["accepted", "duplicate", "unknown_item"]


class EventsResponse(_Out):
    """One status per event, in the order of the request."""

    events: list[EventStatus]


class _List(_In):
    k: int = Field(10, ge=1, le=100, description="length of the list")
    candidate_ids: Annotated[list[Id], Field(min_length=1, max_length=500)] | None = Field(
        None, description="rank these instead of the catalogue; unknown ones are passed over"
    )
    budget: int | None = Field(
        None, ge=0, le=500, description="candidates that the model ranks; a setting if empty"
    )
    exclude_seen: bool = True
    explain: bool = True
    model: Literal["run", "untuned"] = Field(
        "run",
        description="what the run made, or the same model without fine-tuning; /v1/models says "
        "which ones there are",
    )


class UserListRequest(_List):
    """A list for a user."""

    user_id: Id
    strict: bool = Field(False, description="404 for an unknown user instead of popular items")


class HistoryListRequest(_List):
    """A list for somebody who is described by what he has met; nothing of it is kept."""

    history: Annotated[list[Id], Field(min_length=1, max_length=200)]


class RecommendedItem(_Out):
    """One place of a list."""

    item_id: str
    rank: int
    score: float | None = Field(description="P(yes); null where the model was not asked")
    title: str
    generators: list[str]
    explanation: list[str] | None = Field(
        description="phrases of the (generated) preference that the item answers"
    )


class ListResponse(_Out):
    """A list of recommendations."""

    recommendation_id: str
    model_version: str
    fallback_reason: str | None = Field(description="why the model ranked nothing, else null")
    preference: str = Field(description="text written by a model")
    items: list[RecommendedItem]


class ScoresRequest(_In):
    """Scores of given items."""

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=500)]


class ItemScore(_Out):
    """One score."""

    item_id: str
    score: float | None = Field(description="P(yes); null for unknown items and in a fallback")


class ScoresResponse(_Out):
    """Scores in the order of the request."""

    model_version: str
    fallback_reason: str | None
    scores: list[ItemScore]


class TrailRow(_Out):
    """A preference as it once stood."""

    block: int
    n_items: int = Field(description="items read by then")
    preference: str
    flags: list[str] = Field(
        description="what was special: retried, cut, failed (a block that the model has no usable "
        "answer for; the former preference stands), and why"
    )


class UpdateFailure(_Out):
    """Why a newer preference could not be written so far."""

    reason: str = Field(
        description="what was wrong with the model's answer; error where it gave none, "
        "unavailable where it failed as a whole"
    )
    tries: int


class PreferenceResponse(_Out):
    """A user's preference and how it came about."""

    user_id: str
    preference: str = Field(description="text written by a model; blank where there is none yet")
    n_items: int = Field(description="items that the preference has read")
    history: list[str]
    preference_history: list[TrailRow]
    updating: bool = Field(description="a newer preference is being written, or will be again")
    failure: UpdateFailure | None = Field(description="why it lags behind, where trying failed")
    generated: Literal[True] = True


class DeletedResponse(_Out):
    """What was deleted."""

    user_id: str
    events: int
    preferences: int


class NewItem(_In):
    """An item that is not in the catalogue yet."""

    item_id: Id
    title: Title
    text: Text = ""
    image: Base64Bytes | None = Field(
        None, description="JPEG, PNG, WebP or GIF, in base64", max_length=8_000_000
    )


class ItemResponse(_Out):
    """An item as the service has understood it."""

    item_id: str
    summary: str = Field(description="text written by a model")
    image_status: str


class ListedItem(_Out):
    """An item of the catalogue, as it is shown."""

    item_id: str
    title: str
    summary: str = Field(description="text written by a model")
    image: bool = Field(description="whether it has one, under /v1/items/{item_id}/image")


class ItemsResponse(_Out):
    """Those of the items that are known, in the order of the request, each once."""

    items: list[ListedItem]


class UsersResponse(_Out):
    """Users whose ids match, the first ones in their order."""

    users: list[str]
    total: int = Field(description="how many match")


class ServedModel(_Out):
    """A model that ranks."""

    name: Literal["run", "untuned"]
    version: str
    fine_tuned: bool


class ModelsResponse(_Out):
    """The models that this service has loaded."""

    models: list[ServedModel]


class Health(_Out):
    """Whether the process lives."""

    status: Literal["ok"]


class Readiness(_Out):
    """Whether requests are served in full."""

    status: Literal["ready", "fallback"] = Field(description="fallback: lists without the model")
    model: str
    items: int
    waiting: int = Field(description="prompts that wait for the model")


class Problem(_Out):
    """An error: one sentence, and what to do."""

    detail: str
