"""The API's description: the OpenAPI document, and the page that shows it. Both are made once and served from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import anyio.to_thread
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from http_edge.api.common.operations import RANGES
from http_edge.api.native.service_api import SERVICE
from http_edge.base.errors import ErrorResponses
from http_edge.http.operation import Answer, operation
from http_edge.http.routing import EdgeRoute, operations_of, route
from http_edge.openapi.docs_page import PAGE, POLICY
from http_edge.openapi.document import document


class _Copy(Struct, frozen=True):
    """Bytes that do not change while the process lives."""

    data: bytes
    media_type: str
    etag: str


class DocsApi:
    """Handlers of the description. `keys`: whether the service asks for API keys."""

    def __init__(self, version: str, errors: ErrorResponses, *, keys: bool) -> None:
        self._errors = errors
        self._version = version
        self._keys = keys
        self._page = _copy(PAGE.encode(), "text/html; charset=utf-8")
        self._document: _Copy | None = None

    def routes(self) -> list[EdgeRoute]:
        """The routes."""
        return [route("/openapi.json", GET=self.openapi), route("/docs", GET=self.docs)]

    @operation(
        "showOpenApi",
        SERVICE,
        params=(RANGES[1],),
        answers={
            200: Answer(about="The document.", types=(dict,)),
            304: Answer(about="The copy of which `If-None-Match` is the ETag is good."),
        },
    )
    async def openapi(self, request: Request) -> Response:
        """This document."""
        if self._document is None:
            # In a thread: it takes a good part of a second on a busy machine.
            self._document = await anyio.to_thread.run_sync(self._make, request.app.routes)
        return _answer(request, self._document)

    @operation(
        "showDocs",
        SERVICE,
        params=(RANGES[1],),
        answers={
            200: Answer(about="The page.", types=(str,), media=("text/html",)),
            304: Answer(about="The copy of which `If-None-Match` is the ETag is good."),
        },
    )
    async def docs(self, request: Request) -> Response:
        """This document as a page."""
        response = _answer(request, self._page)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _make(self, routes: Sequence[BaseRoute]) -> _Copy:
        made = document(operations_of(routes), self._errors, self._version, keys=self._keys)
        return _copy(msgspec.json.encode(made), "application/json")


def _copy(data: bytes, media_type: str) -> _Copy:
    return _Copy(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def _answer(request: Request, copy: _Copy) -> Response:
    """Return the bytes, or 304 to a client that has them."""
    headers = {"ETag": copy.etag, "Cache-Control": "no-cache"}
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if copy.etag in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    return Response(copy.data, media_type=copy.media_type, headers=headers)
