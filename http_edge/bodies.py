"""JSON in and out: request bodies read within bounds, responses encoded once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from http_edge.errors import EdgeError, shown

#: Largest JSON body. Uploads, when they come, are spooled and have a cap of their own.
MAX_BODY_BYTES = 2 * 1024 * 1024

#: A body that takes longer than this to arrive is not coming.
BODY_TIMEOUT_S = 30.0

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
    """The request's JSON object. A doubled key's last value counts. Raises `EdgeError` for everything that is not one."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.body()
    except TimeoutError:
        raise EdgeError(
            "request_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s", retry_after_s=1.0
        ) from None
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `EdgeError`."""
    if not body.strip():
        raise EdgeError("bad_json", "body: it is empty; a JSON object is expected")
    try:
        data = msgspec.json.decode(body)
    # UnicodeDecodeError is no msgspec error; nesting beyond the interpreter's limit raises RecursionError.
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EdgeError("bad_json", f"body: it is not valid JSON: {error}") from None
    except RecursionError:
        raise EdgeError("bad_json", "body: it is nested too deeply") from None
    if not isinstance(data, dict):
        raise EdgeError("bad_json", f"body: {shown(data)} is not a JSON object")
    return data
