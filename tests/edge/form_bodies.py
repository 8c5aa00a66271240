"""Bodies of forms, and reading them as a server does that gets them in chunks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.testclient import TestClient

from http_edge.body.forms import Fields, read_fields
from http_edge.body.spool import Spool

MIB = 1024 * 1024


def left(temporary: Path) -> list[str]:
    return sorted(os.listdir(temporary)) if temporary.exists() else []


def seen(fields: Fields) -> dict[str, Any]:
    """Everything in the fields, files by their bytes."""
    return {
        "values": fields.values,
        "uploads": {
            name: [[one.field, one.file_name, one.media_type, one.size, one.path.read_bytes().hex()] for one in group]
            for name, group in fields.uploads.items()
        },
        "is_form": fields.is_form,
    }


BOUNDARY = "x-Boundary-7"


def field(name: str, value: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def file(name: str, file_name: str, data: bytes, kind: str = "image/png") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + data


def build(parts: list[bytes], boundary: str = BOUNDARY, end: bytes = b"--\r\n") -> bytes:
    lead = f"--{boundary}".encode()
    return b"".join(lead + b"\r\n" + part + b"\r\n" for part in parts) + lead + end


def post(http: TestClient, body: bytes, boundary: str = BOUNDARY) -> Any:
    return http.post("/", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"})


def receiver(chunks: list[bytes | str]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """ASGI's receive: bytes come, "gone" is a client that left, "stall" one that says nothing more."""
    queue = list(chunks)

    async def receive() -> dict[str, Any]:
        chunk = queue.pop(0)
        if chunk == "stall":
            await asyncio.get_running_loop().create_future()
        if chunk == "gone":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(queue)}

    return receive


def read(
    temporary: Path,
    chunks: list[bytes | str],
    kind: str = f"multipart/form-data; boundary={BOUNDARY}",
    where: Spool | None = None,
) -> Fields:
    async def reading() -> Fields:
        async with asyncio.timeout(60):
            app = SimpleNamespace(state=SimpleNamespace(spool=where or Spool(temporary)))
            scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())], "app": app}
            return await read_fields(Request(scope, receiver(chunks)))  # type: ignore[arg-type]

    return asyncio.run(reading())
