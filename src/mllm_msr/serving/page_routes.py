"""What the page needs besides the service's own routes: its files, users, items, images, models.

The page is static (`page/`): one document, one style sheet, one script, nothing from elsewhere.
Images are asked for by an item's id alone; which file that is, the run's table of items says.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
from typing import Annotated, Final

from fastapi import FastAPI, Query, Request, Response

from mllm_msr.serving import schemas
from mllm_msr.serving.dependencies import ItemPath, Responses, engine_of, problems
from mllm_msr.serving.image_uploads import as_shown
from mllm_msr.serving.users import UnknownItemError

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}

_IMAGE: Final[Responses] = {
    200: {"content": {"image/jpeg": {}}, "description": "at most 320 pixels a side"},
    304: {"description": "it is as it was"},
}


def add_browsing(app: FastAPI) -> None:
    """Add the page and its routes to the application."""
    for path, (name, media_type) in _FILES.items():
        _add_file(app, path, name, media_type)
    _add_lookups(app)
    _add_images(app)


def _add_file(app: FastAPI, path: str, name: str, media_type: str) -> None:
    content = importlib.resources.files(__package__).joinpath("page", name).read_bytes()

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})


def _add_lookups(app: FastAPI) -> None:
    @app.get("/v1/users", responses=problems())
    async def users(
        request: Request,
        contains: Annotated[str, Query(max_length=200, description="part of the id")] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> schemas.UsersResponse:
        """Ids of users, to choose one."""
        found, total = await engine_of(request).users.find(contains, limit=limit)
        return schemas.UsersResponse(users=found, total=total)

    @app.get("/v1/items", responses=problems())
    async def items(
        request: Request, item_id: Annotated[list[schemas.Id], Query(min_length=1, max_length=100)]
    ) -> schemas.ItemsResponse:
        """Titles and summaries of items; unknown ones are passed over."""
        catalogue = engine_of(request).catalogue
        return schemas.ItemsResponse(
            items=[
                schemas.ListedItem(
                    item_id=one,
                    title=catalogue.item(one).title,
                    summary=catalogue.summary(one),
                    image=catalogue.item(one).image is not None,
                )
                for one in dict.fromkeys(item_id)
                if one in catalogue
            ]
        )

    @app.get("/v1/models", responses=problems())
    async def models(request: Request) -> schemas.ModelsResponse:
        """The models that rank; a list can be asked of each."""
        engine = engine_of(request)
        return schemas.ModelsResponse(
            models=[
                schemas.ServedModel(
                    name=name, version=judge.version, fine_tuned=engine.trained and name == "run"
                )
                for name, judge in engine.judges.items()
            ]
        )


def _add_images(app: FastAPI) -> None:
    @app.get(
        "/v1/items/{item_id:path}/image",
        response_class=Response,
        responses={**problems(404), **_IMAGE},
    )
    async def image(item_id: ItemPath, request: Request) -> Response:
        """An item's image, small."""
        catalogue = engine_of(request).catalogue
        path = catalogue.item(item_id).image if item_id in catalogue else None
        if path is None:
            raise UnknownItemError(
                needed="an item with a image",
                received=repr(item_id),
                remedy="ask /v1/items whether it has one",
            )
        content = await asyncio.to_thread(as_shown, path)
        # Private: what a service with keys shows is not for caches that many share.
        headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{_digest(content)}"'}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
