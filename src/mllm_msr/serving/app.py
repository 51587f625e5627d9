"""The routes: HTTP in front of `engine.py`, nothing more.

`create_app` makes an ASGI application; `running.py` serves it. Errors leave as one sentence in
`detail`: 404 unknown, 409 taken, 413 too large, 422 not understood, 429 full, 503 no database.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Final

import polars as pl
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from mllm_msr import __version__
from mllm_msr.errors import BackendError, ImageError, MllmMsrError, RunFolderError
from mllm_msr.serving import schemas
from mllm_msr.serving.dependencies import UserPath, engine_of, problems
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.page_routes import add_browsing
from mllm_msr.serving.prometheus import Measured, Metrics
from mllm_msr.serving.request_queue import OverloadedError
from mllm_msr.serving.security import Guard, Keys
from mllm_msr.serving.users import (
    ItemExistsError,
    ModelNotServedError,
    UnknownItemError,
    UnknownUserError,
)
from mllm_msr.types import Item

_STATUS: Final[tuple[tuple[type[MllmMsrError], int], ...]] = (
    (UnknownUserError, 404),
    (UnknownItemError, 404),
    (ModelNotServedError, 404),
    (ItemExistsError, 409),
    (ImageError, 422),
    (OverloadedError, 429),
    (BackendError, 503),
    (RunFolderError, 503),
    (MllmMsrError, 500),
)


def create_app(
    make_engine: Callable[[], OnlineEngine], *, keys: Keys, metrics: Metrics, max_body: int
) -> FastAPI:
    """The application.

    Args:
        make_engine: Called when the server has started, in its event loop.
        keys: Who may ask.
        metrics: What `/metrics` shows.
        max_body: Largest body of a request, in bytes.
    """

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine = make_engine()
        try:
            await engine.start()
            app.state.engine = engine
            yield
        finally:
            await engine.stop()

    app = FastAPI(
        title="MLLM-MSR",
        version=__version__,
        description="Recommendations with the preference that explains them.",
        lifespan=life,
        docs_url=None,  # its page would come from a CDN
        redoc_url=None,
    )
    _add_users(app)
    _add_lists(app)
    _add_items(app)
    add_browsing(app)
    _add_health(app, metrics)
    _add_errors(app)
    app.add_middleware(Guard, keys=keys, max_body=max_body)
    app.add_middleware(Measured, metrics=metrics)  # the outermost, so that refusals count too
    return app


def _add_users(app: FastAPI) -> None:
    @app.post("/v1/events", status_code=202, responses=problems())
    async def events(body: schemas.EventsRequest, request: Request) -> schemas.EventsResponse:
        """Tell what users have met. Acknowledged events survive whatever happens."""
        rows = [(e.event_id, e.user_id, e.item_id, e.timestamp) for e in body.events]
        statuses = await engine_of(request).add_events(rows)
        return schemas.EventsResponse.model_validate(
            {
                "events": [
                    {"event_id": row[0], "status": status}
                    for row, status in zip(rows, statuses, strict=True)
                ]
            }
        )

    @app.get("/v1/users/{user_id:path}/preference", responses=problems(404))
    async def preference(user_id: UserPath, request: Request) -> schemas.PreferenceResponse:
        """A user's preference, and how it came about."""
        users = engine_of(request).users
        user = await users.get(user_id)
        if not user.known:
            raise _unknown(user_id)
        rows = user.preference_history.sort("block").select(
            "block", "n_items", "preference", flags=pl.col("flags").str.extract_all("[^,]+")
        )
        failure = users.failure(user_id)
        return schemas.PreferenceResponse(
            user_id=user_id,
            preference=user.profile.preference,
            n_items=user.n_items,
            history=list(user.profile.history),
            preference_history=[schemas.TrailRow(**row) for row in rows.iter_rows(named=True)],
            updating=users.updating(user_id),
            failure=schemas.UpdateFailure(**asdict(failure)) if failure else None,
        )

    # 404 where a line break in the path keeps it from being a path at all.
    @app.delete("/v1/users/{user_id:path}", responses=problems(404))
    async def delete(user_id: UserPath, request: Request) -> schemas.DeletedResponse:
        """Forget a user: events, preferences, cached scores. Unknown users are forgotten too."""
        events, preferences = await engine_of(request).forget(user_id)
        return schemas.DeletedResponse(user_id=user_id, events=events, preferences=preferences)


