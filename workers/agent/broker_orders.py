"""Orders of the broker about attempts, by their fences.

A fence is taken at most once: a `Run` whose fence is not above all fences received is a repetition, or comes too late. A cancel touches
the engine only if the engine holds that very fence. What has ended here is answered with its result, also when that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.runtime.log_actions import Action
from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.capacity import Capacity
from workers.agent.engine_slot import EngineSlot
from workers.agent.registration import Registration
from workers.agent.spooled_results import SpooledResult
from workers.agent.unacked_results import UnackedResults, keeps_files


class BrokerOrders:
    """Run, cancel, park and acknowledgement of attempts."""

    def __init__(
        self,
        engine_slot: EngineSlot,
        unacked_results: UnackedResults,
        capacity: Capacity,
        registration: Registration,
        emit: Callable[[fx.Effect], None],
        *,
        remote: bool,
    ) -> None:
        """`remote`: files go to a depot."""
        #: Highest fence ever received.
        self.seen = 0
        self._attempts = engine_slot.attempts
        self._control = engine_slot.control
        self._parked = engine_slot.parked
        self._unacked_results = unacked_results
        self._capacity = capacity
        self._registration = registration
        self._emit = emit
        self._remote = remote
        #: Results of an agent before this one, whose files are not being put yet.
        self._resumed: Sequence[SpooledResult] = ()

    def resume(self, left: Sequence[SpooledResult], now: float) -> None:
        """Hold results of an agent before this one. Their files are put once the broker has given the key to the depot."""
        self._resumed = left
        for one in left:
            message = one.message
            self.seen = max(self.seen, message.fence)
            self._unacked_results.add(message, now - one.age_s, now, sum(file.size for file in one.files))
            detail = "an agent before this one did not get its files into the depot"
            action = Action.RESULT_RESUMED
            self._emit(fx.Note(action=action, job_id=message.job_id, fence=message.fence, detail=detail))

    def put_resumed(self) -> None:
        """Put the files of these results, once."""
        for one in self._resumed:
            job_id, fence = one.message.job_id, one.message.fence
            if self._unacked_results.waits(job_id, fence):
                self._emit(fx.PutFiles(job_id, fence, one.files, again=True))
        self._resumed = ()

    def drop_results(self) -> None:
        """Forget all results, and what would have the next agent send them: they are of another journal."""
        for message in self._unacked_results.take_all():
            if self._remote and keeps_files(message):
                self._emit(fx.Revoke(message.fence))
                self._emit(fx.RemoveDir(message.job_id, message.fence))

    def run(self, run: m.Run, now: float) -> None:
        """Begin an attempt, or report what became of it, or refuse it."""
        if self._attempts.find(run.job_id, run.fence) or self._waits_for_depot(run):
            self._registration.beat_now(now)  # no report of it has reached the broker
        elif answer := self._unacked_results.answer(run.job_id, run.fence, self._capacity.free, now):
            self._send(answer)
        elif run.fence <= self.seen:
            self._refuse(run, "its fence is not above those received")
        else:
            self.seen = run.fence
            if refusal_reason := self._capacity.refusal_reason():
                self._refuse(run, refusal_reason)
            else:
                self._control.begin(run, now)

    def cancel(self, cancel: m.Cancel, now: float) -> None:
        """Cancel an attempt wherever it is, or report what became of it, or refuse."""
        # It cannot overtake its `Run`, but it can arrive where that was lost: the fence is spent then, too.
        self.seen = max(self.seen, cancel.fence)
        if self._control.cancel(cancel, now) or self._parked.cancel(cancel.job_id, cancel.fence, now):
            return
        if self.withdraw(m.Cancelled(job_id=cancel.job_id, fence=cancel.fence), now):
            return
        if answer := self._unacked_results.answer(cancel.job_id, cancel.fence, self._capacity.free, now):
            self._send(answer)
        else:
            self._refuse(cancel, "this attempt is not held here")

    def park(self, park: m.Park, now: float) -> None:
        """Park an attempt, or report what became of it, or refuse."""
        self.seen = max(self.seen, park.fence)
        if self._control.park(park.job_id, park.fence, now) or self._waits_for_depot(park):
            return
        if answer := self._unacked_results.answer(park.job_id, park.fence, self._capacity.free, now):
            self._send(answer)
        else:
            self._refuse(park, "this attempt is not held here")

    def _waits_for_depot(self, order: m.Run | m.Park) -> bool:
        """Whether files or checkpoints of this attempt are being put."""
        return any(waiting.waits(order.job_id, order.fence) for waiting in (self._unacked_results, self._parked))

    def _refuse(self, order: m.Run | m.Cancel | m.Park, reason: str) -> None:
        self._send(m.Refused(job_id=order.job_id, fence=order.fence, free=self._capacity.free, reason=reason))
        self._emit(fx.Note(action=Action.REFUSED, job_id=order.job_id, fence=order.fence, detail=reason))

    def acknowledged(self, ack: m.ResultAck) -> None:
        """Forget a result, and its files when they are not needed here."""
        message = self._unacked_results.acknowledge(ack.fence, accepted=ack.accepted)
        if message is not None and keeps_files(message):
            remote = self._remote
            if remote or not ack.accepted:
                self._emit(fx.RemoveDir(message.job_id, message.fence))
            if remote and not ack.accepted:
                self._emit(fx.DiscardFiles(message.job_id, message.fence))
        if isinstance(message, m.Finished | m.Cancelled) and ack.accepted:
            self._emit(fx.RemoveCheckpoints(message.job_id))

    def withdraw(self, result: m.Failed | m.Cancelled, now: float) -> bool:
        """End an attempt like this whose files are being put; False when there is none."""
        if not self._unacked_results.withdraw(result, now):
            return False
        self._emit(fx.Revoke(result.fence))
        self._emit(fx.RemoveDir(result.job_id, result.fence))
        self._emit(fx.DiscardFiles(result.job_id, result.fence))
        action = Action(f"attempt_{type(result).__name__.lower()}")
        detail = getattr(result, "message", "its files were being put into the depot")
        self._emit(fx.Note(action=action, job_id=result.job_id, fence=result.fence, detail=detail))
        return True

    def _send(self, message: m.Message) -> None:
        self._emit(fx.SendBroker(message))
