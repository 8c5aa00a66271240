"""Decides when the postprocessing of one job may run beside the denoising of the next: no threads, no device.

A job has a *front* (load, encode the prompt, denoise) and a *tail* of stages (decode, encode, save; see `base.Stage`). At most one front
and one tail are under way. `OverlapPlanner` keeps what is under way and what jobs were seen to need, and answers:

- may a front begin now, and is what it takes to be measured;
- may a tail be handed to the other thread, so that the next job can come;
- when memory ran out, was that because of the other half, and so to be done again alone.

What a job takes depends on model, size and frames in ways nobody can compute beforehand, so both halves run alone until each has been
measured once (`peaks` remembers, over restarts too). Two that ran out of memory together are not tried together again. Memory is in MB.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, Protocol

from msgspec import Struct

from broker.wire.jobspec import JobSpec
from workers.engine.peaks import Shape, shape

Where = Literal["host", "device", "whole"]

#: Of what a process could hold; the rest is for what measuring does not see (workspaces of libraries, fragments).
_USABLE = 0.92


def shape_of(spec: JobSpec) -> Shape:
    """The shape of a job: all that what it takes depends on."""
    outputs = f"{spec.num_outputs}outputs" if spec.num_outputs > 1 else ""
    inputs = (f"{role}{len(paths)}" for role, paths in sorted(spec.inputs.items()))
    loras = f"{len(spec.loras)}loras" if spec.loras else ""
    marks = (outputs, loras, "image" if spec.image else "", "previews" if spec.previews else "", spec.cache, *inputs)
    more = "".join(f"+{mark}" for mark in marks if mark)
    return shape(spec.model, spec.width, spec.height, spec.num_frames, more)


class Learned(Protocol):
    """Measured memory of halves of jobs, MB, by shape; 0: not measured. `Peaks` keeps it over restarts."""

    def front(self, shape: Any) -> float: ...
    def tail(self, shape: Any) -> float: ...
    def front_took(self, shape: Any, mb: float) -> None: ...
    def tail_took(self, shape: Any, mb: float) -> None: ...


class Unkept:
    """Measurements of this process alone."""

    def __init__(self) -> None:
        self._fronts: dict[Hashable, float] = {}
        self._tails: dict[Hashable, float] = {}

    def front(self, shape: Hashable) -> float:
        return self._fronts.get(shape, 0.0)

    def tail(self, shape: Hashable) -> float:
        return self._tails.get(shape, 0.0)

    def front_took(self, shape: Hashable, mb: float) -> None:
        self._fronts[shape] = max(mb, self.front(shape))

    def tail_took(self, shape: Hashable, mb: float) -> None:
        self._tails[shape] = max(mb, self.tail(shape))


class MemoryModel:
    """Memory that jobs took on top of the weights, by shape, and the pairs that must not run together."""

    def __init__(self, learned: Learned | None = None) -> None:
        self._learned: Learned = learned or Unkept()
        self._forbidden: set[tuple[Hashable, Hashable]] = set()
        #: Held when nothing runs, as it was when a front was measured last; None: none was in this process.
        self._weights_mb: float | None = None

    def front_took(self, shape: Hashable, mb: float, weights_mb: float) -> None:
        """A front took this much, with no tail beside it on the device."""
        self._learned.front_took(shape, mb)
        self._weights_mb = weights_mb

    def tail_took(self, shape: Hashable, mb: float) -> None:
        """A stage of such a job's tail took this much, with no front beside it."""
        self._learned.tail_took(shape, mb)

    def forbid(self, front: Hashable, tail: Hashable) -> None:
        """Note that these two ran out of memory together."""
        self._forbidden.add((front, tail))

    def fit(self, front: Hashable, tail: Hashable, limit_mb: float) -> bool:
        """Whether both fit into what the process could hold (`limit_mb`). False for what was not measured yet."""
        front_mb, tail_mb = self._learned.front(front), self._learned.tail(tail)
        if self._weights_mb is None or (front, tail) in self._forbidden or not front_mb or not tail_mb:
            return False
        return self._weights_mb + front_mb + tail_mb <= _USABLE * limit_mb


