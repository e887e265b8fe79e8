"""The dashboard's files: one page, a style sheet and some ES modules, sent as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    import os

    from starlette.requests import Request
    from starlette.types import Scope

__all__ = ["page_routes"]


class Files(StaticFiles):
    """The files of ``static``; a browser asks each time whether its copy is current."""

    def __init__(self) -> None:
        super().__init__(packages=[("worker.ops.page", "static")])

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


def page_routes() -> list[BaseRoute]:
    """``/``, the dashboard, and ``/page/…``, what it is made of."""
    files = Files()

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [Route("/", index, methods=["GET"], name="dashboard"), Mount("/page", files)]
