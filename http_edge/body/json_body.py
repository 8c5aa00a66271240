"""JSON in and out: request bodies read within bounds, responses encoded once."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from http_edge.base.context import current
from http_edge.base.errors import EdgeError, shown
from http_edge.base.json_text import BadJson, decode_json
from http_edge.base.limits import CLOSE, SMALL_BODY_BYTES, Limits
from http_edge.body.spool import MAX_FIELDS, Body, Spool

#: Largest JSON body that is read whole: one without images.
MAX_BODY_BYTES = SMALL_BODY_BYTES

#: A small body that takes longer than this to arrive is not coming.
_LIMITS = Limits(request_bytes=MAX_BODY_BYTES, idle_s=30.0, total_s=30.0)

_NO_STORE = {"Cache-Control": "no-store"}


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that no cache keeps."""
    return Response(
        msgspec.json.encode(data),
        status_code=status,
        media_type="application/json",
        headers={**_NO_STORE, **(headers or {})},
    )


async def read_object(request: Request) -> dict[str, Any]:
    """The request's small JSON object. A doubled key's last value counts. Raises `EdgeError` for everything that is not one.

    Where images or forms may come, `forms.read_fields` reads.
    """
    spool: Spool = request.app.state.spool
    body = bytearray()
    async with aclosing(Body(request, _LIMITS, MAX_BODY_BYTES).chunks()) as chunks:
        with spool.arriving() as grow:
            async for chunk in chunks:
                if not grow(len(body) + len(chunk)):
                    raise EdgeError("busy", "too many bodies are arriving at once", retry_after_s=2.0, headers=CLOSE)
                body += chunk
    data = parse_object(bytes(body))
    payload = current().payload
    if payload is not None:
        payload.add(data)
    return data


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, behind a byte order mark or not. Raises `EdgeError`."""
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise EdgeError("bad_json", "body: it is empty; a JSON object is expected")
    try:
        data = decode_json(body)
    except BadJson as error:
        raise EdgeError("bad_json", f"body: {error}") from None
    if not isinstance(data, dict):
        raise EdgeError("bad_json", f"body: {shown(data)} is not a JSON object")
    if len(data) > MAX_FIELDS:
        raise EdgeError("too_large", f"body: it has more than {MAX_FIELDS} fields")
    return data
