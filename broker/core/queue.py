"""The jobs that wait for a worker, in the order in which they will be given out.

Three levels. Priorities are strict. Between the tenants of one priority: start-time fair queueing by predicted cost (Goyal, Vin, Cheng
1996): a tenant's start tag is max(virtual time, its last finish tag), the smallest start tag is served, and its finish tag grows by
the job's cost; so a tenant that dumps thousands of jobs delays others by one job at most. Within a tenant: key = arrival +
`COST_WEIGHT` x cost, which lets short jobs pass long ones and ages by construction (a job of cost S is overtaken only by jobs
that arrive within 2 x S of it).

Jobs of one tenant that the same workers could run form a *lane*, so finding work for a worker looks at the heads of lanes, however
long the queue is. Every operation is O(log n) in jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from msgspec import Struct
from sortedcontainers import SortedDict, SortedKeyList

from broker.core.jobs import Job

COST_WEIGHT = 2.0

#: Seconds put before the arrival of a job that has already waited once (its worker was lost): it goes to the front of its tenant.
FRONT_S = 1e9

#: How many jobs of a lane are looked at when its head may not run on any free worker (it crashed there before).
LOOK_BEHIND = 32


class Lane(Struct, frozen=True):
    """What decides which workers can run a job."""

    model: str
    gpus: int
    pinned: str


class _Entry(Struct, frozen=True, gc=False):
    key: float
    #: Breaks ties in order of arrival.
    seq: int
    job_id: str
    cost: float


def _order(entry: _Entry) -> tuple[float, int]:
    return entry.key, entry.seq


class _Tenant:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lanes: dict[Lane, SortedKeyList] = {}
        self.start = 0.0
        self.finish = 0.0
        self.count = 0


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


class Queue:
    """Waiting jobs. Holds ids and keys, not the jobs."""

    def __init__(self) -> None:
        self._classes: SortedDict = SortedDict()  # -priority -> _Class
        self._where: dict[str, tuple[int, str, Lane, _Entry]] = {}
        self._seq = 0
        #: Predicted seconds of work waiting.
        self.backlog_s = 0.0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._where

    def add(self, job: Job, *, front: bool = False) -> None:
        """Let `job` wait; its cost is that of `job.cost`. `front`: before every job of its tenant that has not waited before."""
        self._seq += 1
        arrival = job.submitted_at - (FRONT_S if front else 0.0)
        entry = _Entry(arrival + COST_WEIGHT * job.cost, self._seq, job.id, job.cost)
        lane = Lane(job.model, job.gpus, job.pinned)
        cls = self._classes.get(-job.priority)
        if cls is None:
            cls = self._classes[-job.priority] = _Class()
        tenant = cls.tenants.get(job.tenant)
        if tenant is None:
            tenant = cls.tenants[job.tenant] = _Tenant(job.tenant)
        if not tenant.count:
            tenant.start = max(cls.virtual, tenant.finish)
        entries = tenant.lanes.get(lane)
        if entries is None:
            entries = tenant.lanes[lane] = SortedKeyList(key=_order)
        entries.add(entry)
        tenant.count += 1
        cls.count += 1
        self._where[job.id] = (job.priority, job.tenant, lane, entry)
        self.backlog_s += job.cost

    def remove(self, job_id: str) -> None:
        """Take a job out without serving it (it was cancelled, adopted or has expired)."""
        cls, _, _ = self._take(job_id)
        self._forget_idle(cls)

    def serve(self, job_id: str) -> None:
        """Take a job out because a worker gets it: its tenant is charged."""
        cls, tenant, entry = self._take(job_id)
        cls.virtual = max(cls.virtual, tenant.start)
        tenant.finish = tenant.start = tenant.start + entry.cost
        self._forget_idle(cls)

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
            for lane, entries in tenant.lanes.items():
                if not usable(lane):
                    continue
                head = next((e for e in islice(entries, LOOK_BEHIND) if allowed(e.job_id, lane)), None)
                if head is not None and (best is None or _order(head) < _order(best)):
                    best = head
            if best is not None:
                return best.job_id
        return None

    def ahead(self, job_id: str) -> tuple[int, float]:
        """(jobs, seconds of work) that will be given out before this one, if nothing else arrives.

        Exact with one tenant; with several, the fair share of the others is counted: as many jobs of each as are ahead in its own.
        """
        priority, name, _, entry = self._where[job_id]
        jobs, seconds = 0, 0.0
        for negative, cls in self._classes.items():
            if -negative < priority:
                break
            for tenant_name, tenant in cls.tenants.items():
                if -negative > priority:
                    part = tenant.count
                elif tenant_name == name:
                    part = sum(entries.bisect_key_left(_order(entry)) for entries in tenant.lanes.values())
                else:
                    own = sum(e.bisect_key_left(_order(entry)) for e in cls.tenants[name].lanes.values())
                    part = min(tenant.count, own + 1)
                jobs += part
                seconds += part * self._mean_cost(tenant)
        return jobs, seconds

    def ids(self) -> Iterator[str]:
        return iter(self._where)

    def _mean_cost(self, tenant: _Tenant) -> float:
        """Mean cost of the first few of a tenant's jobs: the ones that will be served next."""
        costs = [e.cost for entries in tenant.lanes.values() for e in islice(entries, 16)]
        return sum(costs) / len(costs) if costs else 0.0

    def _tenants(self, like: str | None) -> Iterator[_Tenant]:
        if like is not None:
            priority, name, _, _ = self._where[like]
            yield self._classes[-priority].tenants[name]
            return
        for cls in self._classes.values():
            yield from cls.backlogged()

    def _take(self, job_id: str) -> tuple[_Class, _Tenant, _Entry]:
        priority, name, lane, entry = self._where.pop(job_id)
        cls = self._classes[-priority]
        tenant = cls.tenants[name]
        entries = tenant.lanes[lane]
        entries.remove(entry)
        if not entries:
            del tenant.lanes[lane]
        tenant.count -= 1
        cls.count -= 1
        self.backlog_s = self.backlog_s - entry.cost if self._where else 0.0
        return cls, tenant, entry

    @staticmethod
    def _forget_idle(cls: _Class) -> None:
        """Drop the tenants whose tags say nothing any more: all when nobody waits, else those the virtual clock has passed."""
        if not cls.count:
            cls.virtual = max((tenant.finish for tenant in cls.tenants.values()), default=cls.virtual)
            cls.tenants.clear()
        elif len(cls.tenants) > 64:
            for name in [n for n, t in cls.tenants.items() if not t.count and t.finish <= cls.virtual]:
                del cls.tenants[name]
