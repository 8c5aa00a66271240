"""The jobs that wait for a worker, in the order in which they will be given out.

Three levels. Priorities are strict. Between the tenants of one priority: start-time fair queueing by GPU-seconds (Goyal, Vin, Cheng
1996): a tenant's start tag is max(virtual time, its last finish tag), the smallest start tag is served, and its finish tag grows by what
the job is charged, with all GPUs of its worker: the prediction when it is served, what it took when its attempt ends. So a tenant that
dumps thousands of jobs delays others by one job at most. Within a tenant: key = arrival + `COST_WEIGHT` x cost, which lets short jobs pass
long ones and ages by construction (a job of cost S is overtaken only by jobs that arrive within 2 x S of it).

Jobs of one tenant that the same workers could run form a *lane*, so finding work for a worker reads the heads of lanes, however
long the queue is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from msgspec import Struct

from broker.wire.submission import Submission

COST_WEIGHT = 2.0

#: Seconds put before the arrival of a job that has already waited once (its worker was lost): it goes to the front of its tenant.
FRONT_S = 1e9

#: Up to so many jobs ahead, the seconds of work ahead are those of these very jobs.
NEAR = 16

#: How many jobs of a lane are looked at when its head may not run on any free worker (it crashed there before).
LOOK_BEHIND = 32

#: A line longer than this is not looked through for its costliest job.
LOOK_THROUGH = 512

#: Entries that have left a line before its list is made shorter.
_MAX_GONE = 64


class WaitingJob(Protocol):
    """The part of a job that the queue reads; it keeps the id alone."""

    id: str
    submission: Submission
    submitted_at: float
    cost: float


class Lane(Struct, frozen=True, gc=False):
    """The properties of a job that decide which workers can run it."""

    model: str
    gpus: int
    pinned: str


#: (key, number in order of arrival, job id, cost, charge): compared as tuples, so the number breaks ties, and nothing behind it is read.
_Entry = tuple[float, int, str, float, float]


class _Line:
    """The waiting jobs of one tenant in one lane, in order.

    A list whose first `_gone` entries have left already: jobs come near the end and leave at the front, so that either costs nothing that
    grows with the list, but for its making itself shorter now and then. What leaves from within moves what stands behind it.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._entries: list[_Entry] = []
        self._gone = 0
        self.count = 0
        #: Predicted seconds of work in it.
        self.cost = 0.0

    def head(self) -> str:
        """The first job; there must be one."""
        return self._entries[self._gone][2]

    def first(self, jobs: int) -> list[_Entry]:
        """The first so many, or all if there are fewer."""
        return self._entries[self._gone : self._gone + jobs]

    def __iter__(self) -> Iterator[_Entry]:
        return islice(self._entries, self._gone, None)

    def add(self, entry: _Entry) -> None:
        insort(self._entries, entry, self._gone)
        self.count += 1
        self.cost += entry[3]

    def remove(self, entry: _Entry) -> None:
        """Take out an entry that is there."""
        self.count -= 1
        self.cost -= entry[3]
        if entry is not self._entries[self._gone]:
            del self._entries[bisect_left(self._entries, entry, self._gone)]
            return
        self._gone += 1
        if self._gone > _MAX_GONE and 2 * self._gone > len(self._entries):
            del self._entries[: self._gone]
            self._gone = 0

    def before(self, entry: _Entry) -> int:
        """Number of jobs before this one."""
        return bisect_left(self._entries, entry, self._gone) - self._gone

    def first_s(self, jobs: int) -> float:
        """Seconds of work in its first `jobs` jobs: summed up while these are few, else of so many of the mean cost."""
        if jobs > NEAR:
            return jobs * self.cost / self.count
        return sum(entry[3] for entry in self.first(jobs)) if jobs else 0.0


class _Tenant:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Lane, _Line] = {}
        self.start = 0.0
        self.finish = 0.0
        self.count = 0

    def before(self, entry: _Entry) -> tuple[int, float]:
        """(jobs, seconds of work) of this tenant that go before one of its own."""
        jobs, seconds = 0, 0.0
        for line in self.lines.values():
            before = line.before(entry)
            jobs += before
            seconds += line.first_s(before)
        return jobs, seconds

    def first_s(self, jobs: int) -> float:
        """Seconds of work in its first `jobs` jobs."""
        if len(self.lines) == 1:
            (line,) = self.lines.values()
            return line.first_s(jobs)
        return jobs * sum(line.cost for line in self.lines.values()) / self.count if jobs else 0.0


