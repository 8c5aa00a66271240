"""The stream of events of a broker: numbered by the broker, so that a gap is noticed, over connections and brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.client.followed_jobs import FollowedJobs
from broker.wire import codec
from broker.wire import messages as m

#: How often a subscription is confirmed: the longest that a broker restart which ZeroMQ hid from us stays unnoticed.
WATCH_CONFIRM_S = 2.0


class EventStream:
    """Hands events to its callbacks in order, and calls `on_gap` when some were lost, or may have been."""

    def __init__(
        self,
        on_event: Callable[[m.JobView], None] | None,
        on_gap: Callable[[], None] | None,
        on_gone: Callable[[tuple[str, ...]], None] | None,
    ) -> None:
        self._on_event = on_event
        self._on_gap = on_gap
        self._on_gone = on_gone
        self.subscribed = False
        #: Whether the steps of all jobs are streamed, or of those in `followed` alone.
        self.steps = True
        self.followed = FollowedJobs()
        #: When the subscription is to be confirmed next, on the loop's clock.
        self.confirm_at = 0.0
        #: Number of the last event; None before the first answer to `Watch`.
        self._seq: int | None = None
        self._maybe_gap = False

    def follow_messages(self) -> Iterator[m.Follow]:
        """Messages to the broker about followed jobs: none before the stream has begun, as they would be lost."""
        return self.followed.unsent() if self._seq is not None else iter(())

    def expect_gap(self) -> None:
        """Count on lost events: the answer to `Watch` did not come, so the next one means a gap."""
        self._maybe_gap = True

    def reconnected(self) -> None:
        """Count on lost events, if there were any: those under way on the old connection are lost."""
        self._maybe_gap = self._maybe_gap or self._seq is not None

    def begin(self, seq: int) -> None:
        """Take the answer to `Watch`: events are numbered from `seq`."""
        gap = self._maybe_gap or (self._seq is not None and seq != self._seq)
        if gap or self._seq is None:
            self.followed.renew()
        self._seq = seq
        self._maybe_gap = False
        if gap and self._on_gap is not None:
            self._on_gap()

    def take(self, event: m.Event | m.JobsDeleted) -> None:
        """Hand an event on. Raises what a callback raises, once the others were called."""
        gap = self._seq is not None and event.seq != self._seq + 1
        if gap:
            self.followed.renew()
        self._seq = event.seq
        if gap and self._on_gap is not None:
            self._on_gap()
        if isinstance(event, m.JobsDeleted):
            if self._on_gone is not None:
                self._on_gone(event.job_ids)
        elif self._on_event is not None:
            _each(self._on_event, codec.event_views(event.body))


def _each(callback: Callable[[m.JobView], None], views: list[m.JobView]) -> None:
    """Call it with each view. Raises what it raised first, at the end: the other views come only once."""
    failed: Exception | None = None
    for view in views:
        try:
            callback(view)
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed
