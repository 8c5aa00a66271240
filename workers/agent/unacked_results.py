"""Results that the broker has not acknowledged, and the last ones that it has.

A result is never forgotten before its `ResultAck`: it is sent at once, again every `resend_s`, and again after every reconnect. `free` and
`age_s` are filled in when it is sent, not when it was made, so that an old result never grants room that is gone, nor moves its start.
One whose files go into a depot first is sent when they are there, and until then may be withdrawn.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import structs

from broker.wire.messages import AgentResult, Finished, Held

#: Acknowledged results kept to answer a late cancel.
_MAX_KEPT = 64


class _Pending:
    def __init__(self, message: AgentResult, given_at: float, due_at: float, put_bytes: int = -1) -> None:
        self.message = message
        #: Bytes of its files that are being put into the depot; -1: none are, and it may be sent.
        self.put_bytes = put_bytes
        #: When its attempt was given to the engine.
        self.given_at = given_at
        self.due_at = due_at

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.given_at)


class UnackedResults:
    """Fence -> result."""

    def __init__(self, resend_s: float) -> None:
        self._resend_s = resend_s
        self._pending: dict[int, _Pending] = {}
        self._acknowledged: OrderedDict[int, _Pending] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, message: AgentResult, given_at: float, now: float, put_bytes: int = -1) -> None:
        """Keep a new result, of an attempt that was given to the engine at `given_at`; it is due at once, or when its files are put."""
        self._pending[message.fence] = _Pending(message, given_at, now, put_bytes)

    def is_put(self, fence: int, now: float) -> None:
        """The files of this result are in the depot: it is due."""
        if (pending := self._pending.get(fence)) is not None and pending.put_bytes >= 0:
            pending.put_bytes, pending.due_at = -1, now

    def withdraw(self, message: AgentResult, now: float) -> bool:
        """Take another result in place of one that was not sent, as its files are not put; False: there is none."""
        if not self.waits(message.job_id, message.fence):
            return False
        self._pending[message.fence] = _Pending(message, self._pending[message.fence].given_at, now)
        return True

    def waits(self, job_id: str, fence: int) -> bool:
        """Whether the files of this attempt are being put."""
        pending = self._pending.get(fence)
        return pending is not None and pending.message.job_id == job_id and pending.put_bytes >= 0

    @property
    def put_bytes(self) -> int:
        """Bytes of all files that are being put."""
        return sum(max(0, pending.put_bytes) for pending in self._pending.values())

    def put_since(self) -> dict[int, float]:
        """Attempts whose files are being put -> when each was given to the engine."""
        return {fence: pending.given_at for fence, pending in self._pending.items() if pending.put_bytes >= 0}

    def send_all_now(self, now: float) -> None:
        """The broker came back, or accepted the registration: everything is due."""
        for pending in self._pending.values():
            pending.due_at = now

    def due(self, now: float, free: int) -> list[AgentResult]:
        """Return the results to send now, with this much room written in; each is due again in `resend_s`."""
        messages = []
        for pending in self._pending.values():
            if pending.due_at <= now and pending.put_bytes < 0:
                pending.due_at = now + self._resend_s
                messages.append(_stamped(pending, free, now))
        return messages

    def next_due(self) -> float | None:
        """Return the time at which a result is due again."""
        return min((one.due_at for one in self._pending.values() if one.put_bytes < 0), default=None)

    def acknowledge(self, fence: int, *, accepted: bool) -> AgentResult | None:
        """Stop resending; the result, or None when it was not waiting. An accepted one is remembered for a while."""
        pending = self._pending.pop(fence, None)
        if pending is None:
            return None
        if accepted:
            self._acknowledged[fence] = pending
            if len(self._acknowledged) > _MAX_KEPT:
                self._acknowledged.popitem(last=False)
        return pending.message

    def take_all(self) -> list[AgentResult]:
        """Forget them; those that were not acknowledged."""
        messages = [pending.message for pending in self._pending.values()]
        self._pending.clear()
        return messages

    def answer(self, job_id: str, fence: int, free: int, now: float) -> AgentResult | None:
        """The result of this attempt, waiting or remembered, to send it once more."""
        pending = self._pending.get(fence) or self._acknowledged.get(fence)
        if pending is None or pending.message.job_id != job_id or pending.put_bytes >= 0:
            return None
        return _stamped(pending, free, now)

    def held(self, now: float) -> tuple[Held, ...]:
        """The lines of a heartbeat."""
        return tuple(
            # One whose files are being put has no result yet that would settle it, if the broker has no record of it any more.
            Held(
                job_id=pending.message.job_id,
                fence=fence,
                phase="finished" if pending.put_bytes < 0 else "save",
                age_s=pending.age_s(now),
            )
            for fence, pending in self._pending.items()
        )

    def fences(self) -> frozenset[int]:
        """The attempts whose results wait."""
        return frozenset(self._pending)


def _stamped(pending: _Pending, free: int, now: float) -> AgentResult:
    return structs.replace(pending.message, free=free, age_s=pending.age_s(now))


def keeps_files(message: AgentResult) -> bool:
    """Whether the files of an attempt with this result may still be used."""
    return isinstance(message, Finished)
