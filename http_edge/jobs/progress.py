"""Progress of a job as one number: 0 to 100, never falling, 100 only when it succeeded.

Each phase has its share of the scale, most of it the denoising steps. A second attempt starts over, but the number does not: an edge
remembers the highest that it gave for each job. That memory is bounded and an edge's own; all edges get the same events, so theirs agree.
"""

from __future__ import annotations

from collections import OrderedDict

from broker.wire.messages import JobView

#: Where each phase begins and ends on the scale.
_SHARES: dict[str, tuple[int, int]] = {
    "": (0, 0),
    "load": (0, 1),
    "warm_up": (1, 2),
    "encode": (2, 5),
    "denoise": (5, 90),
    "decode": (90, 97),
    "save": (97, 99),
    "finished": (99, 99),
}

_MAX_KEPT = 10_000


def of_view(view: JobView) -> int:
    """Return the progress of this attempt, by itself."""
    if view.state == "succeeded":
        return 100
    # The steps of a job that is over are those that were drawn.
    low, high = _SHARES[view.phase or ("denoise" if view.step else "")]
    done = min(1.0, view.step / view.total) if view.total > 0 else 0.0
    return int(low + (high - low) * done)


class Progress:
    """The highest number shown of each job lately."""

    def __init__(self) -> None:
        self._highest: OrderedDict[str, int] = OrderedDict()

    def of(self, view: JobView) -> int:
        """The number to report for this view of a job."""
        now = of_view(view)
        if view.state in ("queued", "succeeded") and now in (0, 100) and view.id not in self._highest:
            return now
        now = max(now, self._highest.get(view.id, 0))
        self._highest[view.id] = now
        self._highest.move_to_end(view.id)
        if len(self._highest) > _MAX_KEPT:
            self._highest.popitem(last=False)
        return now
