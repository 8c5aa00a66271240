"""The API's description: the OpenAPI document, and the page that shows it. All are made once and served from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import anyio.to_thread
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.operations import RANGES
from http_edge.api.native.service_api import SERVICE
from http_edge.base.errors import ErrorResponses
from http_edge.http.operation import Answer, again, operation
from http_edge.http.routing import EdgeRoute, operations_of, route
from http_edge.openapi import swagger_ui
from http_edge.openapi.document import document

_HTML = "text/html; charset=utf-8"
_NOT_MODIFIED = Answer(about="The copy of which `If-None-Match` is the ETag is good.")


def _file(media_type: str) -> dict[int, Answer]:
    return {200: Answer(about="The file.", types=(str,), media=(media_type,)), 304: _NOT_MODIFIED}


class _Copy(Struct, frozen=True):
    """Bytes that do not change while the process lives."""

    data: bytes
    media_type: str
    etag: str


class DocsApi:
    """Handlers of the description. `keys`: whether the service requires API keys."""

    def __init__(self, version: str, errors: ErrorResponses, *, keys: bool) -> None:
        self._errors = errors
        self._version = version
        self._keys = keys
        self._copies: dict[str, _Copy] = {}

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/openapi.json", GET=self.openapi),
            route("/docs", GET=self.docs),
            route("/docs/swagger-ui-bundle.js", GET=self.script),
            route(
                "/docs/swagger-ui.css",
                GET=again(
                    self.script, "showDocsStyle", summary="Style of the page at /docs", answers=_file("text/css")
                ),
            ),
        ]

    @operation(
        "showOpenApi",
        SERVICE,
        params=(RANGES[1],),
        answers={200: Answer(about="The document.", types=(dict,)), 304: _NOT_MODIFIED},
    )
    async def openapi(self, request: Request) -> Response:
        """This document."""
        operations = operations_of(request.app.routes)
        make = partial(document, operations, self._errors, self._version, keys=self._keys)
        return await self._answer(request, "application/json", lambda: msgspec.json.encode(make()))

    @operation(
        "showDocs",
        SERVICE,
        params=(RANGES[1],),
        answers={200: Answer(about="The page.", types=(str,), media=("text/html",)), 304: _NOT_MODIFIED},
    )
    async def docs(self, request: Request) -> Response:
        """This document as a page on which each operation can be tried."""
        # The page names its files relative to its address, so that a proxy may serve all of it below a path of its own.
        slash = request.scope.get("raw_path", b"").endswith(b"/")
        response = await self._answer(request, _HTML, lambda: swagger_ui.page("" if slash else "docs/").encode(), slash)
        response.headers["Content-Security-Policy"] = swagger_ui.POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @operation(
        "showDocsScript",
        SERVICE,
        params=(RANGES[1],),
        answers=_file("text/javascript"),
    )
    async def script(self, request: Request) -> Response:
        """Script of the page at /docs."""
        name = request.scope["path"].rpartition("/")[2]
        return await self._answer(request, swagger_ui.FILES[name], lambda: swagger_ui.read(name))

    async def _answer(
        self, request: Request, media_type: str, make: Callable[[], bytes], variant: object = ""
    ) -> Response:
        """Return the bytes that are served at the path, made at the first request; 304 to a client that has them."""
        key = f"{request.scope['path']}{variant}"
        copy = self._copies.get(key)
        if copy is None:
            # In a thread: the document takes a good part of a second on a busy machine, and a disk can be slow.
            data = await anyio.to_thread.run_sync(make)
            copy = self._copies[key] = _Copy(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
        headers = {"ETag": copy.etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if copy.etag in tags or "*" in tags:
            return Response(status_code=304, headers=headers)
        return Response(copy.data, media_type=copy.media_type, headers=headers)
