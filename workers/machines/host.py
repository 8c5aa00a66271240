"""A rank host's side of a group over several machines, as decisions alone: no socket, no process, no clock.

- It requests a place until it has one, and then follows the leader's `Orders`: a life that is new there is started, one that is not
  there is killed. Nothing is started while processes that were killed are still there: they may hold the GPU's memory.
- Without a message of its leader for `SILENT_S` it kills all it has and requests a place again; so it does when another leader answers,
  which counts its lives from 1 again.
- Stopped by a signal, it sends that to its leader, and ends once that orders no life any more: the job is handed back by then. It waits
  for that no longer than its grace, and not at all where it has no life.
- A life whose processes have ended stays in its reports until it is not ordered any more, so that the leader is sent how they have ended.
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
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_SETTINGS, EXIT_UNWANTED

BEAT_S = 1.0

#: Longer than the silence after which the leader gives it up: a leader that is slow does not lose its group for it.
SILENT_S = 8.0

#: Without any answer for this long, that is worth a line.
_UNANSWERED_S = 5.0

#: At the end: how long it waits for killed processes.
_LEAVE_S = 5.0


class Send(Struct, frozen=True):
    """Send this to the leader, now or not at all."""

    message: ToLeader


class StartRanks(Struct, frozen=True):
    """Start the engine processes of a life. Answered by `ended` for those that cannot be started."""

    order: LifeOrder


class GiveSetup(Struct, frozen=True):
    """Send the setup to all processes of a life."""

    life: int
    setup: Setup


class KillRanks(Struct, frozen=True):
    """SIGKILL to all processes of a life. Answered by `ended` for each."""

    life: int


class DropRanks(Struct, frozen=True):
    """Give back what belonged to the processes of a life, which have all ended."""

    life: int


class Note(Struct, frozen=True):
    """Write a line to the log."""

    text: str
    warns: bool = False


class Exit(Struct, frozen=True):
    """End with this code; `reason`: the sentence for an operator, where the code is not 0."""

    code: int
    reason: str = ""


Effect = Send | StartRanks | GiveSetup | KillRanks | DropRanks | Note | Exit


class _Life:
    """Engine processes of one life."""

    def __init__(self, ranks: int) -> None:
        self.ends: list[str | None] = [None] * ranks
        self.is_set_up = False
        self.killed = False

    @property
    def has_ended(self) -> bool:
        return None not in self.ends


class Host:
    """Place and lives of one rank host. `host`: name of its machine; `ranks`: number of its GPUs."""

    def __init__(self, boot: str, host: str, ranks: int, now: float) -> None:
        self._own = Join(protocol=PROTOCOL, boot=boot, host=host, ranks=ranks)
        #: The leader that gave it a place; "": it has none.
        self.leader = ""
        #: The leader that gave it one last, whose lives it counts: orders of before may still be under way.
        self._counted = ""
        self.device = Device()
        self._lives: dict[int, _Life] = {}
        self._orders: tuple[LifeOrder, ...] = ()
        self._latest_life = 0
        self._contact_at = now
        self._due_at = now
        #: Reason for having no place, as it was logged last.
        self._waits = ""
        #: Once leaving: the end, and when it is due at the latest.
        self._leaving: tuple[Exit, float] | None = None
        #: Once stopped, while its leader ends what runs here: why, and when it ends at the latest.
        self._stops: tuple[str, float] | None = None

    @property
    def ranks(self) -> int:
        """Number of its GPUs."""
        return self._own.ranks

    @property
    def next_due(self) -> float:
        """Time of the next `tick`."""
        return min([self._due_at, *(one[1] for one in (self._leaving, self._stops) if one is not None)])

    @property
    def is_reaping(self) -> bool:
        """Whether killed processes have not ended yet."""
        return any(life.killed and not life.has_ended for life in self._lives.values())

    # ------------------------------------------------------------ entrances

    def receive(self, message: ToHost, now: float) -> list[Effect]:
        """Take a message of the leader."""
        if self._leaving is not None:
            return []
        self._contact_at = now
        match message:
            case Orders():
                return self._ordered(message, now)
            case SetUp(leader=leader, life=number, setup=setup):
                life = self._lives.get(number)
                if leader != self.leader or life is None or life.is_set_up or life.killed:
                    return []
                life.is_set_up = True
                return [GiveSetup(number, setup), self._beat(now)]
            case Wait(reason=reason):
                return [*self._leave_group(), *self._wait_for(reason)]
            case Refuse(why=why, reason=reason):
                return self._go(Exit(EXIT_SETTINGS if why == "count" else EXIT_UNWANTED, reason), now)
            case Dismiss(leader=leader, drained=drained, reason=reason):
                if leader != self.leader:
                    return []
                end = Exit(EXIT_LEFT if drained else EXIT_UNWANTED, reason)
                return [Send(Leave(boot=self._own.boot)), *self._go(end, now)]

    def tick(self, now: float, trouble: str = "") -> list[Effect]:
        """Do what is due. `trouble`: why there may be no answer of the leader."""
        if self._leaving is not None:
            return [self._leaving[0]] if now >= self._leaving[1] else []
        if self._stops is not None and (now >= self._stops[1] or not self.leader):
            return self._leave(self._stops[0], now)
        effects: list[Effect] = []
        if self.leader and now - self._contact_at > SILENT_S:
            effects += [*self._leave_group(), Note(f"no message of the leader for {SILENT_S:g} s", warns=True)]
        if not self.leader and now - self._contact_at > _UNANSWERED_S:
            effects += self._wait_for(f"no answer of the leader: {trouble or 'nothing is known of it'}")
        if now >= self._due_at:
            effects.append(self._beat(now) if self.leader else self._join(now))
        return effects

    def ended(self, number: int, rank: int, how: str, now: float) -> list[Effect]:
        """An engine process of a life has ended, by its number here, or could not be started."""
        life = self._lives.get(number)
        if life is None or life.ends[rank] is not None:
            return []
        life.ends[rank] = how
        return self._settle(now)

    def reported(self, number: int, rank: int, message: FromEngine) -> list[Effect]:
        """An engine process of a life has sent this."""
        if not self.leader or self._leaving is not None:
            return []
        return [Send(FromRank(boot=self._own.boot, life=number, number=rank, message=message))]

    def stop(self, reason: str, grace_s: float, now: float) -> list[Effect]:
        """End on a signal: within `grace_s`; at a second one, at once."""
        if self._leaving is not None:
            return []
        if self._stops is not None or grace_s <= 0 or not (self.leader and self._lives):
            return self._leave(reason, now)
        self._stops = reason, now + grace_s
        return [Note(f"{reason}; the leader has {grace_s:g} s to hand back what runs here"), self._beat(now)]

    # ------------------------------------------------------------ orders

    def _ordered(self, message: Orders, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if message.leader != self.leader:
            effects += self._leave_group()
            self.leader, self._waits = message.leader, ""
            if self._counted != self.leader:
                self._counted, self._latest_life = self.leader, 0
            effects.append(Note("the leader has given this machine a place"))
        self._orders = message.lives
        wanted = {order.life for order in message.lives}
        for number, life in self._lives.items():
            if number not in wanted and not life.killed:
                life.killed = True
                effects.append(KillRanks(number))
        return [*effects, *self._settle(now)]

    def _settle(self, now: float) -> list[Effect]:
        """Drop the lives that are over, start those that are ordered and new, and report what there is now."""
        effects: list[Effect] = []
        for number, life in list(self._lives.items()):
            if life.killed and life.has_ended:
                del self._lives[number]
                effects.append(DropRanks(number))
        if self._leaving is not None:
            return [*effects, *([] if self._lives else [self._leaving[0]])]
        if self._stops is not None and not self._lives:
            return [*effects, *self._leave(self._stops[0], now)]
        if not self.leader:
            return effects
        if self._stops is None and not any(life.killed for life in self._lives.values()):
            for order in self._orders:
                if order.life > self._latest_life:
                    self._latest_life = order.life
                    self._lives[order.life] = _Life(self._own.ranks)
                    effects.append(StartRanks(order))
        return [*effects, self._beat(now)]

    def _leave(self, reason: str, now: float) -> list[Effect]:
        return [Send(Leave(boot=self._own.boot, stops=reason)), *self._go(Exit(EXIT_LEFT, reason), now)]

    def _leave_group(self) -> list[Effect]:
        """Kill all: there is no leader whose lives these are."""
        self.leader, self._orders = "", ()
        effects: list[Effect] = []
        for number, life in list(self._lives.items()):
            if not life.killed:
                life.killed = True
                effects.append(KillRanks(number))
        return effects

    def _go(self, end: Exit, now: float) -> list[Effect]:
        effects = self._leave_group()
        self._leaving = (end, now + _LEAVE_S)
        return [*effects, *self._settle(now)]

    # ------------------------------------------------------------ messages

    def _wait_for(self, reason: str) -> list[Effect]:
        if reason == self._waits:
            return []
        self._waits = reason
        return [Note(f"no place in the group: {reason}", warns=True)]

    def _join(self, now: float) -> Send:
        self._due_at = now + BEAT_S
        return Send(self._own)

    def _beat(self, now: float) -> Send:
        self._due_at = now + BEAT_S
        lives = (
            LifeState(life=number, ends=tuple(life.ends), is_set_up=life.is_set_up)
            for number, life in self._lives.items()
        )
        return Send(
            Beat(
                boot=self._own.boot,
                latest_life=self._latest_life,
                lives=tuple(lives),
                device=self.device,
                stops=self._stops[0] if self._stops is not None else "",
            )
        )
