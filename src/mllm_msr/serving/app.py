"""HTTP routes in front of `engine.py`.

`create_app` builds an ASGI application; `server.py` serves it. An error response has one field,
`detail`, with full sentences: 404 unknown, 408 not received in time, 409 id in use, 413 too large,
422 invalid, 429 overloaded, 503 database or model unavailable.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mllm_msr import __version__
from mllm_msr.errors import BackendError, ImageError, MllmMsrError, RunFolderError
from mllm_msr.serving import page_routes, rerank_routes, schemas, user_routes
from mllm_msr.serving.dependencies import error_responses, get_engine
from mllm_msr.serving.engine import OnlineEngine, UnknownEventError, UnknownHistoryError
from mllm_msr.serving.items import InvalidItemError, ItemExistsError, UnknownItemError
from mllm_msr.serving.list_builder import RUN, ListOptions
from mllm_msr.serving.prometheus import Metrics, MetricsMiddleware
from mllm_msr.serving.request_queue import OverloadedError
from mllm_msr.serving.scoring import ModelNotServedError
from mllm_msr.serving.security import ApiKeys, SecurityMiddleware
from mllm_msr.serving.users import UnknownUserError
from mllm_msr.serving.validation import BoundedRoute, describe_problems
from mllm_msr.types import Item

_STATUS: Final[tuple[tuple[type[MllmMsrError], int], ...]] = (
    (UnknownUserError, 404),
    (UnknownItemError, 404),
    (UnknownHistoryError, 404),
    (UnknownEventError, 404),
    (ModelNotServedError, 404),
    (ItemExistsError, 409),
    (InvalidItemError, 422),
    (rerank_routes.UnscorableQueryError, 422),
    (ImageError, 422),
    (OverloadedError, 429),
    (BackendError, 503),
    (RunFolderError, 503),
    (MllmMsrError, 500),
)

_MAX_LARGE_BODIES: Final = 4  # that are in memory at the same time

_TAGS: Final = ("Recommendations", "Users", "Items", "Service")  # order of the API reference

_NEW_ITEM_PATH: Final = "/v1/items"

router = APIRouter(route_class=BoundedRoute)


def create_app(
    make_engine: Callable[[], OnlineEngine],
    *,
    run: Path,
    keys: ApiKeys,
    metrics: Metrics,
    max_body: int,
    max_item_body: int,
) -> FastAPI:
    """Build the application.

    Args:
        make_engine: Called in the event loop when the server starts.
        run: The run folder, whose report `/report` returns.
        keys: Accepted API keys.
        metrics: Metrics that `/metrics` returns.
        max_body: Maximum size of a request body, in bytes.
        max_item_body: Maximum size of the body of a new item, in bytes.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
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
        lifespan=lifespan,
        docs_url=None,  # the page of FastAPI loads files from a CDN
        redoc_url=None,
        openapi_tags=[{"name": name} for name in _TAGS],
    )
    app.state.run = run
    app.state.metrics = metrics
    app.include_router(router)
    app.include_router(rerank_routes.router)
    app.include_router(user_routes.router)
    app.include_router(page_routes.router)
    app.exception_handler(MllmMsrError)(handle_package_error)
    app.exception_handler(RequestValidationError)(handle_invalid_request)
    app.exception_handler(HTTPException)(handle_http_error)
    app.add_middleware(
        SecurityMiddleware,
        keys=keys,
        max_body=max_body,
        max_bodies=_MAX_LARGE_BODIES * max(max_body, max_item_body),
        exceptions={_NEW_ITEM_PATH: max_item_body},
    )
    # Outermost, so that requests that the security middleware rejects are counted, too.
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app


