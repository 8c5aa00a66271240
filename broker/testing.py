"""Stand-ins for tests and measurements: an archive in memory, a harness that drives the core by hand, an agent on a real socket.

`MemoryArchive` passes the same tests as the journal (`tests/journal/test_archive_conformance.py`) and costs no file. `CoreHarness` feeds
a core one message at a time on a clock that only the test moves, and checks the invariants after each. `FakeAgent` speaks the wire
protocol of a worker over ZeroMQ and computes nothing. No file of the service imports this module.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, TypeVar

import zmq
from msgspec.structs import replace

from broker.core import invariants
from broker.core.deliveries import Delivery
from broker.core.effects import DeliveryChanged, Effect, Marked, PeerGone, RecordDeleted, Send, SendRun, Transition
from broker.core.jobs import Cause, DamagedRecord, Job, SetAside, Stop
from broker.core.lookups import NOTHING
from broker.core.machine import Core, Policy
from broker.core.usage import gpu_seconds
from broker.runtime.errors import JournalConflict
from broker.shell.executor import Executor
from broker.shell.journal.journal import Journal
from broker.shell.lookups import Archive, with_spec
from broker.shell.lookups import look_up as look_up
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result, prompt_of
from broker.wire.usage import USAGE_GROUPS

T = TypeVar("T", bound=m.Message)

#: The peer that `CoreHarness` submits as.
EDGE = b"f-edge"
#: Work of a job that takes seconds: much more than what a start-up could explain.
UNIT = 1e5
#: What the harness' clock begins at.
START = 1_000_000.0
RESULT = codec.encode_body(Result(seed=7))

#: Ends a wait that would hang; many times what a busy machine takes.
_LIMIT_S = 60.0
_PAUSE_S = 0.005


def worker_info(*models: str, gpus: int = 1, resumes: bool = False) -> bytes:
    """The body of a `Hello`: a worker with these models, "demo" without any."""
    cards = tuple(ModelCard(name=name, engine="fake", output="video", resumes=resumes) for name in models or ("demo",))
    return codec.encode_body(m.WorkerInfo(host="here", pid=1, device="cpu", gpus=gpus, models=cards))


def submission(fields: dict[str, Any]) -> m.Submission:
    """Take the fields of a `Submission` out of these; the model is "demo" where none is named."""
    fixed = {name: fields.pop(name) for name in m.Submission.__struct_fields__ if name in fields}
    return m.Submission(**{"model": "demo", **fixed})


def submit_message(job_id: str, body: bytes = b"spec", req: int = 0, **fields: Any) -> m.Submit:
    """A `Submit`; `fields` are its own and those of its `Submission`."""
    fields = {"units": 1.0, **fields}
    return m.Submit(req=req, job_id=job_id, submission=submission(fields), body=body, **fields)


# ---------------------------------------------------------------- archive


class MemoryDeliveries:
    """Webhook deliveries of a `MemoryArchive`."""

    def __init__(self) -> None:
        self.rows: dict[int, Delivery] = {}
        self.staged: dict[int, Delivery] = {}

    def stage(self, delivery: Delivery) -> None:
        """Write it with the next commit. Its job is staged or on disk."""
        self.staged[delivery.number] = delivery

    def _all(self) -> list[Delivery]:
        return sorted({**self.rows, **self.staged}.values(), key=lambda delivery: delivery.number)

    def of_job(self, job_id: str) -> list[Delivery]:
        """The job's deliveries, oldest first."""
        return [delivery for delivery in self._all() if delivery.job_id == job_id]

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""
        return self.staged.get(number) or self.rows.get(number)

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when the next one behind them is."""
        pending = [delivery for delivery in self._all() if delivery.state == "pending"]
        pending.sort(key=lambda delivery: (delivery.due_at, delivery.number))
        due = [delivery for delivery in pending[:limit] if delivery.due_at <= now]
        return due, pending[len(due)].due_at if len(pending) > len(due) else None


class MemoryUsage:
    """What was used, of a `MemoryArchive`: one entry a job that is over, kept when the job is deleted."""

    def __init__(self, write_staged: Callable[[], None]) -> None:
        self._write_staged = write_staged
        self.entries: list[m.UsageRow] = []

    def add(self, job: Job) -> None:
        """Count a job whose final row is being written."""
        kept, lost = gpu_seconds(job)
        size = sum(artefact.size for artefact in job.result.artefacts) if job.result and job.state == "succeeded" else 0
        fixed = job.submission
        self.entries.append(
            m.UsageRow(
                day=int(job.finished_at // 86_400),
                tenant=fixed.tenant,
                key=fixed.submitted_by,
                model=fixed.model,
                succeeded=int(job.state == "succeeded"),
                failed=int(job.state == "failed"),
                cancelled=int(job.state == "cancelled"),
                gpu_s=kept,
                lost_gpu_s=lost,
                bytes=size,
            )
        )

    def rows(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Sums by what the query groups by, in its order; one more than its limit when there are more."""
        self._write_staged()
        sums: dict[tuple[Any, ...], m.UsageRow] = {}
        for one in self.entries:
            if query.first_day <= one.day <= query.last_day and query.tenant in ("", one.tenant):
                names = {name: getattr(one, name) for name in query.by}
                there = sums.get(
                    key := tuple(names[name] for name in USAGE_GROUPS if name in names), m.UsageRow(**names)
                )
                added = {name: getattr(there, name) + getattr(one, name) for name in m.UsageRow.__struct_fields__[4:]}
                sums[key] = replace(there, **added)
        return [sums[key] for key in sorted(sums)][: query.limit + 1]


