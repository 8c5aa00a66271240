"""What the checks of a world know, and how they say that a rule does not hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from broker.core.deliveries import Delivery
from broker.core.jobs import Job
from broker.wire import messages as m

if TYPE_CHECKING:
    from tests.simulation.world import World


class Violation(AssertionError):
    """The promise is broken."""


def require(holds: bool, rule: str, *details: object) -> None:
    """Raise `Violation` when the rule does not hold."""
    if not holds:
        raise Violation(": ".join([rule, *map(str, details)]))


def short(fence: int) -> str:
    """A fence for people: epoch.counter."""
    return f"{fence >> 32}.{fence & 0xFFFF_FFFF}"


class Facts:
    """What was asked, sent and written so far."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: dict[str, m.Submit] = {}
        #: (job, spec) that somebody asked for; what each grant bore.
        self.specs: set[tuple[str, bytes]] = set()
        self.granted_specs: dict[tuple[str, int], bytes] = {}
        self.accepted_ids: set[str] = set()
        #: Jobs as they are on disk.
        self.disk: dict[str, Job] = {}
        #: Jobs whose cancel was answered with a promise, and when.
        self.cancels: dict[str, float] = {}
        #: Attempts whose agent has said that they failed.
        self.failures: defaultdict[str, set[int]] = defaultdict(set)
        #: Attempts whose agent has said that they finished.
        self.finished: set[tuple[str, int]] = set()
        self.grants_of: Counter[str] = Counter()
        self.last_seen: dict[str, m.JobView] = {}
        #: Fence -> job, worker: every grant that was sent, every attempt that began in an engine.
        self.grants: dict[int, tuple[str, str]] = {}
        self.attempts: dict[int, str] = {}
        #: When an engine was given an attempt; attempts that a heartbeat has told of.
        self.given_at: dict[int, float] = {}
        self.beaten: set[int] = set()
        #: Attempts that were granted before their job was on disk, and of these and all others those that were granted for a job of this
        #: id before the one that is on disk was accepted.
        self.hasty: set[int] = set()
        self.strangers: set[int] = set()
        #: Fences that were on disk at some time.
        self.kept_fences: set[int] = set()
        self.highest: dict[str, int] = {}
        #: Address -> worker, as it was when something was sent there last.
        self.names: dict[bytes, str] = {}
        #: Job -> its last start: when, on which worker, with which fence.
        self.starts: dict[str, tuple[float, str, int]] = {}
        #: Attempts that must be alone in their engine; under which the engine broke down; which hang; which were handed back unfinished.
        self.alone: set[int] = set()
        self.crashes: set[int] = set()
        self.hung: set[int] = set()
        self.handed_back: defaultdict[str, set[int]] = defaultdict(set)
        #: Attempts that their engine has parked.
        self.parks: set[int] = set()
        #: Attempt -> numbers of steps that its agent said to be kept.
        self.kept: defaultdict[int, set[int]] = defaultdict(set)
        #: Jobs that made room and may go on -> when they have waited for as long as they may, as it was when the broker had done its work.
        self.due: dict[str, float] = {}
        self.files: set[tuple[str, int]] = set()
        #: When a fresh id was found on disk, last.
        self.taken_at: dict[str, float] = {}
        #: Jobs that the broker has set aside at some time.
        self.asides: set[str] = set()
        #: Jobs whose records were deleted at some time; one of such an id may be accepted anew.
        self.deleted_ids: set[str] = set()
        #: Of the last deleted job of an id, the fence of its end.
        self.deleted_fences: dict[str, int] = {}
        #: Webhook deliveries as they are on disk; numbers that reached their receivers.
        self.deliveries: dict[int, Delivery] = {}
        self.received: set[int] = set()
        #: (number, claim) of deliveries whose outcome an edge has reported.
        self.reported: set[tuple[int, int]] = set()
