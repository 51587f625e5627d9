"""Routes of the web page: its files, the API reference, the report, items, images and models.

The page consists of static files (`page/`) and loads nothing from other servers. Images are
requested by item id; the run's table of items determines the file.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.resources
import logging
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from mllm_msr.errors import ImageError
from mllm_msr.ranker.recommender import ZERO_SHOT
from mllm_msr.serving import request_types, schemas
from mllm_msr.serving.api_reference import render_reference
from mllm_msr.serving.dependencies import (
    ITEM_EXAMPLE,
    ItemPath,
    Responses,
    error_responses,
    get_engine,
)
from mllm_msr.serving.items import UnknownItemError
from mllm_msr.serving.list_builder import RUN
from mllm_msr.serving.validation import BoundedRoute
from mllm_msr.storage import layout

logger = logging.getLogger(__name__)

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The report is a page with its own scripts. In a sandbox, it has no access to the service.
_REPORT_POLICY: Final = (
    "sandbox allow-scripts allow-downloads allow-popups; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_IMAGE_RESPONSES: Final[Responses] = {
    200: {"content": {"image/jpeg": {}}, "description": "JPEG of at most 320 pixels per side"},
    304: {"description": "Not modified"},
}

router = APIRouter(route_class=BoundedRoute)


@functools.cache
def _page_files() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of the files of the page, by name."""
    package = importlib.resources.files("mllm_msr")
    files = [*(package / "serving" / "page").iterdir(), package / "_style" / "tokens.css"]
    known = [(file, _MEDIA_TYPES.get(PurePosixPath(file.name).suffix)) for file in files]
    return {file.name: (file.read_bytes(), media) for file, media in known if media}


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def get_page() -> Response:
    """Return the page."""
    return _file_response("index.html")


@router.head("/page/{name}", include_in_schema=False)
@router.get("/page/{name}", include_in_schema=False)
async def get_page_file(name: str) -> Response:
    """Return a style sheet, script or image of the page."""
    if name not in _page_files() or name.endswith(".html"):
        raise HTTPException(404)
    return _file_response(name)


def _file_response(name: str) -> Response:
    content, media_type = _page_files()[name]
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})


@router.head("/docs", include_in_schema=False)
@router.get("/docs", include_in_schema=False)
async def get_reference(request: Request) -> HTMLResponse:
    """Return the API reference."""
    return HTMLResponse(render_reference(request.app.openapi(), url=str(request.base_url)))


@router.head("/report", include_in_schema=False)
@router.get("/report", include_in_schema=False)
async def get_report(request: Request) -> FileResponse:
    """Return the report of the run."""
    path = _report_path(request)
    if not path.is_file():
        raise HTTPException(404)
    headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


def _report_path(request: Request) -> Path:
    run: Path = request.app.state.run
    return run / layout.REPORT_HTML


@router.get("/v1/run", tags=["Service"], responses=error_responses())
async def get_run(request: Request) -> schemas.RunResponse:
    """Return a description of the served run."""
    engine = get_engine(request)
    settings = engine.settings
    ranker = settings.score.model or settings.model
    options = ranker.plugin_kwargs()
    run: Path = request.app.state.run
    return schemas.RunResponse(
        name=run.resolve().name,
        dataset=settings.dataset,
        model=str(options.get("checkpoint", ranker.backend)).rpartition("/")[2],
        version=engine.lists.scorer(RUN).version,
        items=len(engine.catalog),
        update=settings.serve.update,
        preferences=settings.infer.enabled,
        history_items=settings.recommend.history_items if settings.recommend.reads_history else 0,
        report=await asyncio.to_thread(_report_path(request).is_file),
    )


@router.get("/v1/items", tags=["Items"], responses=error_responses())
async def get_items(
    request: Request,
    item_id: Annotated[
        list[request_types.Id], Query(min_length=1, max_length=100, openapi_examples=ITEM_EXAMPLE)
    ],
    text: Annotated[bool, Query(description="whether to return the texts of the items")] = False,
) -> schemas.ItemsResponse:
    """Return titles and summaries of items; unknown items are omitted."""
    engine = get_engine(request)
    known = [one for one in dict.fromkeys(item_id) if one in engine.catalog]
    return schemas.ItemsResponse(
        items=[
            schemas.ListedItem(
                item_id=item.item_id,
                title=item.title,
                summary=engine.catalog.summary(item.item_id),
                image=item.image is not None,
                text=item.text if text else None,
            )
            for item in await engine.items(known)
        ]
    )


@router.get("/v1/models", tags=["Recommendations"], responses=error_responses())
async def get_models(request: Request) -> schemas.ModelsResponse:
    """Return the ranking models that a request can select."""
    engine = get_engine(request)
    labels = {RUN: "Fine-tuned" if engine.fine_tuned else "Zero-shot", ZERO_SHOT: "Zero-shot"}
    models = [
        schemas.ServedModel(
            name=name,
            label=labels.get(name, name),
            version=scorer.version,
            fine_tuned=name in engine.fine_tuned_models,
            scores=True,
        )
        for name, scorer in engine.lists.scorers.items()
    ]
    models += [
        schemas.ServedModel(
            name=name, label=ranker.label, version=ranker.version, fine_tuned=False, scores=False
        )
        for name, ranker in engine.lists.baselines.items()
    ]
    return schemas.ModelsResponse(models=models)


@router.get(
    "/v1/items/{item_id:path}/image",
    tags=["Items"],
    response_class=Response,
    responses={**error_responses(404), **_IMAGE_RESPONSES},
)
async def get_image(item_id: ItemPath, request: Request) -> Response:
    """Return the image of an item as a thumbnail."""
    engine = get_engine(request)
    items = await engine.items([item_id] if item_id in engine.catalog else [])
    path = items[0].image if items else None
    if path is None:
        raise UnknownItemError(
            f"Item {item_id!r} is unknown or has no image. Use /v1/items to find items with an "
            "image."
        )
    try:
        content = await engine.thumbnail(path)
    except ImageError as error:  # its message contains a path on this machine
        logger.warning("Item %s has no thumbnail: %s", item_id, error)
        raise ImageError(
            f"The image of item {item_id!r} cannot be displayed. See the log of the service."
        ) from error
    digest = hashlib.sha256(content).hexdigest()[:32]
    # Private: shared caches must not store content that requires a key.
    headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{digest}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/jpeg", headers=headers)