class MemoryArchive:
    """The journal's part that holds jobs and deliveries, without a file: the same calls, the same answers, nothing damaged."""

    #: Nothing in memory is ever damaged.
    damaged = 0
    rebuilt_indexes = 0

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        #: Written rows, in the order of acceptance; durable unless `_durable` keeps what was before the open transaction.
        self.rows: dict[str, Job] = {}
        self.deliveries = MemoryDeliveries()
        self.usage = MemoryUsage(self.flush)
        self._marks: dict[str, SetAside] = {}
        #: Staged and not written; lazy ones may be lost in a crash though a commit went by.
        self._staged: dict[str, Job] = {}
        self._lazy: dict[str, Job] = {}
        self._durable: tuple[dict[str, Job], dict[str, SetAside], dict[int, Delivery], int] | None = None

    # writing

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        """Write this job's row with the next commit; `lazy`: with the next that includes lazy rows."""
        if lazy and job.id not in self._staged and (job.id in self.rows or job.id in self._lazy):
            self._lazy[job.id] = job
        else:
            self._staged[job.id] = job
            self._lazy.pop(job.id, None)

    def flush(self) -> None:
        """Write all staged rows, without making them durable. Raises `JournalConflict`."""
        self._staged.update(self._lazy)
        self._lazy.clear()
        self._write()

    def commit(self, *, lazy: bool = True) -> None:
        """Make the staged rows durable, with or without the lazy ones. Raises `JournalConflict`."""
        if lazy:
            self.flush()
        else:
            self._write()
        self._durable = None

    def _begin(self) -> None:
        if self._durable is None:
            self._durable = {**self.rows}, {**self._marks}, {**self.deliveries.rows}, len(self.usage.entries)

    def _write(self) -> None:
        self._begin()
        for job_id, job in self._staged.items():
            old = self.rows.get(job_id)
            if old is not None and (old.final or job.fence < old.fence):
                raise JournalConflict(
                    f"job {job_id} is {old.state} with fence {old.fence}, the core has it {job.state}"
                )
            self.rows[job_id] = _row(job, old)
            if job.final:
                self.usage.add(job)
        self._staged.clear()
        for delivery in self.deliveries.staged.values():
            if delivery.job_id not in self.rows:
                raise JournalConflict(f"a delivery of {delivery.job_id}, which has no row")
        self.deliveries.rows.update(self.deliveries.staged)
        self.deliveries.staged.clear()

    def forget(self, job_id: str) -> None:
        """Delete the row of a job that is final or set aside, and its deliveries, with the next commit. Raises `JournalConflict`."""
        self.flush()
        row = self.rows.get(job_id)
        if row is None or not (row.final or job_id in self._marks):
            raise JournalConflict(f"job {job_id} cannot be deleted: its row is {row and row.state}")
        del self.rows[job_id]
        self._marks.pop(job_id, None)
        for delivery in self.deliveries.of_job(job_id):
            del self.deliveries.rows[delivery.number]

    def discard(self) -> None:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again."""
        for staged in (self._staged, self._lazy, self.deliveries.staged):
            staged.clear()
        if self._durable is not None:
            self.rows, self._marks, self.deliveries.rows, counted = self._durable
            del self.usage.entries[counted:]
            self._durable = None
        self.epoch += 1

    def set_aside(self, job_id: str, reason: str, now: float) -> bool:
        """Mark a live job, durable when this returns; False when there is no such job. Nothing may be staged."""
        row = self.rows.get(job_id)
        if row is None or row.final:
            return False
        old = self._marks.get(job_id)
        stop: Stop = "" if old is None else old.stop
        self._marks[job_id] = SetAside(reason=reason, at=now, revision=self.epoch << 32, stop=stop)
        return True

    def mark(self, job: Job, mark: SetAside | None) -> None:
        """Change the mark of a job that has one with the next commit; None: it has none from then on, and its row is written."""
        self._begin()
        if mark is not None:
            self._marks[job.id] = mark
            return
        del self._marks[job.id]
        self.stage(job)

    # reading

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        staged = self._staged.get(job_id) or self._lazy.get(job_id)
        return staged or (self._read(self.rows[job_id]) if job_id in self.rows else None)

    def body(self, job_id: str) -> bytes:
        """The spec of a job that was committed. Raises `DamagedRecord`."""
        if job_id not in self.rows:
            raise DamagedRecord("its row is gone")
        return self.rows[job_id].body

    def find_alias(self, origin: str, alias: str, tenant: str = "") -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""
        for job in reversed({**self.rows, **self._staged}.values()):
            if (
                alias
                and (job.submission.origin, job.submission.alias) == (origin, alias)
                and tenant in ("", job.submission.tenant)
            ):
                return self.find(job.id)
        return None

    def page(self, query: m.ListJobs) -> tuple[list[Job], bool, int]:
        """Jobs that match, in the order of acceptance, whether more follow, and `Jobs.behind`. An unknown `after` gives an empty page."""
        self.flush()
        jobs = list(self.rows.values())
        first = _position(jobs, query)
        if first is None:
            return [], False, 0
        jobs = jobs[:first][::-1] if query.newest_first else jobs[first:]
        found = [job for job in jobs if _matches(job, query)]
        return [self._read(job) for job in found[: query.limit]], len(found) > query.limit, 0

    def live(self) -> list[Job]:
        """Every durable job that is neither final nor set aside, oldest first, its spec left out; for a start."""
        live = [self._read(job) for job in self.rows.values() if not job.final and job.id not in self._marks]
        return [replace(job, body=b"", evicted=True, deliveries=self._deliveries(job)) for job in live]

    def _deliveries(self, job: Job) -> dict[int, Delivery]:
        return {delivery.number: delivery for delivery in self.deliveries.of_job(job.id)}

    def set_asides(self) -> list[Job]:
        """The jobs that are set aside, without their specs."""
        return [replace(self._read(self.rows[job_id]), body=b"") for job_id in self._marks]

    @property
    def set_aside_count(self) -> int:
        """How many there are."""
        return len(self._marks)

    def _read(self, row: Job) -> Job:
        return replace(row, history=[*row.history], set_aside=self._marks.get(row.id))


def _row(job: Job, old: Job | None) -> Job:
    """What a file would keep: no part of the current attempt, and a spec that is written once."""
    body = job.body if old is None else old.body
    kept: dict[str, Any] = {
        "body": body,
        "history": [*job.history],
        "set_aside": None,
        "evicted": False,
        "deliveries": {},
        "holder": "nobody",
    }
    return replace(
        job,
        **kept,
        phase="",
        step=0,
        total=0,
        cost=0.0,
        skipped_s=0.0,
        granted_at=0.0,
        resends=0,
        begun=0,
        goes_on_from=0,
        yields_to="",
    )


def _position(jobs: list[Job], query: m.ListJobs) -> int | None:
    """The page begins at this index, or before it, newest first; None: `after` is not a job."""
    if not query.after:
        return len(jobs) if query.newest_first else 0
    for index, job in enumerate(jobs):
        if job.id == query.after:
            return index if query.newest_first else index + 1
    if not query.after_at:
        return None
    return next((index for index, job in enumerate(jobs) if job.submitted_at >= query.after_at), len(jobs))


def _matches(job: Job, query: m.ListJobs) -> bool:
    return (
        (not query.states or job.state.value in query.states)
        and query.origin in ("", job.submission.origin)
        and query.model in ("", job.submission.model)
        and query.tenant in ("", job.submission.tenant)
        and query.worker in ("", job.worker, job.submission.pinned)
        and (not query.text or query.text.casefold() in prompt_of(job.body).casefold())
        and query.since <= job.submitted_at
        and not 0 < query.until <= job.submitted_at
    )


# ---------------------------------------------------------------- core


def feed(core: Core, archive: Archive, peer: bytes, message: m.Message | PeerGone, now: float) -> list[Effect]:
    """Give the core a message with what it needs from the archive; its effects."""
    lookup = None if isinstance(message, PeerGone) else core.needs(peer, message)
    return core.receive(peer, message, now, NOTHING if lookup is None else look_up(archive, lookup, now))


def quiet_executor(journal: Journal) -> Executor:
    """What carries out effects in the service, with metrics that nobody reads and no log."""
    executor = Executor(journal, Metrics(PeerLimiter()))
    executor.log_transitions = False
    return executor


class CoreHarness:
    """A core, its archive and a clock that tests move: messages in, effects out, invariants checked after each."""

    def __init__(self, policy: Policy | None = None, archive: MemoryArchive | None = None, epoch: int = 1) -> None:
        self.policy = policy or Policy()
        self.archive = archive or MemoryArchive(epoch)
        self.now = START
        self.core = Core(self.archive.epoch, self.policy, self.now)
        self.effects: list[Effect] = []
        self.req = 0

    # feeding

    def feed(self, peer: bytes, message: m.Message | PeerGone) -> list[Effect]:
        """The effects of one message."""
        return self.apply(feed(self.core, self.archive, peer, message, self.now))

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        """Let time pass, waking the core at each of its deadlines; the effects of all of them."""
        end = self.now + seconds
        effects: list[Effect] = []
        while (at := self.core.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            effects += self.apply(self.core.tick(self.now))
        self.now = end
        return effects

    def apply(self, effects: list[Effect]) -> list[Effect]:
        """Do with the archive what the router does with the journal; the effects, their specs filled in."""
        effects = [self._with_spec(effect) if isinstance(effect, SendRun) else effect for effect in effects]
        durable = False
        for effect in effects:
            if isinstance(effect, Transition):
                self.archive.stage(effect.job, lazy=not effect.durable)
                durable |= effect.durable
            elif isinstance(effect, RecordDeleted):
                self.archive.forget(effect.job_id)
                durable = True
            elif isinstance(effect, Marked):
                self.archive.mark(effect.job, effect.mark)
                durable = True
            elif isinstance(effect, DeliveryChanged):
                self.archive.deliveries.stage(effect.delivery)
                durable = True
        if durable:
            self.archive.commit(lazy=False)
        self.core.committed()
        invariants.check(self.core.state, self.archive.deliveries.of_job)
        self.effects = effects
        return effects

    def _with_spec(self, effect: SendRun) -> Send:
        return Send(effect.peer, with_spec(self.archive, effect.message), effect.early)

    def restart(self) -> None:
        """Kill the broker, with what it had not committed, and start another over its archive."""
        self.archive.discard()
        self.core = Core(self.archive.epoch, self.policy, self.now)
        self.core.restore(self.archive.live(), [], self.now)
        self.apply(self.core.tick(self.now))

    # edges

    def submit(self, job_id: str, body: bytes = b"spec", **fields: Any) -> m.Message:
        """Submit and return the answer."""
        self.req += 1
        effects = self.feed(EDGE, submit_message(job_id, body, self.req, **{"units": UNIT, **fields}))
        return next(
            e.message for e in effects if isinstance(e, Send) and isinstance(e.message, m.Accepted | m.Rejected)
        )

    def cancel(self, job_id: str) -> str:
        """Cancel and return the outcome."""
        return self.ask(m.CancelJob(req=0, job_id=job_id), m.CancelReply).outcome

    def control(self, job_id: str, action: m.JobAction) -> str:
        """Pause, resume or commit, and return the outcome."""
        return self.ask(m.ControlJob(req=0, job_id=job_id, action=action), m.ControlReply).outcome

    def ask(self, message: m.Message, kind: type[T]) -> T:
        """The answer to an edge's message."""
        return sent(self.feed(EDGE, message), kind)[0]

    def view(self, job_id: str) -> m.JobView:
        """The job as an edge sees it."""
        view: m.JobView = codec.job_view(self.ask(m.GetJob(req=0, job_id=job_id), m.JobReply).body)
        return view

    # agents

    def hello(
        self, name: str, *held: m.Held, boot: str = "b1", seen: int = 0, free: int = 1, **options: Any
    ) -> list[Effect]:
        """Register a worker."""
        body = options.pop("body", None) or worker_info()
        peer = options.pop("peer", peer_of(name))
        return self.feed(peer, m.Hello(name=name, boot=boot, seen=seen, free=free, held=held, body=body))

    def beat(self, name: str, *held: m.Held, seen: int = 0, free: int = 0, **fields: Any) -> list[Effect]:
        """Send a worker's heartbeat."""
        return self.feed(peer_of(name), m.Heartbeat(seen=seen, free=free, held=held, **fields))

    def start(self, name: str, job_id: str) -> list[Effect]:
        """Let the worker's next heartbeat say that it has the job's current attempt, beside those that run there."""
        worker, job = self.core.state.pool.get(name), self.job(job_id)
        assert worker is not None, f"no worker {name}"
        running = [self.job(other) for other in worker.held if other != job_id and self.state(other) == "running"]
        held = tuple(
            m.Held(job_id=one.id, fence=one.fence, phase=one.phase, step=one.step, total=one.total)
            for one in [*running, job]
        )
        taken = bisect_right(worker.unseen, job.fence)
        fields = {"seen": max(worker.seen, job.fence), "free": max(0, worker.free - taken), "held": held}
        return self.feed(peer_of(name), replace(worker.stats, **fields))

    def hand_back(self, name: str, job_id: str, kept: int = 0, free: int = 1) -> list[Effect]:
        """Bring a job back that was begun, with so many steps of it in a checkpoint."""
        message = m.Refused(job_id=job_id, fence=self.job(job_id).fence, free=free, age_s=1.0, kept=kept)
        return self.feed(peer_of(name), message)

    def finish(self, name: str, job_id: str, fence: int | None = None, free: int = 1) -> list[Effect]:
        """Bring a result, of the current attempt unless another fence is given."""
        fence = self.job(job_id).fence if fence is None else fence
        return self.feed(peer_of(name), m.Finished(job_id=job_id, fence=fence, free=free, run_s=2.0, body=RESULT))

    def fail(self, name: str, job_id: str, kind: str, free: int = 1) -> list[Effect]:
        """Let the current attempt fail."""
        fence = self.job(job_id).fence
        return self.feed(
            peer_of(name), m.Failed(job_id=job_id, fence=fence, kind=m.FailureKind(kind), message="why", free=free)
        )

    def running(self, job_id: str, worker: str = "w1", **fields: Any) -> int:
        """Bring a job to `running` on a worker; its fence."""
        self.hello(worker)
        self.submit(job_id, **fields)
        self.start(worker, job_id)
        assert self.job(job_id).state == "running"
        return self.job(job_id).fence

    # looking

    def job(self, job_id: str) -> Job:
        """The job, from memory or from the archive."""
        job = self.core.job(job_id) or self.archive.find(job_id)
        assert job is not None, f"no job {job_id}"
        return job

    def state(self, job_id: str) -> str:
        """The name of the job's state."""
        return self.job(job_id).state.value


