"""Reading and validation of request bodies: bounded work, and one sentence per problem."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from mllm_msr.serving.schemas import LIST_REQUEST_TAGS

_MAX_VALUES: Final = 100_000  # in a JSON body
_MAX_PROBLEMS: Final = 5  # reported for one request
_MAX_NAME_LENGTH: Final = 60
_MAX_SENTENCE_LENGTH: Final = 300

# Sentences for types of pydantic's errors, with the name of the field and the error's context.
_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "{name} is missing",
    "extra_forbidden": "Unknown field {name}",
    "string_pattern_mismatch": "{name} must not contain control characters",
    "string_too_short": "{name} must have at least {min_length} characters",
    "string_too_long": "{name} must have at most {max_length} characters",
    "string_unicode": "{name} must be valid Unicode",
    "too_short": "{name} must have at least {min_length} elements",
    "too_long": "{name} must have at most {max_length} elements",
    "json_invalid": "The body is not valid JSON ({error} at character {position})",
}
_NOT_AN_OBJECT: Final = frozenset({"model_type", "model_attributes_type", "dict_type"})


class _BoundedRequest(Request):
    """Request that rejects JSON with too many values before it is parsed."""

    async def json(self) -> Any:
        """Return the parsed body."""
        if not hasattr(self, "_json"):
            body = await self.body()
            # Every value but the first comes after one of these, and strings rarely contain many.
            n_values = sum(body.count(one) for one in (b",", b":", b"[", b"{"))
            if n_values > _MAX_VALUES:
                raise HTTPException(
                    413,
                    f"The body has more than {_MAX_VALUES:,} JSON values. Send several requests.",
                )
            self._json = json.loads(body)
        return self._json


class BoundedRoute(APIRoute):
    """Route whose JSON body has a limited number of values, described by its docstring.

    Its first sentence is the summary in `/openapi.json`.

    Args:
        path: Path of the route.
        endpoint: Function that handles a request.
        options: As for `APIRoute`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        summary, _, _ = (inspect.getdoc(endpoint) or "").partition(". ")
        options["summary"] = options.get("summary") or summary.rstrip(".")
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            return await handle(_BoundedRequest(request.scope, request.receive))

        return handle_bounded


def describe_problems(problems: Iterable[Mapping[str, Any]]) -> str:
    """Describe the errors of pydantic: one sentence for each of the first five.

    Values are not included, because they may be large or binary.

    Args:
        problems: The errors, as FastAPI passes them.

    Example:
        >>> describe_problems([{"type": "missing", "loc": ("body", "user_id"), "msg": ""}])
        'user_id is missing.'
    """
    sentences = list(dict.fromkeys(map(_sentence, problems)))
    more = len(sentences) - _MAX_PROBLEMS
    if more > 0:
        sentences[_MAX_PROBLEMS:] = [f"There are {more} more problems."]
    return " ".join(sentences)


def _sentence(problem: Mapping[str, Any]) -> str:
    kind, location = problem["type"], problem["loc"]
    parts = [str(part) for part in location[1:] if part not in LIST_REQUEST_TAGS]
    name = ".".join(parts)[:_MAX_NAME_LENGTH] or "The body"
    if kind in _NOT_AN_OBJECT:
        text = f"{name} must be a JSON object"
        if not parts:
            text += ", with the header Content-Type: application/json"
    elif kind in _SENTENCES:
        context = {**(problem.get("ctx") or {}), "name": name, "position": location[-1]}
        text = _SENTENCES[kind].format(**context)
    elif kind == "value_error":  # from a validator in `schemas.py`
        text = f"{name}: {str(problem['msg']).removeprefix('Value error, ')}"
    else:
        text = f"{name} {_predicate(str(problem['msg']))}"
    return f"{text[:_MAX_SENTENCE_LENGTH].rstrip('.')}."


def _predicate(message: str) -> str:
    """Return one of pydantic's messages without its subject."""
    for subject in ("Input should ", "String should ", "Value should ", "List should "):
        if message.startswith(subject):
            return f"must {message.removeprefix(subject)}"
    return f"is invalid: {message}"
