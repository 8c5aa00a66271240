"""The leader's side of a group over several machines, as decisions alone: no socket, no clock.

- Each other machine has a *place*, which a rank host takes by `Join` and keeps while messages of it arrive. Ranks are numbered by place.
- An engine of the group is a *life*: a number, given once. A machine's report of a life counts for that one; one that is not ordered any
  more is killed there. It has ended on a machine when that reports so, or when the machine has lost its place: then its rank host ends
  what it has once it gets no message of this leader, or before it starts anything else.
- A machine is *there* while its messages arrive; nothing is started before all are. A silence that does not cost the place yet, as of a
  connection that is made anew, holds starts up and ends nothing.
"""

from __future__ import annotations

from msgspec import Struct

from workers.ipc.messages import FromEngine, Setup
from workers.machines.messages import (
    PROTOCOL,
    Beat,
    Device,
    Dismiss,
    FromRank,
    Join,
    Leave,
    LifeOrder,
    LifeState,
    Orders,
    Refuse,
    SetUp,
    ToHost,
    ToLeader,
    Wait,
)

BEAT_S = 1.0

#: Silence after which nothing is started, and after which the place is free.
_ABSENT_S, SILENT_S = 2.5, 6.0

#: The same where there is no connection any more: a rank host makes a new one within a tenth of a second.
_CUT_OFF_S = 2.0

#: For so long a rank host waits for a place where all are taken: its own, of before its restart, is free by then.
_NO_PLACE_S = 10.0

#: Without a message for so long a waiting rank host is forgotten.
_FORGOTTEN_S = 30.0


class End(Struct, frozen=True):
    """End of an engine process, in words. `lost`: its machine is not counted on any more, and its end is not known."""

    how: str
    lost: bool = False


class Sent(Struct, frozen=True):
    """A message to the rank host with this address."""

    peer: bytes
    message: ToHost


class _Place:
    """The rank host of one machine."""

    def __init__(self, peer: bytes, join: Join, now: float) -> None:
        self.peer = peer
        self.boot = join.boot
        self.host = join.host
        self.contact_at = now
        #: Since when there is no connection to it.
        self.cut_off_at: float | None = None
        #: Whether it has reported since it has the place.
        self.has_reported = False
        self.latest_life = 0
        self.states: dict[int, LifeState] = {}
        self.device = Device()
        #: Why it is being stopped; "": it is not.
        self.stops = ""

    def is_there(self, now: float) -> bool:
        return not self.stops and self.cut_off_at is None and now - self.contact_at <= _ABSENT_S

    def lost_because(self, now: float) -> str:
        """Reason why it has lost its place; "": it has not."""
        if self.cut_off_at is not None and now - self.cut_off_at > _CUT_OFF_S:
            return "its connection is gone"
        return f"no message for {SILENT_S:g} s" if now - self.contact_at > SILENT_S else ""


class _Life:
    """An engine of the group, on the other machines."""

    def __init__(self, orders: tuple[LifeOrder, ...]) -> None:
        #: By place.
        self.orders = orders
        self.setup: Setup | None = None
        #: Place -> when the setup was sent there last.
        self.set_up_at: dict[int, float] = {}
        self.wanted = True
        #: Place -> why its machine is not counted on any more.
        self.lost: dict[int, str] = {}
        #: Why a machine of it was stopped; "": none was.
        self.stops = ""
        #: (place, number there) -> messages that were not taken yet.
        self.inbox: dict[tuple[int, int], list[FromEngine]] = {}


