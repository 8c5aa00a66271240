"""Scheduling of webhook deliveries: begun now, waiting here, or given back to the journal; a receiver that hangs delays no other.

Rules. A host has a few places, a tenant has half of all, and hosts that were slow the last time have one place each and together no more
than a quarter. What finds no place waits here for a while, hosts taking turns; what waits too long, or comes when its host has enough
waiting, goes back, to come again later: the more of a host went back, the later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")

#: Deliveries under way: in all, of a tenant, to slow hosts together, to one host, to one slow host.
AT_ONCE = 256
_OF_TENANT = 128
_TO_SLOW = 64
_TO_HOST = 4
_TO_SLOW_HOST = 1

#: Deliveries that wait here: in all, for one host, for one slow host; and how long, seconds: well within a claim's lease.
WAITING = 512
_FOR_HOST = 16
_FOR_SLOW_HOST = 2
WAIT_S = 10.0

#: Seconds after which a delivery that was given back comes again, and further ones for each that went back before it.
_BACK_S = 5.0
_STEP_S, _SLOW_STEP_S = 0.05, 1.0
_MOST_BACK_S = 600.0

#: Longer than this is slow; and for how long a host is remembered to be, and how many hosts are.
_SLOW_S = 5.0
_SLOW_FOR_S = 300.0
_MAX_KEPT = 1000


class Turn(Struct, frozen=True):
    """Receiver of a delivery, for the sharing of places."""

    host: str
    tenant: str


class _Waiting(Struct, Generic[T], frozen=True):
    turn: Turn
    item: T
    since: float


class Turns(Generic[T]):
    """The deliveries that one edge holds."""

    def __init__(self) -> None:
        #: By host, in the order in which hosts have their turn.
        self._waiting: OrderedDict[str, deque[_Waiting[T]]] = OrderedDict()
        self._count = 0
        self._hosts: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()
        self._slow: OrderedDict[str, float] = OrderedDict()
        #: How many of a host went back since it had none waiting.
        self._gone_back: Counter[str] = Counter()

    @property
    def room(self) -> int:
        """Number of further deliveries that may be claimed."""
        return WAITING - self._count

    def add(self, turn: Turn, item: T, now: float) -> float | None:
        """Let a delivery wait for `ready`; or the seconds after which it is to come again."""
        waiting = self._waiting.get(turn.host, ())
        if len(waiting) >= (_FOR_SLOW_HOST if self._is_slow(turn.host, now) else _FOR_HOST) or self.room <= 0:
            return self._back(turn.host, now)
        self._waiting.setdefault(turn.host, deque()).append(_Waiting(turn, item, now))
        self._count += 1
        return None

    def ready(self, now: float) -> list[tuple[Turn, T]]:
        """The deliveries that begin now; each is to be `ended`."""
        found: list[tuple[Turn, T]] = []
        went_on = True
        while went_on:
            went_on = False
            for host in list(self._waiting):
                one = self._take(host, now)
                if one is not None:
                    found.append((one.turn, one.item))
                    went_on = True
        return found

    def overdue(self, now: float) -> list[tuple[T, float]]:
        """The deliveries that waited too long, and the seconds after which each is to come again."""
        found: list[tuple[T, float]] = []
        for host, waiting in list(self._waiting.items()):
            while waiting and now - waiting[0].since >= WAIT_S:
                retry_s = self._back(host, now)
                found.append((waiting.popleft().item, retry_s))
                self._left(host, waiting)
        return found

    def next_overdue(self) -> float | None:
        """Return the time at which the next one will have waited too long; None: none waits."""
        return min((waiting[0].since + WAIT_S for waiting in self._waiting.values()), default=None)

    def ended(self, turn: Turn, took_s: float, now: float) -> None:
        """Free the place of a delivery that is over, well or not."""
        for counter, key in ((self._hosts, turn.host), (self._tenants, turn.tenant)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        self._slow.pop(turn.host, None)
        if took_s >= _SLOW_S:
            self._slow[turn.host] = now + _SLOW_FOR_S
            if len(self._slow) > _MAX_KEPT:
                self._slow.popitem(last=False)

    # ------------------------------------------------------------ parts

    def _take(self, host: str, now: float) -> _Waiting[T] | None:
        """The next delivery to a host, which has had its turn then; None when there is no place."""
        waiting = self._waiting[host]
        slow = self._is_slow(host, now)
        if self._hosts[host] >= (_TO_SLOW_HOST if slow else _TO_HOST) or self._hosts.total() >= AT_ONCE:
            return None
        if slow and self._busy_with(self._slow) >= _TO_SLOW:
            return None
        # Of the tenants that wait for this host, the first with a place.
        one = next((one for one in waiting if self._tenants[one.turn.tenant] < _OF_TENANT), None)
        if one is None:
            return None
        waiting.remove(one)
        self._left(host, waiting)
        self._hosts[host] += 1
        self._tenants[one.turn.tenant] += 1
        return one

    def _left(self, host: str, waiting: deque[_Waiting[T]]) -> None:
        self._count -= 1
        if waiting:
            self._waiting.move_to_end(host)
        else:
            del self._waiting[host]
            self._gone_back.pop(host, None)

    def _back(self, host: str, now: float) -> float:
        step_s = _SLOW_STEP_S if self._is_slow(host, now) else _STEP_S
        self._gone_back[host] += 1
        return min(_MOST_BACK_S, _BACK_S + self._gone_back[host] * step_s)

    def _is_slow(self, host: str, now: float) -> bool:
        until = self._slow.get(host)
        if until is not None and until <= now:
            del self._slow[host]
            return False
        return until is not None

    def _busy_with(self, hosts: Iterable[str]) -> int:
        return sum(self._hosts[host] for host in hosts)
