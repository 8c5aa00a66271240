"""The parts of flows: a flow is a generator that yields steps and is sent the outcome of each.

A `connection` carries the steps out, blocking or awaited. A step that fails for the connection's sake has `ConnectionBroken` thrown
into the flow at that place. Flows that make several things hand each out with `Emit`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from msgspec import Struct

from zoetrope.client.requests import Request

T = TypeVar("T")


class ConnectionBroken(Exception):
    """The connection could not be made, or broke. `sent`: the service may have had the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Send(Struct, frozen=True):
    """Step: send this and read the whole answer; outcome: `Reply`."""

    request: Request


class Open(Struct, frozen=True):
    """Step: send this and begin to read a stream; outcome: `Reply`, with its body only where it is an error."""

    request: Request


class Read(Struct, frozen=True):
    """Step: outcome: the next bytes of the open stream; None at its end."""


class Close(Struct, frozen=True):
    """Step: close the open stream."""


class Sleep(Struct, frozen=True):
    """Step: let time pass."""

    seconds: float


class Notify(Struct, frozen=True):
    """Step: call this with a value; the asyncio client awaits what it returns, where that can be awaited."""

    callback: Callable[[Any], Any]
    value: Any


class Emit(Struct, frozen=True):
    """Step: hand out one of the things that an iteration makes."""

    item: Any


Step = Send | Open | Read | Close | Sleep | Notify | Emit
Flow = Generator[Step, Any, T]


class Walk(Generic[T]):
    """A flow on its way: give it the outcome of a step, get the next step; None when it is over and `result` is there."""

    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow

    def give(self, outcome: Any = None) -> Step | None:
        """The step after this outcome; the first one for None."""
        try:
            return self._flow.send(outcome)
        except StopIteration as end:
            self.result = end.value
            return None

    def fail(self, error: ConnectionBroken) -> Step | None:
        """The step after a connection that broke."""
        try:
            return self._flow.throw(error)
        except StopIteration as end:
            self.result = end.value
            return None
