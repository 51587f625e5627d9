"""Shared dependencies of the routes: the engine, ids in paths, and descriptions of errors."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Request

from mllm_msr.serving import request_types, schemas
from mllm_msr.serving.engine import OnlineEngine

# The routes use Starlette's converter `path` for ids, because an id may contain a slash.
USER_EXAMPLE: Final[dict[str, Any]] = {"user": {"value": "u0001"}}
ITEM_EXAMPLE: Final[dict[str, Any]] = {"item": {"value": "v0007"}}
UserPath = Annotated[request_types.Id, Path(openapi_examples=USER_EXAMPLE)]
ItemPath = Annotated[request_types.Id, Path(openapi_examples=ITEM_EXAMPLE)]

Responses = dict[int | str, dict[str, Any]]


def get_engine(request: Request) -> OnlineEngine:
    """Return the engine of the application that received a request."""
    engine: OnlineEngine = request.app.state.engine
    return engine


def error_responses(*statuses: int) -> Responses:
    """Describe the errors of a route for OpenAPI: the common ones and `statuses`."""
    common = (400, 401, 413, 421, 422, 503)
    return {status: {"model": schemas.Problem} for status in (*common, *statuses)}
