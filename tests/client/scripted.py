"""A service that answers from a script, and clients that ask it without letting time pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from zoetrope import AsyncClient, Client, RetryPolicy
from zoetrope.client import connection as connection_module

#: An answer, or an error of the connection.
Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers requests in turn and keeps them; `slept` are the pauses that the client made."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode() for request in self.requests]


class Blocking:
    """The blocking client, called as the tests call both."""

    def __init__(self, script: Script, **options: Any) -> None:
        self._client = Client("http://service", transport=httpx.MockTransport(script), **options)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._client, name)(*args, **kwargs)

    def all(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        return list(getattr(self._client, name)(*args, **kwargs))


class Awaiting:
    """The asyncio client, each call in a loop of its own."""

    def __init__(self, script: Script, **options: Any) -> None:
        self._make = lambda: AsyncClient("http://service", transport=httpx.MockTransport(script), **options)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with self._make() as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    def all(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        async def run() -> list[Any]:
            async with self._make() as client:
                return [item async for item in getattr(client, name)(*args, **kwargs)]

        return asyncio.run(run())


def without_time(monkeypatch: Any, script: Script) -> None:
    """Let the clients' pauses be noted and take no time."""

    async def sleep(seconds: float) -> None:
        script.slept.append(seconds)

    monkeypatch.setattr(connection_module, "time", _Sleeps(script.slept.append))
    monkeypatch.setattr(connection_module, "asyncio", _Sleeps(sleep))


class _Sleeps:
    def __init__(self, sleep: Callable[[float], Any]) -> None:
        self.sleep = sleep


def ok(**members: Any) -> httpx.Response:
    return httpx.Response(200, json=members)


def job(state: str = "queued", **members: Any) -> dict[str, Any]:
    return {"id": "job-1", "state": state, **members}


def refusal(status: int, code: str, message: str = "no", **headers: str) -> httpx.Response:
    body = {"error": {"message": message, "param": "width", "code": code}}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, and may break off."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces, self._error = pieces, error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def stream(*pieces: bytes, status: int = 200, error: Exception | None = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(status, stream=Pieces(*pieces, error=error), headers=named)


#: No lot in the pauses of tests.
EVEN = RetryPolicy(first_s=1.0)
