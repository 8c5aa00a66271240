"""Whether two jobs fit into memory at once: the tail of one beside the drawing of the next.

What a job takes depends on model, size and frames in ways nobody can compute beforehand, so it is measured: both halves of a job run
alone until each has been seen once. Pure: the caller measures.
"""

from __future__ import annotations

from collections.abc import Hashable

from broker.wire.jobspec import JobSpec

#: Of what a process could hold; the rest is for what measuring does not see (workspaces of libraries, fragments).
_USABLE = 0.92


def shape_of(spec: JobSpec) -> Hashable:
    """Jobs of equal shape take equal memory."""
    return (
        spec.model,
        spec.width,
        spec.height,
        spec.num_frames,
        spec.num_outputs,
        bool(spec.image),
        bool(spec.previews),
    )


class Needs:
    """What jobs were seen to take on top of the weights, in MB, by shape."""

    def __init__(self) -> None:
        self._fronts: dict[Hashable, float] = {}
        self._tails: dict[Hashable, float] = {}
        self._forbidden: set[tuple[Hashable, Hashable]] = set()

    def front_took(self, shape: Hashable, mb: float) -> None:
        """Drawing such a job took this much, with nothing beside it."""
        self._fronts[shape] = max(mb, self._fronts.get(shape, 0.0))

    def tail_took(self, shape: Hashable, mb: float) -> None:
        """The tail of such a job took this much, with nothing beside it."""
        self._tails[shape] = max(mb, self._tails.get(shape, 0.0))

    def forbid(self, front: Hashable, tail: Hashable) -> None:
        """These two were tried and ran out of memory."""
        self._forbidden.add((front, tail))

    def fit(self, front: Hashable, tail: Hashable, limit_mb: float, weights_mb: float) -> bool:
        """Whether a job of shape `front` may be drawn beside the tail of one of shape `tail`.

        `limit_mb`: what the process could hold; `weights_mb`: what it holds when nothing runs.
        """
        if (front, tail) in self._forbidden or front not in self._fronts or tail not in self._tails:
            return False
        return weights_mb + self._fronts[front] + self._tails[tail] <= _USABLE * limit_mb
