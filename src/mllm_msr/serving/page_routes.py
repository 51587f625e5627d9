"""Routes of the web page: its files, users, items, images and models.

The page consists of static files (`page/`) and loads nothing from other servers. Images are
requested by item id; the run's table of items determines the file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import logging
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from mllm_msr.errors import ImageError
from mllm_msr.serving import request_types, schemas
from mllm_msr.serving.dependencies import ItemPath, Responses, error_responses, get_engine
from mllm_msr.serving.items import UnknownItemError
from mllm_msr.serving.validation import BoundedRoute

logger = logging.getLogger(__name__)

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}

_IMAGE_RESPONSES: Final[Responses] = {
    200: {"content": {"image/jpeg": {}}, "description": "JPEG of at most 320 pixels per side"},
    304: {"description": "Not modified"},
}

router = APIRouter(route_class=BoundedRoute)


@functools.cache
def _read_file(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath("page", name).read_bytes()


@router.get("/", include_in_schema=False)
@router.get("/page/page.css", include_in_schema=False)
@router.get("/page/page.js", include_in_schema=False)
@router.get("/page/icon.svg", include_in_schema=False)
async def get_page_file(request: Request) -> Response:
    """Return a file of the page."""
    name, media_type = _FILES[request.scope["route"].path]
    headers = {"Cache-Control": "no-cache"}
    return Response(_read_file(name), media_type=media_type, headers=headers)


@router.get("/v1/users", responses=error_responses())
async def find_users(
    request: Request,
    contains: Annotated[str, Query(max_length=200, description="part of the id")] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> schemas.UsersResponse:
    """Search the ids of known users."""
    user_ids, total = await get_engine(request).users.find(contains, limit=limit)
    return schemas.UsersResponse(users=user_ids, total=total)


@router.get("/v1/items", responses=error_responses())
async def get_items(
    request: Request,
    item_id: Annotated[list[request_types.Id], Query(min_length=1, max_length=100)],
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
            )
            for item in await engine.items(known)
        ]
    )


@router.get("/v1/models", responses=error_responses())
async def get_models(request: Request) -> schemas.ModelsResponse:
    """Return the ranking models that a request can select."""
    engine = get_engine(request)
    return schemas.ModelsResponse(
        models=[
            schemas.ServedModel(
                name=name,
                version=scorer.version,
                fine_tuned=engine.fine_tuned and name == "run",
            )
            for name, scorer in engine.scorers.items()
        ]
    )


@router.get(
    "/v1/items/{item_id:path}/image",
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
