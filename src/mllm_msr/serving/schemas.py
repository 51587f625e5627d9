"""Bodies of requests and responses, version 1, as shown by `/openapi.json`.

All sizes are limited. Control characters and unknown fields are rejected. Images are sent as bytes,
so that the service never opens a path or URL from a client.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mllm_msr.data.times import LAST_MS, misread_milliseconds

_MAX_TEXT_BYTES: Final = 20_000  # in UTF-8; the tokens of a model depend on bytes, not characters

# Numbers that are times between 1991 and 2099 in another unit: seconds, or days of Excel.
_OTHER_UNITS: Final = {
    "anyOf": [
        {"minimum": 662_688_000, "maximum": 4_102_444_799},
        {"minimum": 33_239, "maximum": 73_050},
    ]
}


def _require_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _check_time(milliseconds: int) -> int:
    problem = misread_milliseconds(milliseconds)
    if problem is not None:
        raise ValueError(problem)
    return milliseconds


def _check_text(text: str) -> str:
    n_bytes = len(text.encode("utf-8", "surrogatepass"))
    if n_bytes > _MAX_TEXT_BYTES:
        raise ValueError(
            f"the text has {n_bytes:,} bytes in UTF-8; the limit is {_MAX_TEXT_BYTES:,}. Shorten it"
        )
    return text


def _decode_image(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("the image is not a string. Send its content in base64")  # noqa: TRY004
    if not value.strip():
        raise ValueError("the image is empty. Leave the field out if the item has no image")
    try:
        return base64.b64decode("".join(value.splitlines()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "the image is not in base64. Encode the content of a JPEG, PNG, WebP or GIF file"
        ) from error


def _check_id(text: str) -> str:
    if text != text.strip():
        raise ValueError("the id begins or ends with white space. Remove it")
    return text


# No control characters: ids do not need them, and databases reject some of them. No white space
# around ids, which the ids of datasets lose as well: " u1" would be another user than "u1".
Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    AfterValidator(_check_id),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        }
    ),
]
Title = Annotated[
    str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$"),
    AfterValidator(_check_text),
]
# JSON has one type of numbers, so 5.0 is an integer, but neither true nor "5" is.
Number = Annotated[int, BeforeValidator(_require_number)]
Time = Annotated[
    Number,
    AfterValidator(_check_time),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LAST_MS, "not": _OTHER_UNITS}),
]
Image = Annotated[
    bytes,
    BeforeValidator(_decode_image),
    WithJsonSchema({"type": "string", "format": "base64", "minLength": 1}),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

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


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True)


class Event(_Request):
    """Interaction of a user with an item."""

    event_id: Id = Field(description="set by the client; a repeated id has no effect")
    user_id: Id
    item_id: Id
    timestamp: Time | None = Field(
        None, description="milliseconds since 1970; stored, but events are ordered by arrival"
    )


class EventsRequest(_Request):
    """Events in chronological order."""

    events: Annotated[list[Event], Field(min_length=1, max_length=1000, fail_fast=True)]


class EventStatus(_Response):
    """Result of one event."""

    event_id: str
    status: Literal["accepted", "duplicate", "unknown_item"]


class EventsResponse(_Response):
    """One status per event, in the order of the request."""

    events: list[EventStatus]


class _ListRequest(_Request):
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
        description="number of candidates that the model scores; by default retrieve.budget; 0 for "
        "retrieval only",
    )
    exclude_seen: StrictBool = Field(True, description="whether items of the history are excluded")
    explain: StrictBool = Field(True, description="whether to return matches")
    model: Literal["run", "zero_shot"] = Field(
        "run",
        description="the run's model, or the same model without fine-tuning; /v1/models lists the "
        "available models",
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


class RecommendedItem(_Response):
    """One item of a list."""

    item_id: str
    rank: int
    score: float | None = Field(description="P(yes); null if the model did not score the item")
    reason: str | None = Field(
        description="why there is no score: fallback_reason, scoring_failed, or beyond_budget"
    )
    title: str
    generators: list[str] = Field(description="candidate generators that proposed the item")
    matches: list[str] | None = Field(
        description="phrases of the preference that match the item's summary"
    )


class ListResponse(_Response):
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
        description="number of scored items whose image cannot be opened; they are scored from "
        "their text"
    )
    unknown_items: list[str] = Field(description="ids of candidate_ids that are not in the catalog")


class ScoresRequest(_Request):
    """Request for scores of given items."""

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=500, fail_fast=True)]


class ItemScore(_Response):
    """Score of one item."""

    item_id: str
    score: float | None = Field(description="P(yes); null if there is no score")
    reason: str | None = Field(
        description="why there is no score: fallback_reason, unknown_item, or scoring_failed"
    )


class ScoresResponse(_Response):
    """Scores in the order of the request."""

    model_version: str
    fallback_reason: str | None
    scores: list[ItemScore]


class PreferenceRow(_Response):
    """Preference after one block of the history."""

    block: int
    n_items: int = Field(description="number of items that the preference was inferred from")
    preference: str
    flags: list[str] = Field(
        description="remarks: retried, cut, or failed (no usable response for the block, the "
        "previous preference is kept) and the reason"
    )


class UpdateFailure(_Response):
    """Reason why a newer preference could not be generated so far."""

    reason: str = Field(
        description="failed check of the response; error if there was no response, unavailable if "
        "the model itself failed"
    )
    tries: int = Field(description="number of failed attempts")


class PreferenceResponse(_Response):
    """Preference of a user and its history."""

    user_id: str
    preference: str = Field(description="text generated by a model; blank if there is none yet")
    n_items: int = Field(description="number of items that the preference was inferred from")
    history: list[str]
    preference_history: list[PreferenceRow]
    updating: bool = Field(description="whether a newer preference is being generated or retried")
    failure: UpdateFailure | None = Field(
        description="why the preference is outdated, if an update failed"
    )
    generated: Literal[True] = True


class DeletedResponse(_Response):
    """Numbers of deleted rows."""

    user_id: str
    events: int
    preferences: int


class NewItem(_Request):
    """Item that is not in the catalog yet."""

    item_id: Id
    title: Title
    text: Text = ""
    image: Image | None = Field(
        None, description="JPEG, PNG, WebP or GIF in base64; of an animation, the first frame"
    )


class ItemResponse(_Response):
    """Summary of an added item."""

    item_id: str
    summary: str = Field(description="text generated by a model")
    image_status: str


class ListedItem(_Response):
    """Item of the catalog."""

    item_id: str
    title: str
    summary: str = Field(description="text generated by a model")
    image: bool = Field(description="whether it has an image, at /v1/items/{item_id}/image")


class ItemsResponse(_Response):
    """Known items of a request, in the order of the request, without duplicates."""

    items: list[ListedItem]


class UsersResponse(_Response):
    """First matching user ids in sorted order."""

    users: list[str]
    total: int = Field(description="total number of matching users")


class ServedModel(_Response):
    """Ranking model."""

    name: Literal["run", "zero_shot"]
    version: str
    fine_tuned: bool


class ModelsResponse(_Response):
    """Ranking models that the service has loaded."""

    models: list[ServedModel]


class Health(_Response):
    """State of the process."""

    status: Literal["ok"]


class Readiness(_Response):
    """State of the service."""

    status: Literal["ready", "fallback"] = Field(
        description="fallback: lists are created without the model"
    )
    model: str = Field(description="version of the model, or the reason why it does not score")
    items: int = Field(description="number of items in the catalog")
    waiting: int = Field(description="number of prompts that wait for the model")


class Problem(_Response):
    """Error message with the problem and the fix."""

    detail: str
