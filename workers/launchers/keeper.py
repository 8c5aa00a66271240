"""Keeps a pool of workers as planned: reads the state of the cluster and of the service, decides, and commands both.

It holds nothing that it could not find out again: the cluster has the workers' processes, the service what they do. A launcher that is
started anew therefore goes on where the last one was, but for the window of the plan, which begins again.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, Protocol

from msgspec import Struct

from broker.runtime.log_actions import Action
from workers.launchers.child import Report
from workers.launchers.edge_service import Sight
from workers.launchers.order import Order
from workers.launchers.plan import Demand, Hold, Limits, Memory, Phase, held, plan
from workers.launchers.run_log import RunLog, Sample
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_SETTINGS, describe_exit
from zoetrope.client.errors import ZoetropeError
from zoetrope.client.results import Worker

logger = logging.getLogger(__name__)

#: Seconds of a notice that remain when a job is handed back in place of being finished, and when the worker is sent SIGTERM; both beyond
#: its `stop_grace_s`.
_HAND_BACK_S, _END_S = 15.0, 5.0

#: Seconds without an answer of the service, after which a pool that is to stop ends its workers by signal.
_AWAY_S = 10.0

#: Seconds after a hold in which a worker that ends in the same way makes the next one longer.
_FORGIVEN_S = 600.0

#: What a worker does, by its state at the broker; those that are not here depend on more.
_PHASES: dict[str, Phase] = {
    "starting": "starting",
    "idle": "idle",
    "busy": "busy",
    "draining": "draining",
    "faulty": "doomed",
}


class Cluster(Protocol):
    """Interface to a cluster that starts and ends processes."""

    def members(self) -> dict[str, Report | None]:
        """The pool's workers by name; None: no machine has it now."""

    def start(self, name: str) -> None:
        """Have a worker of this name started as soon as a machine has room."""

    def withdraw(self, name: str) -> None:
        """Give up one that has no machine."""

    def release(self, name: str, boot: str) -> None:
        """Let the machine of a worker that has ended go; nothing happens if another has begun under its name."""

    def terminate(self, name: str, boot: str) -> None:
        """Send a worker SIGTERM."""

    def notices(self) -> dict[str, float]:
        """Machines that go away -> the Unix time at which; 0: not known."""

    def lacking(self) -> str:
        """Return what the cluster lacks for one more worker; "": nothing."""


class Service(Protocol):
    """Interface to the service that has the jobs. Its methods raise `ZoetropeError`."""

    def look(self) -> Sight:
        """Read the workers' states, and the demand that waits."""

    def drain(self, worker: str, *, hand_back: bool = False) -> None:
        """Let it leave."""

    def undrain(self, worker: str) -> None:
        """Let it stay."""


class MemberStatus(Struct, frozen=True, kw_only=True):
    """A worker of the pool, as `--status` shows it. `lacking`: what the cluster lacks for one that has no machine."""

    name: str
    phase: str
    lacking: str = ""
    host: str = ""
    pid: int = 0
    log: str = ""


class PoolStatus(Struct, frozen=True, kw_only=True):
    """The pool, as `--status` shows it. `fault`: why it is not as it should be; "": it is."""

    pool: str
    limits: Limits
    wanted: int = 0
    backlog_s: float = 0.0
    waiting: int = 0
    members: tuple[MemberStatus, ...] = ()
    fault: str = ""
    stopping: bool = False
    log: str = ""


Step = Literal["finish", "hand_back", "end"]


def on_notice(left_s: float, stop_grace_s: float) -> Step:
    """Decide for a worker whose machine goes away in `left_s` seconds: finish its jobs while there is time, else hand them back."""
    if left_s > stop_grace_s + _HAND_BACK_S:
        return "finish"
    return "hand_back" if left_s > stop_grace_s + _END_S else "end"


