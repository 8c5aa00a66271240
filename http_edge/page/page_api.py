"""The web page at `/` and the files that it is made of, from memory. Programs that request `/` get an index of the API instead.

The address of a file has a digest of all files in it, so that a browser keeps it for good and yet never mixes two versions; only the page
itself is requested again each time. A digest of another version, as of an edge that is being replaced, gets the file of this one, unkept.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common import schema_service as schema
from http_edge.api.common.operations import RANGES
from http_edge.api.native.service_api import SERVICE
from http_edge.base.errors import not_found
from http_edge.body.json_body import json_response
from http_edge.http.operation import JSON, Answer, Param, operation
from http_edge.http.routing import EdgeRoute, route

_STATIC = Path(__file__).with_name("static")
_INDEX = "index.html"

#: Where the page's files are, for everybody: the page itself prompts for a key.
PREFIX = "/page/"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: Nothing from elsewhere, no script or style in the markup, in no frame. With keys media are fetched, and shown from memory (blob:).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_FOR_GOOD = "public, max-age=31536000, immutable"


class _Page(Struct, frozen=True):
    """The page's files, as they were when the process began, and the same gzipped. `etag`: of the page itself."""

    digest: str
    files: dict[str, bytes]
    packed: dict[str, bytes]
    html: bytes
    etag: str


def _read() -> _Page:
    files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
    whole = hashlib.sha256()
    for name, data in files.items():
        whole.update(name.encode() + b"\0" + data + b"\0")
    digest = whole.hexdigest()[:16]
    # Named in the page, so that a browser fetches all at once and not one after the other as they import each other.
    modules = "\n".join(
        f'<link rel="modulepreload" href="{{{{files}}}}/{name}">' for name in files if name.endswith(".js")
    )
    html = files.pop(_INDEX).replace(b"{{modules}}", modules.encode())
    html = html.replace(b"{{files}}", f"{PREFIX[1:]}{digest}".encode())
    packed = {name: gzip.compress(data, mtime=0) for name, data in files.items()}
    return _Page(digest, files, packed, html, f'"{digest}"')


class PageApi:
    """Handlers of the page."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._page = _read()

    def routes(self) -> list[EdgeRoute]:
        return [route("/", GET=self.index), route(f"{PREFIX}{{digest}}/{{name}}", GET=self.file)]

    @operation(
        "showIndex",
        SERVICE,
        params=(RANGES[1],),
        answers={
            200: Answer(
                about="The index, or the page where `Accept` asks for HTML.",
                types=(schema.Index, str),
                media=(JSON, "text/html"),
            ),
            304: Answer(about="The copy of the page of which `If-None-Match` is the ETag is good."),
        },
    )
    async def index(self, request: Request) -> Response:
        """Index of the service.

        Browsers get the web page.
        """
        if "text/html" in request.headers.get("accept", "").lower():
            return self._html(request)
        links = {
            "jobs": "/v1/jobs",
            "workers": "/v1/workers",
            "models": "/v1/models",
            "videos": "/v1/videos",
            "images": "/v1/images/generations",
            "lightx2v": "/v1/local/video/generate",
            "health": "/health",
            "metrics": "/metrics",
            "docs": "/docs",
            "openapi": "/openapi.json",
        }
        body = schema.Index(name="zoetrope", version=self._version, links=links)
        return json_response(body, headers={"Vary": "Accept"})

    @operation(
        "showPageFile",
        SERVICE,
        params=(
            Param(name="digest", place="path", required=True, about="Of the files' version."),
            Param(name="name", place="path", required=True, about="The file's name."),
        ),
        answers={200: Answer(about="The file.", types=(str,), media=("text/javascript", "text/css", "image/svg+xml"))},
        errors=("not_found",),
    )
    async def file(self, request: Request) -> Response:
        """A file of the web page."""
        name = request.path_params["name"]
        data = self._page.files.get(name)
        if data is None:
            raise not_found("file", name)
        kept = request.path_params["digest"] == self._page.digest
        headers = {
            **_HEADERS,
            "Content-Type": _TYPES[Path(name).suffix],
            "Cache-Control": _FOR_GOOD if kept else "no-store",
            "Vary": "Accept-Encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self._page.packed[name], headers={**headers, "Content-Encoding": "gzip"})
        return Response(data, headers=headers)

    def _html(self, request: Request) -> Response:
        headers = {
            **_HEADERS,
            "ETag": self._page.etag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY,
            "Vary": "Accept",
        }
        tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self._page.etag in tags or "*" in tags:
            return Response(status_code=304, headers=headers)
        return Response(self._page.html, headers={**headers, "Content-Type": _TYPES[".html"]})