def _add_lists(app: FastAPI) -> None:
    @app.post("/v1/recommendations", responses=problems(404, 429))
    async def recommendations(
        body: schemas.UserListRequest | schemas.HistoryListRequest, request: Request
    ) -> schemas.ListResponse:
        """Recommend items of the whole catalogue, or rank given ones."""
        engine = engine_of(request)
        if isinstance(body, schemas.UserListRequest):
            user = await engine.users.get(body.user_id)
            if body.strict and not user.known:
                raise _unknown(body.user_id)
        else:
            user = await engine.anonymous(body.history)
        found = await engine.recommend(
            user,
            k=body.k,
            budget=body.budget,
            exclude_seen=body.exclude_seen,
            candidate_ids=body.candidate_ids,
            model=body.model,
        )
        return schemas.ListResponse(
            recommendation_id=str(uuid.uuid4()),
            model_version=engine.judge(body.model).version,
            fallback_reason=found.fallback_reason,
            preference=found.preference,
            items=[
                schemas.RecommendedItem(
                    item_id=one.item_id,
                    rank=one.rank,
                    score=one.score,
                    title=engine.catalogue.item(one.item_id).title,
                    generators=list(one.generators),
                    explanation=list(one.answers) if body.explain else None,
                )
                for one in found.items
            ],
        )

    @app.post("/v1/scores", responses=problems(429))
    async def scores(body: schemas.ScoresRequest, request: Request) -> schemas.ScoresResponse:
        """P(yes) of given items for a user."""
        engine = engine_of(request)
        found, reason = await engine.score(body.user_id, body.item_ids)
        return schemas.ScoresResponse(
            model_version=engine.judge("run").version,
            fallback_reason=reason,
            scores=[
                schemas.ItemScore(item_id=item_id, score=found.get(item_id))
                for item_id in body.item_ids
            ],
        )


def _add_items(app: FastAPI) -> None:
    @app.post("/v1/items", status_code=201, responses=problems(409))
    async def items(
        body: schemas.NewItem, request: Request, response: Response
    ) -> schemas.ItemResponse:
        """Add an item; it can be recommended at once. A repeated request answers 200."""
        item = Item(body.item_id, body.title, body.text)
        row, new = await engine_of(request).add_item(item, body.image)
        if not new:
            response.status_code = 200
        return schemas.ItemResponse(
            item_id=body.item_id, summary=row["summary"], image_status=row["image_status"]
        )


def _add_health(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def healthz() -> schemas.Health:
        """Whether the process lives."""
        return schemas.Health(status="ok")

    @app.get("/readyz", responses=problems())
    async def readyz(request: Request) -> schemas.Readiness:
        """Whether requests are served in full; 503 where nothing can be kept."""
        engine = engine_of(request)
        await engine.check()
        ready, model = engine.readiness
        return schemas.Readiness(
            status="ready" if ready else "fallback",
            model=model,
            items=engine.n_items,
            waiting=engine.waiting,
        )

    @app.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(MllmMsrError)
    async def known(_: Request, error: MllmMsrError) -> Response:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers = {"Retry-After": "1"} if status in {429, 503} else None
        return _problem(status, str(error), headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> Response:
        # What came is not repeated: it may be large, and not even text.
        places = [
            f"{'.'.join(map(str, problem['loc']))[:200]}: {problem['msg'][:200]}"
            for problem in error.errors()[:10]
        ]
        return _problem(422, "; ".join(places))


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    # As ASCII: what a client sends may hold halves of characters that UTF-8 cannot write.
    body = json.dumps({"detail": detail})
    return Response(body, status, headers=headers, media_type="application/json")


def _unknown(user_id: str) -> UnknownUserError:
    return UnknownUserError(
        needed="a user with a history",
        received=repr(user_id),
        remedy="send events of this user first",
    )
