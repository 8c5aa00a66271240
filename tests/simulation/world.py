"""One world: everybody in it, the time of troubles, the calm after it, and the moment when all must be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import msgspec

from broker.core.jobs import Job
from broker.wire import messages as m
from broker.wire.terms import FINAL, JobState
from tests.simulation.broker import BrokerProcess
from tests.simulation.checker import Checker
from tests.simulation.disk import read_all
from tests.simulation.edge import Customer, Edge, Operator
from tests.simulation.engine import Work
from tests.simulation.facts import require, short
from tests.simulation.network import Cable, Network
from tests.simulation.plan import Fault, Plan
from tests.simulation.planted import planted
from tests.simulation.timeline import START, Timeline
from tests.simulation.worker import POLICY, WorkerProcess

#: By then everything must be done that can be: three tries of a job that hangs, back-offs and engine restarts included; and the longest
#: job, of 504 steps of 3 s, from its first step on.
CALM_S = 4000.0

#: What a disturbance may cost beyond its own length: until the agent has said hello again and the broker has told it all.
_SETTLE_S = 4.0


class World:
    """All of it."""

    def __init__(self, seed: int, plan: Plan, folder: Path, *, tracing: bool = False) -> None:
        self.seed = seed
        self.plan = plan
        self.timeline = Timeline()
        self.lines: list[str] = []
        self.tracing = tracing
        self.counts: Counter[str] = Counter()
        #: Who was disturbed, from when until when.
        self.disturbances: list[tuple[str, float, float]] = []
        self.calm = False
        #: Steps of each job that lie in its newest checkpoint, whichever attempt wrote it, on the edge's disk, which is the depot: workers
        #: of other machines have disks of their own.
        self.checkpoints: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._random = Random(f"world {seed}")
        self.network = Network(self.timeline, Random(f"network {seed}"), plan.delays, plan.doubled)
        self.checker = Checker(self)
        self.broker = BrokerProcess(self, plan.policy, folder / "jobs.sqlite", Random(f"broker {seed}"))
        self.workers: list[WorkerProcess] = []
        self.edges: list[Edge] = []
        self.limits = {errand.tenant: errand.max_running for errand in plan.errands if errand.max_running}
        self.broker.start()
        self.workers += [
            WorkerProcess(self, f"gpu-{index}", Random(f"worker {seed} {index}"), seed) for index in range(plan.workers)
        ]
        for worker, gpus in zip(self.workers, plan.sizes, strict=False):
            worker.gpus = gpus
        self.edges += [Edge(self, f"edge-{index}", Random(f"edge {seed} {index}")) for index in range(plan.edges)]
        for worker in self.workers:
            self.timeline.after(self._random.choice((0.0, 0.0, 1.0)), worker.start)
        for edge in self.edges:
            edge.cable.connect()
        #: Whether the plan's bug is still there.
        self.buggy = True
        self._operator = Operator(self, Random(f"operator {seed}"))
        self._natures = {errand.job_id: errand.nature for errand in plan.errands}
        self.customers = [Customer(self, errand, Random(f"customer {seed} {errand.job_id}")) for errand in plan.errands]
        #: Since when an engine has been running what is not wanted any more.
        self._dead_since: dict[int, float] = {}
        self.timeline.after(1.0, self._look_for_dead_work)
        for fault in plan.faults:
            self.timeline.after(fault.at, lambda fault=fault: self._strike(fault))

    # ------------------------------------------------------------ for everybody

    def trace(self, who: str, verb: str, what: object = "") -> None:
        """A line of the story, if anybody reads it."""
        if self.tracing:
            text = brief(what) if isinstance(what, m.Message) else what
            self.lines.append(f"{self.timeline.now - START:9.3f}  {who:8} {verb:8} {text}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def forget_checkpoints(self, job_id: str) -> None:
        """A job is deleted: one of its id is another one."""
        for disk in (self.checkpoints, *(worker.spool.checkpoints for worker in self.workers)):
            disk.pop(job_id, None)

    def cables(self) -> Iterator[Cable]:
        for client in (*self.workers, *self.edges):
            yield client.cable

    def disturb(self, who: str, seconds: float = 0.0) -> None:
        """From now on nothing is promised about `who` for so long, and a little more."""
        self.disturbances.append((who, self.timeline.now, self.timeline.now + seconds + _SETTLE_S))

    def disturbed(self, who: tuple[str, ...], since: float) -> bool:
        """Whether one of them has been disturbed at any time since then."""
        return any(name in who and until > since for name, _, until in self.disturbances)

    def behaviour(self, job_id: str, random: Random) -> str:
        return self._natures.get(job_id) or ("finish" if self.calm else random.choice(self.plan.behaviours))

    def steps(self, job_id: str, random: Random) -> int:
        """Steps of denoising of a job, in all its attempts."""
        if job_id not in self._steps:
            errand = next((errand for errand in self.plan.errands if errand.job_id == job_id), None)
            self._steps[job_id] = (
                errand.steps if errand is not None and errand.steps else random.randint(*self.plan.steps)
            )
        return self._steps[job_id]

    # ------------------------------------------------------------ the course of things

    def run(self) -> None:
        """Live through it. Raises `Violation`, or whatever a core raises that was not planted."""
        with planted(self.plan.bug, lambda: self.buggy):
            self._live()

    def _live(self) -> None:
        self.timeline.run(START + self.plan.horizon_s)
        self._calm_down()
        end = self.timeline.now + CALM_S
        quiet = 0
        # Twice, for what was still under way: a submit that was repeated is a new job if the first one's record is deleted.
        while self.timeline.now < end:
            quiet = quiet + 1 if self.settled() else 0
            if quiet == 2:
                break
            self.timeline.run(self.timeline.now + 2.0)
        self._require_settled()
        self.checker.finally_()
        self._compare_disk()

    def _calm_down(self) -> None:
        self.trace("world", "calms")
        self.calm = True
        self.buggy = False
        self.network.calm_down()
        self.broker.fuse.light("", 0)
        self.broker.room.shortage = ""
        if self.broker.paused_until > self.timeline.now:
            self.broker.pause(0.0)
        for cable in self.cables():
            cable.heal()

    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.broker.serving and not any(self._undone())

    def _undone(self) -> Iterator[str]:
        for job in self.checker.disk.values():
            if not job.final:
                yield f"{job.id} is {job.state}, fence {short(job.fence)}, stop {job.stop!r}"
        for delivery in self.checker.deliveries.values():
            if delivery.state == "pending":
                yield f"the delivery of {delivery.event} of {delivery.job_id} is pending, claim {delivery.claim}"
        for customer in self.customers:
            if not (customer.accepted or customer.rejected):
                yield f"{customer.errand.job_id} was neither accepted nor refused"
        lost = {worker.name for worker in self.workers if worker.lost}
        for worker in self.workers:
            if not (worker.lost or worker.idle):
                capacity = worker.core and worker.core.capacity
                yield f"{worker.name} is not idle: {capacity and (capacity.refusal_reason(), capacity.held(0.0))}"
        for edge in self.edges:
            for job_id, view in edge.views.items():
                if view.state not in FINAL and job_id not in self.checker.deleted_ids:
                    yield f"{edge.name} was last told that {job_id} is {view.state}"
        if self.broker.up:
            for view in self.broker.core.snapshot().workers:
                if view.state != "idle" and view.name not in lost:
                    yield f"the broker takes {view.name} for {view.state}"

    def _require_settled(self) -> None:
        undone = [] if self.settled() else [*self._undone()]
        require(not undone and self.broker.serving, "everything ends once the faults stop", *undone)

    def _compare_disk(self) -> None:
        self.broker.end()
        on_disk = read_all(self.broker.path)
        require(on_disk.keys() == self.checker.disk.keys(), "what was committed is on disk", *on_disk)
        for job_id, job in on_disk.items():
            same = (job.state, job.fence) == (self.checker.disk[job_id].state, self.checker.disk[job_id].fence)
            require(same, "what was committed is on disk", job_id, job.state)

    def _look_for_dead_work(self) -> None:
        """No GPU works for long on what was cancelled, replaced or lost, unless something keeps the word from getting there."""
        self.timeline.after(1.0, self._look_for_dead_work)
        for worker in self.workers:
            if worker.engine is not None and worker.core is not None:
                for work in worker.engine.works:
                    self._look_whether_dead(worker.name, work)
                    self._look_whether_shown(worker.name, work)

    def _look_whether_dead(self, worker: str, work: Work) -> None:
        job, fence = self.checker.disk.get(work.job.job_id), work.fence
        vain = self.checker.vain(work.job.job_id, fence)
        if vain and not self.broker.serving:  # who else should tell
            self._dead_since.pop(fence, None)
            return
        if job is None:  # deleted, or about to be asked for again, unless it was never there
            unwanted = vain
        else:
            unwanted = job.fence > fence or job.final or bool(job.stop) or (job.park == "pause" and work.may_park)
        if not unwanted:
            self._dead_since.pop(fence, None)
            return
        since = self._dead_since.setdefault(fence, self.timeline.now)
        step_s = max(work.script.step_s, work.script.predicted_step_s)
        limit_s = 2 * step_s + POLICY.cancel_grace_s + 6 * self.network.longest_s + 3.0
        ends = [until for who, _, until in self.disturbances if who in (worker, "broker")]
        quiet_s = self.timeline.now - max(since, *ends, 0.0)
        waited = f"{work.job.job_id} {short(fence)} for {quiet_s:.1f} s"
        freed = quiet_s <= limit_s or self.plan.kernel_stuck > 0
        require(freed, "a cancel, and a pause, frees the worker within the grace", waited)

    def _look_whether_shown(self, worker: str, work: Work) -> None:
        """What an engine has had for a second is shown as running, unless something keeps the word from getting there."""
        if not self.broker.serving:
            return
        job = self.broker.core.state.jobs.get(work.job.job_id)
        since = self.checker.given_at[work.fence]
        heard_s = self.timeline.now - since - 2 * self.network.longest_s
        if job is None or job.fence != work.fence or heard_s <= 1.0 or self.disturbed((worker, "broker"), since):
            return
        require(job.state is not JobState.ASSIGNED, "what runs is shown within a second", job.id, f"{heard_s:.1f} s")

    def watch_end(self, job: Job) -> None:
        """A job has ended: every edge whose stream of events goes on must be told."""
        streams = [(edge, edge.gaps) for edge in self.edges if edge.watching]
        at = self.timeline.now
        self.timeline.after(3 * self.network.longest_s + 1.0, lambda: self._require_told(job, streams, at))

    def _require_told(self, job: Job, streams: list[tuple[Edge, int]], at: float) -> None:
        for edge, gaps in streams:
            view = edge.views.get(job.id)
            reported = view is not None and view.state == job.state
            hears = edge.gaps == gaps and edge.deaf_until <= at and not self.disturbed((edge.name, "broker"), at - 6.0)
            hears = hears and job.id not in self.checker.deleted_ids
            require(reported or not hears, "who watches is sent it", edge.name, job.id, view and view.state)

    def watch_steps(self, edge: Edge, job_ids: Iterable[str]) -> None:
        """What has moved by now in jobs that an edge follows it must be told soon, if its stream goes on."""
        # A job that is set aside is followed by nobody, and again by who looks at it after its release.
        if not self.broker.serving or self.plan.bug is not None:
            return
        jobs = self.broker.core.state.jobs
        moved = {job_id: jobs[job_id].revision for job_id in job_ids if job_id in jobs and not jobs[job_id].final}
        gaps, at = edge.gaps, self.timeline.now
        later = 3 * self.network.longest_s + 1.0
        self.timeline.after(later, lambda: self._require_steps(edge, moved, gaps, at))

    def _require_steps(self, edge: Edge, moved: dict[str, int], gaps: int, at: float) -> None:
        if edge.gaps != gaps or edge.deaf_until > at or self.disturbed((edge.name, "broker"), at - 6.0):
            return
        for job_id, revision in moved.items():
            view = edge.views.get(job_id)
            if job_id not in self.checker.deleted_ids:
                reported = view is not None and view.revision >= revision
                require(reported, "who follows a job is told of its steps", edge.name, job_id, view and view.revision)

    # ------------------------------------------------------------ trouble

    def _strike(self, fault: Fault) -> None:
        worker = self.workers[fault.target % len(self.workers)]
        edge = self.edges[fault.target % len(self.edges)]
        client = (*self.workers, *self.edges)[fault.target % (len(self.workers) + len(self.edges))]
        self.trace("world", "strikes", fault)
        self.count(f"fault: {fault.kind}")
        match fault.kind:
            case "broker killed":
                self.broker.clock_offset += fault.count
                self.broker.kill(fault.seconds)
            case "broker killed at":
                self.broker.fuse.light(fault.word, fault.count)
            case "broker stopped":
                self.broker.stop(fault.seconds)
            case "broker paused":
                self.broker.pause(fault.seconds)
            case "disk low":
                self.broker.room.shortage = "full"
                self.timeline.after(fault.seconds, self._disk_has_room)
            case "agent killed":
                worker.kill(fault.seconds)
            case "agent leaves":
                worker.leave()
            case "agent lost":
                self._lose(worker)
            case "agent drained":
                self.disturb(worker.name, 60.0)
                self._tell(edge, worker, m.DrainWorker)
                if fault.target >= 6:  # every other one is taken back, before or after it has left
                    self.timeline.after(fault.seconds, lambda: self._tell(edge, worker, m.UndrainWorker))
                if fault.target >= 9:  # half of these are drained once more at once, and taken back again
                    for order in (m.DrainWorker, m.UndrainWorker):
                        self.timeline.after(fault.seconds + 0.01, lambda order=order: self._tell(edge, worker, order))
            case "agent paused":
                worker.pause(fault.seconds, engine_too=bool(fault.word))
            case "engine killed":
                if worker.engine is not None:
                    self.disturb(worker.name)
                    worker.engine.die("killed by SIGKILL")
            case "cut":
                self.disturb(client.name, fault.seconds)
                client.cable.cut(fault.seconds, 5.0 if fault.word else 0.01)
            case "partition":
                self.disturb(client.name, fault.seconds)
                client.cable.block(("up", "down") if fault.word == "both" else (fault.word,), fault.seconds)
            case "edge killed":
                self.disturb(edge.name)
                edge.kill()
            case "edge deaf":
                edge.deaf(fault.seconds)

    @staticmethod
    def _tell(edge: Edge, worker: WorkerProcess, order: type[m.DrainWorker | m.UndrainWorker]) -> None:
        edge.ask(lambda req: order(req=req, name=worker.name), lambda *_: None)

    def _lose(self, worker: WorkerProcess) -> None:
        left = [other for other in self.workers if not (other.lost or other is worker)]
        if left and not any(errand.pinned for errand in self.plan.errands):
            worker.lose()

    def _disk_has_room(self) -> None:
        self.broker.room.shortage = ""


def brief(message: m.Message) -> str:
    """A message with what is not its default."""
    parts = []
    for field in msgspec.structs.fields(type(message)):
        value = getattr(message, field.name)
        if field.name != "v" and (field.required or value != field.default):
            shown = short(value) if field.name in ("fence", "seen") else value
            if field.name == "held":
                shown = [f"{item.job_id} {short(item.fence)} {item.phase} {item.step}/{item.total}" for item in value]
            parts.append(f"{field.name}={shown}")
    return f"{type(message).__name__} {' '.join(parts)}"