class Candidate(Struct, frozen=True, kw_only=True):
    """A job as the planner sees it."""

    shape: Hashable
    #: The agent wants nothing beside it: it ran out of memory before.
    alone: bool = False
    #: Its model is where it is needed, so that its front moves no weights.
    stays: bool = True


class _Front(Struct):
    candidate: Candidate
    #: Hashable of a tail that was on the device at some time since it began; None when there was none.
    beside: Hashable = None


class _Tail(Struct):
    shape: Hashable
    where: Where
    #: Hashable of a front that was under way at some time since this stage began.
    beside: Hashable = None
    #: This stage is done again, and no front may be under way.
    exclusive: bool = False


class OverlapPlanner:
    """The front and the tail under way, and who may go on. Not thread-safe: its owner holds a lock."""

    def __init__(self, *, enabled: bool = True, learned: Learned | None = None) -> None:
        self._enabled = enabled
        self._memory = MemoryModel(learned)
        self._front: _Front | None = None
        self._tail: _Tail | None = None

    # ------------------------------------------------------------ fronts

    def may_begin(self, job: Candidate, limit_mb: float) -> bool:
        """Whether the front of `job` may begin now. `limit_mb`: what the process could hold."""
        tail = self._tail
        if self._front is not None or (tail is not None and tail.exclusive):
            return False
        if tail is None:
            return True
        if job.alone:
            return False
        return tail.where == "host" or (job.stays and self._memory.fit(job.shape, tail.shape, limit_mb))

    def begin(self, job: Candidate) -> bool:
        """The front begins. Whether what it takes is to be measured: of a model that is moved, loading would be in the figure."""
        assert self._front is None, "one front at a time"
        tail = self._tail
        beside = tail.shape if tail is not None and tail.where != "host" else None
        self._front = _Front(job, beside)
        if tail is not None:
            tail.beside = job.shape
        return beside is None and job.stays

    def measured(self, took_mb: float, weights_mb: float) -> None:
        """The front took `took_mb` on top of the `weights_mb` that were held before."""
        front = self._front
        # A tail that came to the device meanwhile is in the figure.
        if front is not None and front.beside is None:
            self._memory.front_took(front.candidate.shape, took_mb, weights_mb)

    def end(self) -> None:
        """The front is over, well or not."""
        self._front = None

    def excuse_front(self) -> bool:
        """The front ran out of memory. Whether a tail was beside it: then it is begun again when that has ended."""
        front = self._front
        if front is None or front.beside is None:
            return False
        self._memory.forbid(front.candidate.shape, front.beside)
        return True

    # ------------------------------------------------------------ tails

    @property
    def tail_under_way(self) -> bool:
        return self._tail is not None

    def may_hand_over(self, job: Candidate, where: Where, limit_mb: float) -> bool:
        """Whether a next job, taken to be like this one, could have its front beside this stage."""
        if not self._enabled or job.alone or where == "whole" or self._tail is not None:
            return False
        return where == "host" or self._memory.fit(job.shape, job.shape, limit_mb)

    def stage_ran_alone(self, job: Candidate, where: Where, took_mb: float) -> None:
        """A stage ran on the front's thread, with nothing beside it."""
        if where != "host":
            self._memory.tail_took(job.shape, took_mb)

    def enter_stage(self, shape: Hashable, where: Where) -> None:
        """A tail was handed over, or goes on with its next stage."""
        front = self._front
        self._tail = _Tail(shape, where, None if front is None else front.candidate.shape)
        if front is not None and where != "host":
            front.beside = shape

    def excuse_stage(self) -> bool:
        """The tail's stage ran out of memory. Whether a front was beside it: then the stage is done again without one (`may_repeat`)."""
        tail = self._tail
        if tail is None or tail.where != "device" or tail.beside is None:
            return False
        self._memory.forbid(tail.beside, tail.shape)
        tail.exclusive, tail.beside = True, None
        return True

    def may_repeat(self) -> bool:
        """Whether the excused stage may be done again."""
        return self._front is None

    def end_tail(self) -> None:
        """The tail's job has been answered."""
        self._tail = None