class _Class:
    """One priority: its tenants and their virtual clock."""

    def __init__(self) -> None:
        self.tenants: dict[str, _Tenant] = {}
        self.virtual = 0.0
        self.count = 0

    def backlogged(self) -> list[_Tenant]:
        """Tenants with waiting jobs, the one to be served first in front."""
        waiting = [tenant for tenant in self.tenants.values() if tenant.count]
        if len(waiting) > 1:
            waiting.sort(key=lambda tenant: tenant.start)
        return waiting


#: Where a job waits. The line, and not its lane, to look up which costs more than all else that is done with it.
_Place = tuple[_Class, _Tenant, _Line, _Entry]


class Queue:
    """Waiting jobs. Holds ids and keys, not the jobs."""

    def __init__(self) -> None:
        #: By priority, the highest first.
        self._classes: dict[int, _Class] = {}
        #: Where each job waits; for reading.
        self.where: dict[str, _Place] = {}
        #: Jobs that were served while others waited, and the GPU-seconds that their tenants were charged in advance.
        self.charged: dict[str, tuple[_Class, _Tenant, float]] = {}
        self._seq = 0
        #: The line that was added to last.
        self._newest_line: _Line | None = None
        #: When the newest job came that has waited here.
        self.newest_at = 0.0
        #: Predicted seconds of work waiting.
        self.backlog_s = 0.0

    def __len__(self) -> int:
        return len(self.where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.where

    def add(
        self,
        job: WaitingJob,
        charge: float | None = None,
        *,
        front: bool = False,
        yields_until: float | None = None,
    ) -> None:
        """Let `job` wait; its cost is that of `job.cost`, and its tenant will likely be charged `charge` GPU-seconds (None: as many).

        `front`: before every job of its tenant that has not waited before.

        `yields_until`: it was served before, and made room. Those of its tenant whose keys are lower pass it, which none is that comes
        after that time.
        """
        self._seq += 1
        if job.submitted_at > self.newest_at:
            self.newest_at = job.submitted_at
        arrival = job.submitted_at - (FRONT_S if front else 0.0)
        key = arrival + COST_WEIGHT * job.cost if yields_until is None else yields_until
        entry = (key, self._seq, job.id, job.cost, job.cost if charge is None else charge)
        lane = Lane(job.submission.model, job.submission.gpus, job.submission.pinned)
        cls = self._classes.get(job.submission.priority)
        if cls is None:
            cls = self._classes[job.submission.priority] = _Class()
            self._classes = dict(sorted(self._classes.items(), reverse=True))
        tenant = cls.tenants.get(job.submission.tenant)
        if tenant is None:
            tenant = cls.tenants[job.submission.tenant] = _Tenant(job.submission.tenant)
        if not tenant.count:
            tenant.start = max(cls.virtual, tenant.finish)
        line = tenant.lines.get(lane)
        if line is None:
            line = tenant.lines[lane] = _Line(lane)
        line.add(entry)
        self._newest_line = line
        tenant.count += 1
        cls.count += 1
        self.where[job.id] = (cls, tenant, line, entry)
        self.backlog_s += job.cost

    def pass_by(self, at: float) -> None:
        """Note that a job came and was granted at once, while none waits: as if it had been added and served."""
        if at > self.newest_at:
            self.newest_at = at

    def remove(self, job_id: str) -> None:
        """Take a job out without serving it (it was cancelled, adopted or has expired)."""
        cls, _, _ = self._pop(job_id)
        self._forget_idle(cls)

    def serve(self, job_id: str, charge: float | None = None) -> None:
        """Take a job out because a worker gets it: its tenant is charged so many GPU-seconds (None: those expected when it came)."""
        cls, tenant, entry = self._pop(job_id)
        if tenant.start > cls.virtual:
            cls.virtual = tenant.start
        if charge is None:
            charge = entry[4]
        tenant.finish = tenant.start = tenant.start + charge
        self._forget_idle(cls)
        if cls.count:
            self.charged[job_id] = cls, tenant, charge

    def first(
        self,
        usable: Callable[[Lane], bool],
        allowed: Callable[[str, Lane], bool],
        like: str | None = None,
        served: Callable[[str], bool] = lambda tenant: True,
    ) -> str | None:
        """The next job, of a tenant that is served, of a usable lane, that is allowed; or None.

        `like`: only from the priority and tenant of that job. A tenant that is passed over keeps its turn.
        """
        for tenant in self._tenants(like):
            if not served(tenant.name):
                continue
            best: _Entry | None = None
            for lane, line in tenant.lines.items():
                if not usable(lane):
                    continue
                for entry in line.first(LOOK_BEHIND):
                    if allowed(entry[2], lane):
                        best = entry if best is None or entry < best else best
                        break
            if best is not None:
                return best[2]
        return None

    def lane(self, job_id: str) -> Lane:
        """The lane of a job that waits."""
        return self.where[job_id][2].lane

    def head_of_all(self) -> str | None:
        """The first job when all that waits is of one priority, tenant and lane; else None."""
        # Mostly that of the newest job. The first entry of a dict whose first ones have left is not at hand: all of them are passed over.
        line = self._newest_line
        if line is None or line.count != len(self.where):
            line = next((line for _, _, line, _ in self.where.values()), None)
            if line is None or line.count != len(self.where):
                return None
            self._newest_line = line
        return line.head() if line.count else None

    def largest(self, like: str, size: Callable[[str], float]) -> str:
        """The largest job of that job's priority and tenant that waits for the same workers; that job itself where too many wait.

        Not by cost, which was predicted when each came: equal jobs are equally large, and keep their order.
        """
        line = self.where[like][2]
        best, best_size = like, size(like)
        if line.count <= LOOK_THROUGH:
            for entry in line.first(LOOK_THROUGH):
                if (found := size(entry[2])) > best_size:
                    best, best_size = entry[2], found
        return best

    def ahead(self, job_id: str) -> tuple[int, float]:
        """(jobs, seconds of work) that will be given out before this one, if nothing else arrives.

        Exact with one tenant; with several, the fair share of the others is counted: as many jobs of each as are ahead in its own.
        """
        cls, own_tenant, line, entry = self.where[job_id]
        if line.count == len(self.where):  # nothing else waits
            jobs = line.before(entry)
            return jobs, line.first_s(jobs)
        return _ahead(self._classes, cls, own_tenant, entry)

    def ahead_of_new(self, submission: Submission, now: float, cost: float) -> tuple[int, float]:
        """The same for a job of this cost that came now."""
        entry = (now + COST_WEIGHT * cost, self._seq + 1, "", cost, cost)
        cls = self._classes.get(submission.priority)
        if cls is None:  # no job of its priority waits
            higher = [c for priority, c in self._classes.items() if priority > submission.priority]
            tenants = [tenant for c in higher for tenant in c.tenants.values()]
            return sum(c.count for c in higher), sum(tenant.first_s(tenant.count) for tenant in tenants)
        return _ahead(self._classes, cls, cls.tenants.get(submission.tenant) or _Tenant(submission.tenant), entry)

    def in_order(
        self, submission: Submission | None = None, now: float = 0.0, cost: float = 0.0, job_id: str = ""
    ) -> Iterator[tuple[str, Lane]]:
        """Jobs (and their lanes) in the order in which they are given out if nothing else arrives and each worker can run all: every one,
        or those before `job_id`, which waits, or before a job of this cost that came now. Not to be gone on with once the queue has
        changed."""
        own = self.where[job_id][3] if job_id else (now + COST_WEIGHT * cost, self._seq + 1, "", cost, cost)
        for priority, cls in self._classes.items():
            if submission is not None and priority < submission.priority:
                return
            ends = submission is not None and priority == submission.priority
            yield from _in_order(cls, submission.tenant if submission is not None and ends else None, own)

    def lead_s(self, job_id: str) -> float:
        """GPU-seconds of work by which the tenant of a waiting job is ahead of the one of its priority that is to be served first."""
        cls, own, _, _ = self.where[job_id]
        return own.start - min(tenant.start for tenant in cls.tenants.values() if tenant.count)

    def by_lane(self) -> dict[Lane, tuple[int, float]]:
        """Number of jobs in each lane, and their predicted seconds, worked out without a look at each job."""
        found: dict[Lane, tuple[int, float]] = {}
        for cls in self._classes.values():
            for tenant in cls.tenants.values():
                for lane, line in tenant.lines.items():
                    jobs, cost_s = found.get(lane, (0, 0.0))
                    found[lane] = (jobs + line.count, cost_s + line.cost)
        return found

    def ids(self) -> Iterator[str]:
        return iter(self.where)

    def _tenants(self, like: str | None) -> Iterator[_Tenant]:
        if like is not None:
            yield self.where[like][1]
            return
        for cls in self._classes.values():
            if cls.count:
                yield from cls.backlogged()

    def _pop(self, job_id: str) -> tuple[_Class, _Tenant, _Entry]:
        cls, tenant, line, entry = self.where.pop(job_id)
        line.remove(entry)
        if not line.count:
            del tenant.lines[line.lane]
        tenant.count -= 1
        cls.count -= 1
        self.backlog_s = self.backlog_s - entry[3] if self.where else 0.0
        return cls, tenant, entry

    @staticmethod
    def _forget_idle(cls: _Class) -> None:
        """Drop the tenants whose tags have no effect any more: all when no job waits, else those that the virtual clock has passed."""
        if not cls.count:
            cls.virtual = 0.0
            cls.tenants.clear()
        elif len(cls.tenants) > 64:
            for name in [n for n, t in cls.tenants.items() if not t.count and t.finish <= cls.virtual]:
                del cls.tenants[name]


def settle(queue: Queue, job_id: str, gpu_seconds: float) -> None:
    """Charge the tenant of a job that was `charged` what it took, in the place of that. One whose tags are forgotten owes nothing."""
    cls, tenant, charge = queue.charged.pop(job_id)
    if cls.tenants.get(tenant.name) is tenant:
        tenant.start += gpu_seconds - charge
        tenant.finish += gpu_seconds - charge


def key_of(queue: Queue, job_id: str) -> float:
    """Key of a job that waits: those of its tenant with lower ones go before it."""
    return queue.where[job_id][3][0]


def _ahead(classes: dict[int, _Class], cls: _Class, own_tenant: _Tenant, entry: _Entry) -> tuple[int, float]:
    own, seconds = own_tenant.before(entry)
    jobs = own
    for tenant in cls.tenants.values():
        if tenant is not own_tenant:
            part = min(tenant.count, own + 1)
            jobs += part
            seconds += tenant.first_s(part)
    for higher in classes.values():
        if higher is cls:
            break
        jobs += higher.count
        seconds += sum(tenant.first_s(tenant.count) for tenant in higher.tenants.values())
    return jobs, seconds


def _in_order(cls: _Class, own_tenant: str | None, own: _Entry) -> Iterator[tuple[str, Lane]]:
    """The jobs of one priority in the order of their tenants' turns; with `own_tenant`, up to where that tenant's turn is at `own`."""
    turns: list[tuple[float, int, str, Iterator[tuple[_Entry, Lane]]]] = []
    for number, tenant in enumerate(cls.tenants.values()):
        if tenant.count:
            turns.append((tenant.start, number, tenant.name, _entries(tenant)))
    known = cls.tenants.get(own_tenant) if own_tenant is not None else None
    if own_tenant is not None and not (known and known.count):
        start = max(cls.virtual, known.finish) if known else cls.virtual
        turns.append((start, len(cls.tenants), own_tenant, iter(())))
    heapq.heapify(turns)
    while turns:
        start, number, name, entries = heapq.heappop(turns)
        found = next(entries, None)
        if name == own_tenant and (found is None or found[0] >= own):
            return
        if found is not None:
            entry, lane = found
            yield entry[2], lane
            heapq.heappush(turns, (start + entry[4], number, name, entries))


def _entries(tenant: _Tenant) -> Iterator[tuple[_Entry, Lane]]:
    """The entries of all lines of a tenant, in order."""

    def line_of(lane: Lane, line: _Line) -> Iterator[tuple[_Entry, Lane]]:
        return ((entry, lane) for entry in line)

    return heapq.merge(*(line_of(lane, line) for lane, line in tenant.lines.items()), key=_entry_of)


def _entry_of(item: tuple[_Entry, Lane]) -> _Entry:
    return item[0]