class Keeper:
    """Keeps one pool."""

    def __init__(self, order: Order, cluster: Cluster, service: Service, log: RunLog, now: float) -> None:
        self._order = order
        self._cluster = cluster
        self._service = service
        self._log = log
        self._memory = Memory(since=now)
        self._hold = Hold()
        #: The order that a process was sent last, by its boot: a second SIGTERM would end its grace.
        self._sent: dict[str, Step] = {}
        self._stop: Literal["", "finish", "hand_back"] = ""
        self._last_seen_at = now
        self._models = frozenset(order.models)
        self._status = PoolStatus(pool=order.pool, limits=order.limits, log=str(log.path))
        pool = re.escape(f"{order.prefix}{order.pool}")
        self._is_ours = re.compile(rf"(?:.+\.)?{pool}\.(w\d+)\.[a-z]+-[\d._-]+")

    def stop(self, *, hand_back: bool) -> None:
        """Let all workers leave, after their jobs or at once."""
        self._stop = "hand_back" if hand_back else "finish"

    @property
    def finished(self) -> bool:
        """Whether it was to stop, and no worker is left."""
        return bool(self._stop) and not self._status.members

    @property
    def status(self) -> PoolStatus:
        """The pool at the last step."""
        return self._status

    def step(self, now: float, unix_now: float) -> None:
        """Read, decide, command. `now`: any clock that only goes on."""
        members = self._without_ended(self._cluster.members(), now, unix_now)
        for last in self._status.members:
            if last.host and members.get(last.name, "left") is None:
                self._log.event(unix_now, "lost", last.name, f"its process or a machine of it ({last.host}) is gone")
        try:
            sight = self._service.look()
        except ZoetropeError as error:
            self._blind(members, error, now, unix_now)
            return
        self._last_seen_at = now
        found = self._sorted(sight.workers)
        phases = {name: _phase(report, found.get(name, ())) for name, report in members.items()}
        self._handle_notices(members, found, phases, unix_now)
        if now >= self._hold.until + _FORGIVEN_S:
            self._hold = Hold()
        self._models |= {model for workers in found.values() for worker in workers for model in worker.models}
        demand = sight.demand(self._models, self._order.gpu_class, self._order.gpus)
        wanted = self._carry_out(demand, members, found, phases, now, unix_now)
        self._show(members, phases, demand, wanted, self._hold.why if now < self._hold.until else "")
        counts: dict[str, int] = {}
        for phase in phases.values():
            counts[phase] = counts.get(phase, 0) + 1
        self._log.sample(Sample(unix_now, round(demand.backlog_s, 3), demand.waiting, wanted, counts))

    def _carry_out(
        self,
        demand: Demand,
        members: Mapping[str, Report | None],
        found: Mapping[str, tuple[Worker, ...]],
        phases: dict[str, Phase],
        now: float,
        unix_now: float,
    ) -> int:
        limits = self._order.limits
        if self._stop:
            limits = Limits(min_workers=0, max_workers=0, target_wait_s=limits.target_wait_s, idle_s=0.0)
        made, self._memory = plan(limits, demand, phases, self._memory, now, may_start=now >= self._hold.until)
        for name in made.start:
            self._log.event(unix_now, "start", name)
            self._cluster.start(name)
        for name in made.withdraw:
            self._log.event(unix_now, "withdraw", name)
            self._cluster.withdraw(name)
        for name in made.undrain:
            self._log.event(unix_now, "undrain", name)
            self._call_each(self._service.undrain, found.get(name, ()))
        for name in made.drain:
            self._log.event(unix_now, "drain", name)
            self._leave(members[name], found.get(name, ()), hand_back=self._stop == "hand_back")
        if self._stop:
            # A drain may not reach these.
            self._end(members[name] for name, phase in phases.items() if phase in ("doomed", "lost"))
        return made.wanted

    def _without_ended(
        self, members: dict[str, Report | None], now: float, unix_now: float
    ) -> dict[str, Report | None]:
        """Those that have not ended; machines of the others are let go."""
        for name, report in members.items():
            if report is None or report.code is None:
                continue
            self._cluster.release(name, report.boot)
            self._sent.pop(report.boot, None)
            if report.code == EXIT_LEFT:
                self._log.event(unix_now, "left", name)
            else:
                self._log.event(unix_now, "failed", name, report.why)
                why = (
                    f"{name} on {report.host} ended with {describe_exit(report.code)}: {report.why} (log: {report.log})"
                )
                logger.error("no worker is started", extra={"action": Action.POOL, "detail": why})
                self._hold = held(self._hold, why, now, for_good=report.code == EXIT_SETTINGS)
        return {name: report for name, report in members.items() if report is None or report.code is None}

    def _blind(self, members: Mapping[str, Report | None], error: ZoetropeError, now: float, unix_now: float) -> None:
        """Decide nothing about numbers; machines that go away and a stop do not wait for the service."""
        fault = f"nothing is decided: {error}"
        if fault != self._status.fault:
            logger.warning("the pool stays as it is", extra={"action": Action.POOL, "detail": fault})
            self._log.event(unix_now, "blind", "", fault)
        for name, left_s in self._going_away(members, unix_now).items():
            if left_s <= self._order.stop_grace_s + _HAND_BACK_S:
                self._end((members[name],))
        if self._stop and now - self._last_seen_at >= _AWAY_S:
            self._end(members.values())
            for name, report in members.items():
                if report is None:
                    self._cluster.withdraw(name)
        phases: dict[str, Phase] = {name: "placing" if report is None else "lost" for name, report in members.items()}
        self._show(members, phases, Demand(self._status.backlog_s, self._status.waiting), self._status.wanted, fault)

    def _going_away(self, members: Mapping[str, Report | None], unix_now: float) -> dict[str, float]:
        """Workers whose machines go away, and the seconds that they have left."""
        notices = self._cluster.notices()
        ends = {node: at or math.inf for node, at in notices.items()}
        return {
            name: min(ends[node] for node in report.nodes if node in ends) - unix_now
            for name, report in members.items()
            if report is not None and not ends.keys().isdisjoint(report.nodes)
        }

    def _handle_notices(
        self,
        members: Mapping[str, Report | None],
        found: Mapping[str, tuple[Worker, ...]],
        phases: dict[str, Phase],
        unix_now: float,
    ) -> None:
        """Have workers leave machines that go away, in time."""
        for name, left_s in self._going_away(members, unix_now).items():
            step = on_notice(left_s, self._order.stop_grace_s)
            phases[name] = "doomed"
            report = members[name]
            if report is None or self._sent.get(report.boot) in (step, "end"):
                continue
            self._log.event(unix_now, "notice", name, f"{step}, {left_s:.0f} s left")
            if step == "end":
                self._end((report,))
            else:
                self._sent[report.boot] = step
                self._leave(report, found.get(name, ()), hand_back=step == "hand_back")

    def _leave(self, report: Report | None, workers: tuple[Worker, ...], *, hand_back: bool) -> None:
        if workers:
            self._call_each(partial(self._service.drain, hand_back=hand_back), workers)
        else:
            # The service does not have it yet: it has no job either.
            self._end((report,))

    def _call_each(self, call: Callable[[str], None], workers: Iterable[Worker]) -> None:
        for worker in workers:
            try:
                call(worker.name)
            except ZoetropeError as error:
                # It has left, or the request is repeated in the next step.
                logger.info("not reached", extra={"action": Action.POOL, "worker": worker.name, "detail": str(error)})

    def _end(self, reports: Iterable[Report | None]) -> None:
        for report in reports:
            if report is not None and self._sent.get(report.boot) != "end":
                self._sent[report.boot] = "end"
                self._cluster.terminate(report.name, report.boot)

    def _sorted(self, workers: Iterable[Worker]) -> dict[str, tuple[Worker, ...]]:
        """The pool's workers as the service has them, by their names in the pool."""
        found: dict[str, tuple[Worker, ...]] = {}
        for worker in workers:
            if match := self._is_ours.fullmatch(worker.name):
                found[match[1]] = (*found.get(match[1], ()), worker)
        return found

    def _show(
        self,
        members: Mapping[str, Report | None],
        phases: Mapping[str, Phase],
        demand: Demand,
        wanted: int,
        fault: str,
    ) -> None:
        lacking = self._cluster.lacking() if None in members.values() else ""
        shown = (
            MemberStatus(name=name, phase=phases[name], host=report.host, pid=report.pid, log=report.log)
            if report is not None
            else MemberStatus(name=name, phase=phases[name], lacking=lacking)
            for name, report in sorted(members.items(), key=lambda item: int(item[0][1:]))
        )
        self._status = PoolStatus(
            pool=self._order.pool,
            limits=self._order.limits,
            wanted=wanted,
            backlog_s=demand.backlog_s,
            waiting=demand.waiting,
            members=tuple(shown),
            fault=fault,
            stopping=bool(self._stop),
            log=str(self._log.path),
        )


def _phase(report: Report | None, workers: tuple[Worker, ...]) -> Phase:
    """Phase of a member, by its process and its workers (several where its GPU is divided)."""
    if any(worker.jobs for worker in workers if worker.state not in ("lost", "draining", "faulty")):
        return "busy"
    if report is None:
        return "placing"
    if report.leaving:
        return "doomed"
    if not workers:
        return "starting"
    phases = {_PHASES.get(worker.state, "lost") for worker in workers}
    order: tuple[Phase, ...] = ("starting", "lost", "draining", "doomed")
    return next((phase for phase in order if phase in phases), "idle")