class Leader:
    """Places and lives of one group. `machines`: with the leader's; `ranks`: of each."""

    def __init__(self, boot: str, machines: int, ranks: int) -> None:
        self.boot = boot
        self.ranks = ranks
        self._machines = machines
        self._places: list[_Place | None] = [None] * (machines - 1)
        self._lives: dict[int, _Life] = {}
        self._last = 0
        self._due_at = 0.0
        #: Boots of rank hosts without a place -> since when, and when their last request came.
        self._waiting: dict[str, tuple[float, float]] = {}

    @property
    def next_due(self) -> float | None:
        """Time of the next `tick`; None: there are no other machines."""
        return self._due_at if self._places else None

    def waits_for(self, now: float) -> str:
        """Machines that are not there, in words; "": all are."""
        missing = sum(place is None or not place.is_there(now) for place in self._places)
        return f"waiting for {missing} of {self._machines} machines" if missing else ""

    def stops(self) -> str:
        """Machine that is being stopped, or was while it had a part of a life that is not forgotten yet, and why; "": there is none."""
        places = (f"{place.host} is being stopped: {place.stops}" for place in self._places if place and place.stops)
        return next(places, "") or next((life.stops for life in self._lives.values() if life.stops), "")

    def there(self, now: float) -> list[str]:
        """Names of the other machines that are there."""
        return [place.host for place in self._places if place is not None and place.is_there(now)]

    def devices(self) -> list[tuple[str, Device]]:
        """Measurements of the other machines, with their names."""
        return [(place.host, place.device) for place in self._places if place is not None]

    # ------------------------------------------------------------ messages of rank hosts

    def receive(self, peer: bytes, message: ToLeader, now: float) -> list[Sent]:
        """Take a message of the rank host with this address; returns what is answered at once."""
        if isinstance(message, Join):
            return self._join(peer, message, now)
        index = next((index for index, one in enumerate(self._places) if one and one.boot == message.boot), None)
        if index is None:
            return [] if isinstance(message, Leave) else [Sent(peer, Wait(reason="this leader does not know it"))]
        place = self._places[index]
        assert place is not None
        place.peer, place.contact_at, place.cut_off_at = peer, now, None
        match message:
            case Beat():
                place.has_reported = True
                place.latest_life, place.device = message.latest_life, message.device
                place.states = {state.life: state for state in message.lives}
                place.stops = message.stops
            case FromRank(life=number):
                if (life := self._lives.get(number)) is not None and message.number < self.ranks:
                    life.inbox.setdefault((index, message.number), []).append(message.message)
            case Leave(stops=stops):
                place.stops = stops
                self._free(index, "its rank host has ended")
        return []

    def _join(self, peer: bytes, join: Join, now: float) -> list[Sent]:
        if join.protocol != PROTOCOL:
            reason = (
                f"{join.host} speaks protocol {join.protocol}, this leader {PROTOCOL}; install the same version on both"
            )
            return [Sent(peer, Refuse(why="unwanted", reason=reason))]
        if join.ranks != self.ranks:
            reason = f"{join.host} has {join.ranks} GPUs for the group and its leader {self.ranks}; all its machines have as many"
            return [Sent(peer, Refuse(why="count", reason=reason))]
        known = next((index for index, one in enumerate(self._places) if one and one.boot == join.boot), None)
        if known is not None and (place := self._places[known]) is not None:
            if not place.has_reported:  # this was under way when it was given the place
                place.peer, place.contact_at = peer, now
                return [Sent(peer, self._orders(known))]
            # It got no message of this leader for a while, and has ended what it had.
            self._free(known, "its rank host had lost the leader")
        free = next((index for index, one in enumerate(self._places) if one is None), None)
        if free is not None:
            self._waiting.pop(join.boot, None)
            self._places[free] = _Place(peer, join, now)
            return [Sent(peer, self._orders(free))]
        since = self._waiting.get(join.boot, (now, now))[0]
        self._waiting[join.boot] = (since, now)
        others = ", ".join(one.host for one in self._places if one is not None)
        reason = f"all {self._machines} machines of the group are there; the others are {others}"
        if now - since > _NO_PLACE_S:
            return [Sent(peer, Refuse(why="unwanted", reason=reason))]
        return [Sent(peer, Wait(reason=reason))]

    def unreachable(self, peer: bytes, now: float) -> None:
        """Note that there is no connection to this address."""
        for place in self._places:
            if place is not None and place.peer == peer and place.cut_off_at is None:
                place.cut_off_at = now

    def _free(self, index: int, reason: str) -> None:
        place = self._places[index]
        assert place is not None
        for life in self._lives.values():
            life.lost.setdefault(index, f"{place.host} is gone: {reason}")
            if place.stops:
                life.stops = f"{place.host} was stopped: {place.stops}"
        self._places[index] = None

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> list[Sent]:
        """Free the places of machines that send nothing any more, and return the messages that are due."""
        for index, place in enumerate(self._places):
            if place is not None and (reason := place.lost_because(now)):
                self._free(index, reason)
        self._waiting = {boot: one for boot, one in self._waiting.items() if now - one[1] < _FORGOTTEN_S}
        if now < self._due_at:
            return []
        self._due_at = now + BEAT_S
        sent: list[Sent] = []
        for index, place in enumerate(self._places):
            if place is not None:
                sent.append(Sent(place.peer, self._orders(index)))
                sent += self._setups(index, place, now)
        return sent

    def _orders(self, index: int) -> Orders:
        lives = (life.orders[index] for life in self._lives.values() if life.wanted and index not in life.lost)
        return Orders(leader=self.boot, lives=tuple(lives))

    def _setups(self, index: int, place: _Place, now: float) -> list[Sent]:
        """Return the setups that it has not got, as far as is known. The first goes right behind the order that starts the life."""
        sent = []
        for number, life in self._lives.items():
            state = place.states.get(number)
            if life.setup is None or not life.wanted or index in life.lost or (state is not None and state.is_set_up):
                continue
            if now - life.set_up_at.get(index, -BEAT_S) >= BEAT_S:
                life.set_up_at[index] = now
                sent.append(Sent(place.peer, SetUp(leader=self.boot, life=number, setup=life.setup)))
        return sent

    # ------------------------------------------------------------ lives

    def start(self, host: str, port: int, imports: str, without: str) -> int:
        """Order a life whose rank 0 listens there; returns its number."""
        self._last += 1
        of = self._machines * self.ranks
        self._lives[self._last] = _Life(
            tuple(
                LifeOrder(
                    life=self._last,
                    first=(index + 1) * self.ranks,
                    of=of,
                    host=host,
                    port=port,
                    imports=imports,
                    without=without,
                )
                for index in range(len(self._places))
            )
        )
        self._due_at = 0.0
        return self._last

    def set_up(self, number: int, setup: Setup) -> None:
        """Give this to all engine processes of a life."""
        if (life := self._lives.get(number)) is not None:
            life.setup = setup
            self._due_at = 0.0

    def kill(self, number: int) -> None:
        """Order a life no more."""
        if (life := self._lives.get(number)) is not None and life.wanted:
            life.wanted = False
            self._due_at = 0.0

    def forget(self, number: int) -> None:
        """Order a life no more, and drop the reports of it."""
        self.kill(number)
        self._lives.pop(number, None)

    def end_of(self, number: int, index: int, rank: int) -> End | None:
        """Return how an engine process of a life has ended, by place and number there; None: it runs, as far as is known."""
        life, place = self._lives.get(number), self._places[index]
        if life is None:
            return End("it is forgotten")
        if index in life.lost or place is None:
            return End(life.lost.get(index, "its machine is not there"), lost=True)
        state = place.states.get(number)
        if state is None:
            return End("it was killed") if place.latest_life >= number else None
        how = state.ends[rank] if rank < len(state.ends) else None
        return End(how) if how is not None else None

    def take(self, number: int, index: int, rank: int) -> list[FromEngine]:
        """Messages of an engine process of a life since the last call."""
        life = self._lives.get(number)
        return life.inbox.pop((index, rank), []) if life is not None else []

    def end(self, drained: bool | None, reason: str) -> list[Sent]:
        """End all lives; None: this leader comes back, else the group has ended for good."""
        self._lives.clear()
        places = [place for place in self._places if place is not None]
        if drained is None:
            return [Sent(place.peer, Orders(leader=self.boot)) for place in places]
        return [Sent(place.peer, Dismiss(leader=self.boot, drained=drained, reason=reason)) for place in places]
