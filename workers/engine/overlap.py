"""Decides which stages of jobs may run beside each other: no threads, no device.

A job has a *denoise stage* (load, encode the prompt, denoise) and *postprocess stages* (decode, encode, save; see `base.Stage`). What
comes before its first denoising step may be done beside the denoise stage of the job before: then it is *prepared*. At most one job is in
each of these three places, and all three may be taken at once. `OverlapPlanner` keeps what is under way and what jobs were seen to need,
and answers:

- may a denoise stage begin now, and is what it takes to be measured;
- may a job be prepared while another is denoised, and a third perhaps postprocessed;
- may a postprocess stage be handed to the other thread, so that the next job can come;
- when memory ran out, was that because of what ran beside, and so to be done again alone.

What a job takes depends on model, size and frames in ways that cannot be computed beforehand, so both halves run alone until each has been
measured once (`peaks` keeps it, over restarts too). What ran out of memory together is not tried together again: of three, those three; of
two, these two in whatever company. Memory is in MB.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, Protocol

from msgspec import Struct

from broker.wire.jobspec import JobSpec
from workers.engine.peaks import Shape, shape

Where = Literal["host", "device", "whole"]

#: Of what a process could hold; the rest is for what is not measured (workspaces of libraries, fragments).
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
    """Measured memory of stages of jobs, MB, by shape; 0: not measured. `Peaks` keeps it over restarts."""

    def denoise(self, shape: Any) -> float: ...
    def postprocess(self, shape: Any) -> float: ...
    def denoise_took(self, shape: Any, mb: float) -> None: ...
    def postprocess_took(self, shape: Any, mb: float) -> None: ...


class Unkept:
    """Measurements of this process alone."""

    def __init__(self) -> None:
        self._denoise: dict[Hashable, float] = {}
        self._postprocess: dict[Hashable, float] = {}

    def denoise(self, shape: Hashable) -> float:
        return self._denoise.get(shape, 0.0)

    def postprocess(self, shape: Hashable) -> float:
        return self._postprocess.get(shape, 0.0)

    def denoise_took(self, shape: Hashable, mb: float) -> None:
        self._denoise[shape] = max(mb, self.denoise(shape))

    def postprocess_took(self, shape: Hashable, mb: float) -> None:
        self._postprocess[shape] = max(mb, self.postprocess(shape))


class MemoryModel:
    """Memory that jobs took on top of the weights, by shape, and which must not run together."""

    def __init__(self, learned: Learned | None = None) -> None:
        self._learned: Learned = learned or Unkept()
        self._forbidden: set[tuple[Hashable, Hashable]] = set()
        #: Pairs of which the first is not to be prepared beside the second.
        self._unprepared: set[tuple[Hashable, Hashable]] = set()
        #: Of these the first is not to be prepared beside the other two, of which the last is postprocessed.
        self._crowded: set[tuple[Hashable, Hashable, Hashable]] = set()
        #: Held when nothing runs, as it was when a denoise stage was measured last; None: none was in this process.
        self._weights_mb: float | None = None

    def denoise_took(self, shape: Hashable, mb: float, weights_mb: float) -> None:
        """A denoise stage took this much, with nothing beside it on the device."""
        self._learned.denoise_took(shape, mb)
        self._weights_mb = weights_mb

    def postprocess_took(self, shape: Hashable, mb: float) -> None:
        """A postprocess stage of such a job took this much, with nothing beside it."""
        self._learned.postprocess_took(shape, mb)

    def forbid(self, denoise: Hashable, postprocess: Hashable) -> None:
        """Note that these two ran out of memory together."""
        self._forbidden.add((denoise, postprocess))

    def forbid_preparing(self, prepared: Hashable, denoised: Hashable) -> None:
        """Note that the first ran out of memory while it was prepared beside the second."""
        self._unprepared.add((prepared, denoised))

    def forbid_three(self, prepared: Hashable, denoised: Hashable, postprocessed: Hashable) -> None:
        """Note that one of these ran out of memory while the first was prepared."""
        self._crowded.add((prepared, denoised, postprocessed))

    def fit(self, denoise: Hashable, postprocess: Hashable, limit_mb: float) -> bool:
        """Whether both fit into what the process could hold (`limit_mb`). False for what was not measured yet."""
        denoise_mb, postprocess_mb = self._learned.denoise(denoise), self._learned.postprocess(postprocess)
        if (
            self._weights_mb is None
            or (denoise, postprocess) in self._forbidden
            or not denoise_mb
            or not postprocess_mb
        ):
            return False
        return self._weights_mb + denoise_mb + postprocess_mb <= _USABLE * limit_mb

    def fit_prepared(
        self, prepared: Hashable, denoised: Hashable, limit_mb: float, *, postprocessed: Hashable = None
    ) -> bool:
        """Whether the first can be prepared beside the second, and beside a third that is `postprocessed` on the device.

        Its whole denoise stage is reckoned, of which preparing it is a part.
        """
        took = [self._learned.denoise(prepared), self._learned.denoise(denoised)]
        if postprocessed is not None:
            took.append(self._learned.postprocess(postprocessed))
        forbidden = (prepared, denoised) in self._unprepared or (prepared, denoised, postprocessed) in self._crowded
        if self._weights_mb is None or forbidden or not all(took):
            return False
        return self._weights_mb + sum(took) <= _USABLE * limit_mb


class Candidate(Struct, frozen=True, kw_only=True):
    """A job for the planner."""

    shape: Hashable
    #: The agent forbids another beside it: it ran out of memory before.
    alone: bool = False
    #: Its model is where it is needed, so that its denoise stage moves no weights.
    resident: bool = True


class _Denoise(Struct):
    candidate: Candidate
    #: Shape of a job whose postprocess stage was on the device at some time since it began; None when there was none.
    beside: Hashable = None
    #: The same of a job that was prepared.
    prepared: Hashable = None
    #: Shape of a job whose postprocess stage was on the device when that one came.
    crowded_by: Hashable = None


class _Postprocess(Struct):
    shape: Hashable
    where: Where
    #: Shape of a job whose denoise stage was under way at some time since this stage began.
    beside: Hashable = None
    #: This stage is done again, and no denoise stage may be under way.
    exclusive: bool = False


def _on_device(postprocess: _Postprocess | None) -> Hashable:
    """Shape of the job that is postprocessed, if that needs the device; None: nothing there does."""
    return postprocess.shape if postprocess is not None and postprocess.where != "host" else None


class OverlapPlanner:
    """The stages under way, and which may go on. Not thread-safe: the caller holds a lock."""

    def __init__(self, *, enabled: bool = True, learned: Learned | None = None) -> None:
        self._enabled = enabled
        self._memory = MemoryModel(learned)
        self._denoise: _Denoise | None = None
        self._postprocess: _Postprocess | None = None
        self._prepared: Candidate | None = None
        self._prepared_waits = False

    @property
    def has_prepared(self) -> bool:
        """Whether a job is being prepared, or waits for its denoise stage."""
        return self._prepared is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._denoise is None and self._postprocess is None and self._prepared is None

    # ------------------------------------------------------------ denoise stages

    def may_begin(self, job: Candidate, limit_mb: float) -> bool:
        """Whether the denoise stage of `job` may begin now. `limit_mb`: what the process could hold."""
        postprocess = self._postprocess
        if self._denoise is not None or (postprocess is not None and postprocess.exclusive):
            return False
        if self._prepared is not None and self._prepared is not job:
            return False
        if postprocess is None:
            return True
        if job.alone:
            return False
        return postprocess.where == "host" or (
            job.resident and self._memory.fit(job.shape, postprocess.shape, limit_mb)
        )

    def begin(self, job: Candidate) -> bool:
        """The denoise stage begins. Whether what it takes is to be measured: of a model that is moved, loading would be in the figure."""
        assert self._denoise is None, "one denoise stage at a time"
        postprocess, beside = self._postprocess, _on_device(self._postprocess)
        # Of a job that is prepared already the most may have been taken before.
        measured = beside is None and job.resident and self._prepared is not job
        self._prepared = None
        self._denoise = _Denoise(job, beside)
        if postprocess is not None:
            postprocess.beside = job.shape
        return measured

    def measured(self, job: Candidate, took_mb: float, weights_mb: float) -> None:
        """The denoise stage of `job` took `took_mb` on top of the `weights_mb` that were held before."""
        denoise = self._denoise
        # What came to the device meanwhile is in the figure.
        if denoise is not None and denoise.candidate is job and denoise.beside is None and denoise.prepared is None:
            self._memory.denoise_took(job.shape, took_mb, weights_mb)

    def end(self) -> None:
        """The denoise stage is over, well or not."""
        self._denoise = None

    def excuse(self) -> bool:
        """The denoise stage ran out of memory. Whether another job was beside it: then it is begun again when that has ended."""
        denoise = self._denoise
        if denoise is None or (denoise.beside is None and denoise.prepared is None):
            return False
        if denoise.crowded_by is not None:
            self._memory.forbid_three(denoise.prepared, denoise.candidate.shape, denoise.crowded_by)
            return True
        if denoise.beside is not None:
            self._memory.forbid(denoise.candidate.shape, denoise.beside)
        if denoise.prepared is not None:
            self._memory.forbid_preparing(denoise.prepared, denoise.candidate.shape)
        return True

    # ------------------------------------------------------------ jobs that are prepared beside a denoise stage

    def may_prepare(self, job: Candidate, limit_mb: float) -> bool:
        """Whether `job` may be prepared now, beside the denoise stage that is under way."""
        denoise, postprocess = self._denoise, self._postprocess
        if not self._enabled or denoise is None or self._prepared is not None:
            return False
        if job.alone or denoise.candidate.alone or not job.resident:
            return False
        if postprocess is not None and postprocess.exclusive:
            return False
        return self._memory.fit_prepared(
            job.shape, denoise.candidate.shape, limit_mb, postprocessed=_on_device(self._postprocess)
        )

    def prepare(self, job: Candidate) -> None:
        """The job is being prepared, and then waits for the denoise stage under way to end."""
        assert self._denoise is not None, "there is nothing beside which it is prepared"
        self._prepared, self._prepared_waits = job, False
        self._denoise.prepared, self._denoise.crowded_by = job.shape, _on_device(self._postprocess)

    def prepared(self, job: Candidate) -> None:
        """The job is prepared, and takes no more memory until its denoise stage begins."""
        self._prepared_waits = self._prepared is job

    def drop_prepared(self, job: Candidate) -> None:
        """The job ended before its denoise stage began."""
        if self._prepared is job:
            self._prepared = None

    def excuse_prepared(self, job: Candidate) -> bool:
        """The job ran out of memory. Whether that was while it was prepared: then it is begun when nothing is beside it."""
        if self._prepared is not job:
            return False
        self._prepared = None
        denoise = self._denoise
        if denoise is not None and denoise.crowded_by is not None:
            self._memory.forbid_three(job.shape, denoise.candidate.shape, denoise.crowded_by)
        elif denoise is not None:
            self._memory.forbid_preparing(job.shape, denoise.candidate.shape)
        return True

    # ------------------------------------------------------------ postprocess stages

    @property
    def postprocess_under_way(self) -> bool:
        return self._postprocess is not None

    def may_hand_over(self, job: Candidate, where: Where, limit_mb: float) -> bool:
        """Whether a next job, taken to be like this one, could have its denoise stage beside this stage."""
        if not self._enabled or job.alone or where == "whole" or self._postprocess is not None:
            return False
        return where == "host" or self._memory.fit(job.shape, job.shape, limit_mb)

    def stage_ran_alone(self, job: Candidate, where: Where, took_mb: float) -> None:
        """A stage ran on the thread of its denoise stage, with nothing beside it."""
        if where != "host":
            self._memory.postprocess_took(job.shape, took_mb)

    def enter_stage(self, shape: Hashable, where: Where) -> None:
        """A job was handed over, or goes on with its next stage."""
        denoise = self._denoise
        self._postprocess = _Postprocess(shape, where, None if denoise is None else denoise.candidate.shape)
        if denoise is not None and where != "host":
            denoise.beside = shape

    def excuse_stage(self) -> bool:
        """The stage ran out of memory. Whether a denoise stage was beside it: then it is done again without one (`may_repeat`)."""
        postprocess = self._postprocess
        if postprocess is None or postprocess.where != "device" or postprocess.beside is None:
            return False
        denoise = self._denoise
        if self._prepared is not None and denoise is not None and denoise.crowded_by is not None:
            self._memory.forbid_three(self._prepared.shape, denoise.candidate.shape, postprocess.shape)
        else:
            self._memory.forbid(postprocess.beside, postprocess.shape)
        postprocess.exclusive, postprocess.beside = True, None
        return True

    def may_repeat(self) -> bool:
        """Whether the excused stage may be done again: nothing is denoised, and what is prepared takes no more than it has."""
        return self._denoise is None and (self._prepared is None or self._prepared_waits)

    def end_postprocess(self) -> None:
        """The postprocessed job has been answered."""
        self._postprocess = None
