"""Room that a worker has for jobs, and the attempts that it answers for: what it reports to the broker, and by which it refuses."""

from __future__ import annotations

from broker.wire import messages as m
from workers.agent.engine_slot import EngineSlot
from workers.agent.unacked_results import UnackedResults
from workers.supervisor.agent_policy import AgentPolicy


class Capacity:
    """Room and attempts of one worker. `free` is absolute: 1 only when a `Run` would be taken now."""

    def __init__(self, engine_slot: EngineSlot, unacked_results: UnackedResults, policy: AgentPolicy) -> None:
        self._engine_slot = engine_slot
        self._unacked_results = unacked_results
        self._policy = policy
        self.draining = False
        #: Machine of the group that is being stopped, and why; "": none is.
        self.machine_stops = ""
        self.leaving = False
        #: Attempts whose files or inputs could not be moved -> why not, when that was tried last.
        self._depot_faults: dict[int, str] = {}

    def refusal_reason(self) -> str:
        """Return the reason why a `Run` would be refused now; "" when it would be taken."""
        if self.leaving:
            return "the worker is leaving"
        if self.draining:
            return "the worker is draining"
        if self.machine_stops:
            return self.machine_stops
        if refusal_reason := self._engine_slot.refusal_reason():
            return refusal_reason
        return self._results_reason()

    def _results_reason(self) -> str:
        if len(self._unacked_results) >= self._policy.max_unacknowledged:
            return f"{len(self._unacked_results)} results wait for acknowledgement"
        if len(self._unacked_results) + len(self._engine_slot.parked) >= self._policy.max_unacknowledged:
            return f"{len(self._engine_slot.parked)} parked jobs wait until their checkpoints are in the depot"
        if (put_bytes := self._unacked_results.put_bytes) > self._policy.spool_bytes:
            return f"{put_bytes / 1e6:.0f} MB of results wait to be put into the depot"
        return ""

    @property
    def hands_back(self) -> bool:
        """Whether it takes no job, and may hand back what it has."""
        return self.draining or bool(self.machine_stops)

    def depot_failed(self, fence: int, fault: str) -> None:
        """Note that files or inputs of this attempt could not be moved; it is tried again."""
        waiting = self._depot_waits()
        self._depot_faults = {one: text for one, text in self._depot_faults.items() if one in waiting}
        if fence in waiting:
            self._depot_faults[fence] = fault

    def depot_wait(self, now: float) -> m.DepotWait | None:
        """Wait for the depot; None: nothing waits."""
        waiting = self._depot_waits()
        if not waiting:
            return None
        results = len(self._unacked_results.put_since())
        return m.DepotWait(
            results=results,
            size_mb=self._unacked_results.put_bytes / 1e6,
            inputs=len(waiting) - results,
            age_s=max(0.0, now - min(waiting.values())),
            fault=self._depot_fault(waiting),
            full=bool(results and self._results_reason()),
        )

    def _depot_waits(self) -> dict[int, float]:
        """Attempts that wait for the depot -> when each was given to the worker."""
        attempts = self._engine_slot.attempts
        fetching = {attempt.fence: attempt.given_at for attempt in attempts if attempt.fence in attempts.fetching}
        return self._unacked_results.put_since() | fetching

    def _depot_fault(self, waiting: dict[int, float]) -> str:
        return next((text for fence, text in reversed(self._depot_faults.items()) if fence in waiting), "")

    @property
    def free(self) -> int:
        """Return the number of jobs that would be taken now."""
        return 0 if self.refusal_reason() else 1

    def held(self, now: float) -> tuple[m.Held, ...]:
        """The attempts in the engine, those parked, and all that wait for acknowledgement."""
        engine_slot = self._engine_slot
        in_engine = tuple(attempt.held(now) for attempt in engine_slot.attempts)
        return in_engine + engine_slot.parked.held(now) + self._unacked_results.held(now)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held, neither in the engine, nor parked, nor waiting for acknowledgement."""
        return not len(self._engine_slot.attempts) + len(self._engine_slot.parked) + len(self._unacked_results)

    def shown(self) -> object:
        """Return the state whose change makes a heartbeat due sooner."""
        engine_slot = self._engine_slot
        return (
            self.free,
            engine_slot.shown,
            engine_slot.engine.model,
            engine_slot.engine.loaded_loras,
            self.hands_back,
            tuple(attempt.shown for attempt in engine_slot.attempts),
            engine_slot.parked.fences(),
            self._unacked_results.fences(),
            engine_slot.engine.fault,
            self._depot_fault(self._depot_waits()) if self._depot_faults else "",
        )
