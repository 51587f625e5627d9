"""Reranking in the form of Cohere and Jina, for programs that call such an endpoint.

A query names a user, a history, or a preference; a document is an item of the catalog or a text.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field, StrictBool, StringConstraints, WithJsonSchema

from mllm_msr import tables
from mllm_msr.data.text_cleaning import clean_text
from mllm_msr.errors import BackendError, DataError
from mllm_msr.recommend.profiles import Profile
from mllm_msr.serving.dependencies import error_responses, get_engine
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.list_builder import RUN
from mllm_msr.serving.request_types import Id, Number, Text
from mllm_msr.serving.schemas import RequestBody, ResponseBody
from mllm_msr.serving.scoring import ModelNotServedError
from mllm_msr.serving.users import UnknownUserError, User
from mllm_msr.serving.validation import BoundedRoute
from mllm_msr.types import Item

router = APIRouter(route_class=BoundedRoute, tags=["Recommendations"])

_PREFIX: Final = re.compile(r"(user|history|preference):(.*)", re.DOTALL)
_MAX_HISTORY: Final = 200
_MAX_SHOWN: Final = 200  # characters of a query in an error
_FALLBACKS: Final[Mapping[str, str]] = {
    "no_history": "the user has no interactions. Send events of this user first",
    "no_preference": "the user has no written preference yet. Send more events, or a history",
    "unknown_user": "nothing is known about the user. Send events of this user first",
}


class UnscorableQueryError(DataError):
    """A query from which the model cannot score anything."""


def _document_text(value: object) -> object:
    """Return the text of a document that is an object with one field, `text`."""
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 10_000, "pattern": r"^[^\x00]*\S"}
_Document = Annotated[
    Text,
    StringConstraints(min_length=1),
    BeforeValidator(_document_text),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "object",
                    "properties": {"text": _TEXT},
                    "required": ["text"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class RerankRequest(RequestBody):
    """Request to order documents for a user, a history or a preference."""

    model: Id = Field(RUN, description="ranking model with P(yes), one of /v1/models")
    query: Annotated[Text, StringConstraints(min_length=1, pattern=r"\S")] = Field(
        description="id of a user, or a written preference of several words; user:ID, "
        "history:ID,ID,... (oldest first) and preference:TEXT say what it is"
    )
    documents: Annotated[list[_Document], Field(min_length=1, max_length=500, fail_fast=True)] = (
        Field(description="ids of items, or texts whose first line is a title")
    )
    top_n: Number | None = Field(
        None, ge=1, description="length of the response; by default, all documents"
    )
    return_documents: StrictBool = Field(
        False, description="whether to return how each document was read"
    )


class ReadDocument(ResponseBody):
    """How a document was read."""

    text: str = Field(description="title of the item, or the text")
    item_id: str | None = Field(None, description="the item; left out if it was read as a text")


class RerankedDocument(ResponseBody):
    """Score of one document."""

    index: int = Field(description="position in the request, from 0")
    relevance_score: float = Field(description="P(yes)")
    document: ReadDocument | None = Field(None, description="only with return_documents")


class RerankResponse(ResponseBody):
    """Documents in descending order of their scores."""

    id: str
    model: str
    model_version: str
    results: list[RerankedDocument]
    unscored: list[int] = Field(
        description="positions of documents that the model could not score; results lack them"
    )


class Query(NamedTuple):
    """What a query is.

    Attributes:
        kind: Its kind; None if only the users of the service tell whether it is an id.
        text: The query without its prefix.
    """

    kind: Literal["user", "history", "preference"] | None
    text: str


def read_query(query: str) -> Query:
    """Split a query into its kind and its text.

    Raises:
        UnscorableQueryError: There is nothing after the prefix.

    Example:
        >>> read_query("history: v1,v2")
        Query(kind='history', text='v1,v2')
        >>> read_query("u0001").kind
    """
    match = _PREFIX.fullmatch(query.strip())
    if match is None:
        return Query(None, query.strip())
    kind, text = match.groups()
    if not text.strip():
        raise UnscorableQueryError(
            f"The query has nothing after {kind + ':'!r}. Send user:ID, history:ID,ID,... or "
            "preference:TEXT."
        )
    return Query(kind, text.strip())  # type: ignore[arg-type]


@router.post(
    "/v2/rerank",
    responses=error_responses(404, 429),
    response_model_exclude_none=True,
    summary="The same as /v1/rerank, at the path of version 2 of Cohere's client",
    description="See POST /v1/rerank.",
)
@router.post(  # applied first, so the reference lists it first
    "/v1/rerank",
    responses=error_responses(404, 429),
    response_model_exclude_none=True,
)
async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
    """Order documents by P(yes), in the form of Cohere and Jina."""
    engine = get_engine(request)
    if body.model in engine.lists.baselines:
        raise ModelNotServedError(
            f"The baseline {body.model!r} returns no P(yes). Use another model of /v1/models."
        )
    scorer = engine.lists.scorer(body.model)
    user = await _find_user(engine, read_query(body.query))
    texts = [one for one in dict.fromkeys(body.documents) if one not in engine.catalog]
    given = {text: item for text in texts if (item := _as_item(text)).title}
    documents = [
        one for one in dict.fromkeys(body.documents) if one in engine.catalog or one in given
    ]
    scores = await scorer.score(user, documents, given=given)
    if scores.fallback_reason is not None:
        _raise_fallback(scores.fallback_reason)
    found = [at for at, one in enumerate(body.documents) if one in scores.values]
    ranked = sorted(found, key=lambda at: (-scores.values[body.documents[at]], at))
    return RerankResponse(
        id=str(uuid.uuid4()),
        model=body.model,
        model_version=scorer.version,
        results=[
            RerankedDocument(
                index=at,
                relevance_score=scores.values[body.documents[at]],
                document=_describe(engine, body.documents[at]) if body.return_documents else None,
            )
            for at in ranked[: body.top_n]
        ],
        unscored=sorted(set(range(len(body.documents))) - set(found)),
    )


async def _find_user(engine: OnlineEngine, query: Query) -> User:
    """Return the user that a query describes."""
    if query.kind == "history":
        history = [part for one in query.text.split(",") if (part := one.strip())]
        if len(history) > _MAX_HISTORY:
            raise UnscorableQueryError(
                f"The history has {len(history):,} items; at most {_MAX_HISTORY} are allowed. "
                "Send the latest ones."
            )
        return await engine.anonymous_user(history)
    if query.kind != "preference":
        user = await engine.users.get(query.text)
        if user.known:
            return user
        if query.kind == "user" or len(query.text.split()) == 1:
            raise UnknownUserError.of(query.text[:_MAX_SHOWN])
    if not engine.catalog.prompt_settings.reads_preference:
        raise UnscorableQueryError(
            "The query is a written preference, but the model of this run reads histories. Send "
            "the id of a user, or history:ID,ID,..."
        )
    profile = Profile("", preference=query.text)
    return User(profile, tables.empty(tables.PREFERENCES), known=True)


def _as_item(text: str) -> Item:
    """Return an item whose title is the first line of a text."""
    title, _, rest = text.strip().partition("\n")
    return Item("", clean_text(title), clean_text(rest))


def _describe(engine: OnlineEngine, document: str) -> ReadDocument:
    if document in engine.catalog:
        return ReadDocument(text=engine.catalog.title(document), item_id=document)
    return ReadDocument(text=document)


def _raise_fallback(reason: str) -> None:
    """Raise the error for a query without scores: there is no list without scores to return."""
    if reason in _FALLBACKS:
        raise UnscorableQueryError(f"There are no scores, because {_FALLBACKS[reason]}.")
    raise BackendError(f"There are no scores ({reason}). Try again later.")
