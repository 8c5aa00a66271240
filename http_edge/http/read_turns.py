"""Scheduling of expensive reads (pages of jobs, metrics, thumbnails): places are few, and clients take turns for them.

Such a read takes milliseconds of the edge's one thread and of the broker's, where a submit or a status takes a fraction of one. Rules. A
client has half of the places at most. A read that finds none waits, in the order of arrival within its client, clients one after the other;
so a client that requests a hundred pages delays only itself. A read that waits too long, or comes when enough of its client wait, is
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Generic, Literal, TypeVar

from starlette.requests import ClientDisconnect, Request

from http_edge.base.errors import EdgeError
from http_edge.http.disconnect import ClientGone, while_present

T = TypeVar("T")

#: Reads under way: in all, and of one client.
AT_ONCE = 4
OF_CLIENT = 2

#: Reads that wait: in all, and of one client; and for how long, seconds.
WAITING = 2048
WAITING_OF_CLIENT = 512
WAIT_S = 10.0

_RETRY_AFTER_S = 2.0


class ReadTurns(Generic[T]):
    """Decides which of an edge's expensive reads begin and which wait."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        #: By client, in the order in which clients have their turn.
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def enter(self, client: str, read: T) -> Literal["begins", "waits", "refused"]:
        """Admit a read, queue it or refuse it. A read that begins must `leave`; one that waits begins when a `leave` returns it."""
        own = len(self._waiting.get(client, ()))
        if not own and self._has_place(client):
            self._under_way[client] += 1
            return "begins"
        if own >= WAITING_OF_CLIENT or self._count >= WAITING:
            return "refused"
        self._waiting.setdefault(client, deque()).append(read)
        self._count += 1
        return "waits"

    def leave(self, client: str) -> list[T]:
        """End a read; return the reads that begin now, each of which must `leave`, too."""
        self._under_way[client] -= 1
        if not self._under_way[client]:
            del self._under_way[client]
        return self._begin()

    def withdraw(self, client: str, read: T) -> None:
        """Remove a read that waits."""
        waiting = self._waiting[client]
        waiting.remove(read)
        self._taken(client, waiting)

    def _begin(self) -> list[T]:
        found: list[T] = []
        while (client := next((one for one in self._waiting if self._has_place(one)), None)) is not None:
            waiting = self._waiting[client]
            found.append(waiting.popleft())
            self._under_way[client] += 1
            self._waiting.move_to_end(client)
            self._taken(client, waiting)
        return found

    def _taken(self, client: str, waiting: deque[T]) -> None:
        self._count -= 1
        if not waiting:
            del self._waiting[client]

    def _has_place(self, client: str) -> bool:
        return self._under_way[client] < OF_CLIENT and self._under_way.total() < AT_ONCE


class ReadPlaces:
    """Lets expensive reads begin as `ReadTurns` decides."""

    def __init__(self) -> None:
        self._turns: ReadTurns[asyncio.Future[None]] = ReadTurns()

    @contextlib.asynccontextmanager
    async def place(self, client: str, request: Request) -> AsyncIterator[None]:
        """Hold a place, once there is one. Raises `EdgeError` when there was none in time, `ClientDisconnect` when the client left."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        decision = self._turns.enter(client, turn)
        if decision == "refused":
            raise _too_many(f"{WAITING_OF_CLIENT} of one client may wait, {WAITING} of all")
        if decision == "waits":
            await self._wait(client, turn, request)
        try:
            yield
        finally:
            self._leave(client)

    async def _wait(self, client: str, turn: asyncio.Future[None], request: Request) -> None:
        try:
            await while_present(request, asyncio.wait_for(asyncio.shield(turn), WAIT_S))
        except BaseException as error:
            if turn.done():
                # It was given a place in the very moment in which it gave up.
                self._leave(client)
            else:
                self._turns.withdraw(client, turn)
            if isinstance(error, TimeoutError):
                raise _too_many(f"this one had no turn within {WAIT_S:g} s") from None
            if isinstance(error, ClientGone):
                raise ClientDisconnect from None
            raise

    def _leave(self, client: str) -> None:
        for turn in self._turns.leave(client):
            turn.set_result(None)


def _too_many(reason: str) -> EdgeError:
    message = f"too many requests for lists, metrics or thumbnails are waiting: {reason}"
    return EdgeError("too_many_requests", message, retry_after_s=_RETRY_AFTER_S)