def holding(job_id: str, fence: int, **fields: Any) -> m.Heartbeat:
    """The heartbeat of a worker that has this attempt in its engine, and no other."""
    return m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id=job_id, fence=fence, **fields),))


def peer_of(name: str) -> bytes:
    """The peer that `CoreHarness` speaks as for this worker."""
    return b"b-" + name.encode()


def sent(effects: list[Effect], kind: type[T], peer: bytes | None = None) -> list[T]:
    """Messages of a kind among the effects (to a peer, if given)."""
    return [
        e.message
        for e in effects
        if isinstance(e, Send) and isinstance(e.message, kind) and (peer is None or e.peer == peer)
    ]


def causes(effects: list[Effect]) -> list[Cause]:
    """The causes of the transitions among the effects."""
    return [effect.cause for effect in effects if isinstance(effect, Transition)]


# ---------------------------------------------------------------- agent


class FakeAgent:
    """A worker's side of the wire over a DEALER of its own; it sends what the test says and keeps every message it gets."""

    def __init__(self, endpoint: str, name: str = "cpu-0") -> None:
        self.name = name
        self.heard: list[m.Message] = []
        self.probes = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Close the connection without a `Goodbye`."""
        self._socket.close(linger=0)
        self._context.term()

    def say(self, message: m.Message) -> None:
        """Send a message."""
        self.send([codec.encode(message)])

    def send(self, frames: list[bytes]) -> None:
        """Send frames as they are."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def listen(self) -> None:
        """Take what has come by now."""
        while self._socket.poll(0):
            message = codec.to_agent(codec.single(self._socket.recv_multipart()))
            if message is None:
                self.probes += 1
            else:
                self.heard.append(message)

    def all(self, kind: type[T]) -> list[T]:
        """Every message of this kind so far."""
        self.listen()
        return [message for message in self.heard if isinstance(message, kind)]

    async def hear(self, kind: type[T], count: int = 1) -> T:
        """The `count`-th message of this kind, waiting for it."""
        await self._until(lambda: len(self.all(kind)) >= count, f"{kind.__name__} {count}")
        return self.all(kind)[count - 1]

    async def probed(self, count: int = 1) -> None:
        """Wait until the broker has greeted this many connections."""

        def enough() -> bool:
            self.listen()
            return self.probes >= count

        await self._until(enough, f"probe {count}")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                while not condition():  # noqa: ASYNC110 - a socket of another context is polled
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not get {what} within {_LIMIT_S:g} s") from None

    async def join(self, free: int = 1, **fields: Any) -> m.Welcome:
        """Wait for the broker's probe, then register."""
        await self.probed()
        return await self.hello(free=free, **fields)

    async def hello(self, free: int = 1, **fields: Any) -> m.Welcome:
        """Register; the answer."""
        welcomes = len(self.all(m.Welcome))
        fields = {"boot": "boot", "seen": 0, **fields}
        self.say(m.Hello(name=self.name, free=free, body=worker_info(), **fields))
        return await self.hear(m.Welcome, welcomes + 1)

    def start(self, run: m.Run) -> None:
        """Say that this `Run` is in the engine."""
        self.say(holding(run.job_id, run.fence))

    def finish(self, run: m.Run, free: int = 1) -> None:
        """Send a result for this `Run`."""
        self.say(m.Finished(job_id=run.job_id, fence=run.fence, free=free, run_s=0.5, body=RESULT))