async def recommend_list(
    engine: OnlineEngine, body: schemas.UserListRequest | schemas.HistoryListRequest
) -> schemas.ListResponse:
    """Build the response to a request for a list, for the route and the MCP server.

    Raises:
        UnknownUserError: The user is unknown and the request is strict.
        UnknownHistoryError: An item of the history is not in the catalog.
        OverloadedError: Too many prompts wait for the model.
        ModelNotServedError: There is no such model.
        BackendError: The baseline is still being loaded, or failed.
    """
    if isinstance(body, schemas.UserListRequest):
        user = await engine.users.get(body.user_id)
        if body.strict and not user.known:
            raise UnknownUserError.of(body.user_id)
    else:
        user = await engine.anonymous_user(body.history)
    options = ListOptions(
        k=body.k,
        budget=body.budget,
        exclude_seen=body.exclude_seen,
        candidate_ids=body.candidate_ids,
        model=body.model,
    )
    variant, user_id = None, user.profile.user_id
    # A request that selects what a variant decides is not part of an A/B test.
    is_tested = user_id and not {"model", "budget"} & body.model_fields_set
    if engine.ab_test is not None and is_tested:
        variant, options = engine.ab_test.apply(user_id, options)
    built = await engine.recommend(user, options)
    recommendations = built.recommendations
    if engine.ab_test is not None and variant is not None:
        shown = [one.item_id for one in recommendations.items]
        await engine.ab_test.record_exposure(user_id, variant, shown)
    items = await engine.items([one.item_id for one in recommendations.items])
    return schemas.ListResponse(
        recommendation_id=str(uuid.uuid4()),
        model_version=built.version,
        fallback_reason=recommendations.fallback_reason,
        preference=recommendations.preference,
        items=[
            schemas.RecommendedItem(
                item_id=one.item_id,
                rank=one.rank,
                score=one.score,
                reason=built.scores.reason(one.item_id, otherwise=built.unscored),
                title=item.title,
                generators=list(one.generators),
                matches=list(one.matches) if body.explain else None,
            )
            for one, item in zip(recommendations.items, items, strict=True)
        ],
        without_image=recommendations.without_image,
        unknown_items=engine.unknown_items(body.candidate_ids or ()),
        variant=variant,
    )


@router.post("/v1/recommendations", tags=["Recommendations"], responses=error_responses(404, 429))
async def recommend(body: schemas.ListRequest, request: Request) -> schemas.ListResponse:
    """Recommend items of the full catalog, or rank given items."""
    return await recommend_list(get_engine(request), body)


@router.post("/v1/scores", tags=["Recommendations"], responses=error_responses(429))
async def score(body: schemas.ScoresRequest, request: Request) -> schemas.ScoresResponse:
    """Return P(yes) of the given items for a user."""
    engine = get_engine(request)
    scores = await engine.score(body.user_id, body.item_ids)
    return schemas.ScoresResponse(
        model_version=engine.lists.scorer(RUN).version,
        fallback_reason=scores.fallback_reason,
        scores=[
            schemas.ItemScore(
                item_id=item_id,
                score=scores.values.get(item_id),
                reason=scores.reason(item_id, otherwise="unknown_item"),
            )
            for item_id in body.item_ids
        ],
    )


@router.post(
    _NEW_ITEM_PATH,
    tags=["Items"],
    status_code=201,
    responses={
        200: {"model": schemas.ItemResponse, "description": "The item was added before"},
        **error_responses(409),
    },
)
async def add_item(
    body: schemas.NewItem, request: Request, response: Response
) -> schemas.ItemResponse:
    """Add an item, which can be recommended immediately. A repeated request returns 200."""
    item = Item(body.item_id, body.title, body.text)
    row, is_new = await get_engine(request).add_item(item, body.image)
    if not is_new:
        response.status_code = 200
    return schemas.ItemResponse(
        item_id=body.item_id, summary=row["summary"], image_status=row["image_status"]
    )


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", tags=["Service"])
async def get_health() -> schemas.Health:
    """Return 200 while the process is alive."""
    return schemas.Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", tags=["Service"], responses=error_responses())
async def get_readiness(request: Request) -> schemas.Readiness:
    """Return whether the model scores requests; 503 if events cannot be stored."""
    engine = get_engine(request)
    await engine.check()
    ready, model = engine.readiness
    return schemas.Readiness(
        status="ready" if ready else "fallback",
        model=model,
        items=len(engine.catalog),
        waiting=engine.waiting,
    )


@router.get("/metrics", tags=["Service"], response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Return the metrics in the text format of Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type="text/plain; version=0.0.4")


async def handle_package_error(_: Request, error: MllmMsrError) -> Response:
    """Return the response for an error of this package: its status and message."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    headers = {"Retry-After": "1"} if status in {429, 503} else None
    return _error_response(status, str(error), headers)


async def handle_invalid_request(_: Request, error: RequestValidationError) -> Response:
    """Return the response for an invalid request: the invalid fields and the reasons."""
    return _error_response(422, describe_problems(error.errors()))


async def handle_http_error(request: Request, error: HTTPException) -> Response:
    """Return the response for an error of the framework, such as a path without a route."""
    detail = str(error.detail)
    if error.status_code in {404, 405}:
        detail = f"There is no {request.method} {request.url.path[:200]!r}. See /docs."
    elif error.status_code == 400:
        detail = "The body cannot be read. Send JSON in UTF-8."
    return _error_response(error.status_code, detail, error.headers)


def _error_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    # Escaped as ASCII, because clients may send surrogates that cannot be encoded as UTF-8.
    body = json.dumps({"detail": detail})
    return Response(body, status, headers=headers, media_type="application/json")
