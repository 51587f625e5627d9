"""What routes share: the engine behind a request, ids in paths, and errors as described."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request

from mllm_msr.serving import schemas
from mllm_msr.serving.engine import OnlineEngine

# In the routes' patterns these are of the kind `path`: an id may hold a slash.
UserPath = Annotated[schemas.Id, Path()]
ItemPath = Annotated[schemas.Id, Path()]

Responses = dict[int | str, dict[str, Any]]


def engine_of(request: Request) -> OnlineEngine:
    """The engine of the application that got the request."""
    engine: OnlineEngine = request.app.state.engine
    return engine


def problems(*statuses: int) -> Responses:
    """Descriptions of the errors that any route may answer with, and of further ones."""
    return {
        status: {"model": schemas.Problem} for status in (400, 401, 413, 421, 422, 503, *statuses)
    }
