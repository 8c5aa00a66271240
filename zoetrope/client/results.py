"""Answers of the service as typed values. Each keeps the whole answer in `raw`, so that fields of a newer service can be read, too.

`_at` are Unix seconds, `_s` durations in seconds; None means not known, or not yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from zoetrope.client.errors import JobCancelled, JobFailed, NotThisService

#: States of a job that is not over.
ACTIVE_STATES = ("queued", "delayed", "parked", "assigned", "running")

#: States that a job does not leave.
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Result(Struct, kw_only=True):
    """An object of an answer."""

    #: The object as the service wrote it.
    raw: dict[str, Any] = field(default_factory=dict)


class Artefact(Struct, kw_only=True):
    """A file that a job made; `size` in bytes, `url` a path on the service."""

    name: str
    media_type: str = ""
    size: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    num_frames: int = 0
    fps: float = 0.0
    url: str = ""


class Failure(Struct, kw_only=True):
    """Failure of a job: its class and a sentence."""

    code: str
    message: str


class Job(Result, kw_only=True):
    """A job. `progress` is 0 to 100 over all, `step` of `total` that of `phase`; `position` is its place in the queue, from 0."""

    id: str
    state: str
    model: str = ""
    output: str | None = None
    progress: int = 0
    phase: str | None = None
    step: int = 0
    total: int = 0
    position: int | None = None
    eta_s: float | None = None
    worker: str | None = None
    priority: int = 5
    #: That the worker must have which draws it.
    gpus: int = 1
    attempts: int = 0
    cancel_requested: bool = False
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    expires_at: float | None = None
    #: When it is done, as promised (`ready_within_s`); without a promise as predicted.
    ready_by: float | None = None
    error: Failure | None = None
    #: What it draws, every default filled in: `spec["seed"]`.
    spec: dict[str, Any] | None = None
    artefacts: list[Artefact] = []
    save_error: str | None = None
    warnings: list[str] = []
    used: dict[str, str] = {}
    timings: dict[str, Any] = {}
    #: Denoising steps in a checkpoint, from which its next attempt goes on.
    kept: int = 0
    #: Path on the service of the newest picture of what is being drawn, where `previews` were requested.
    preview: str | None = None
    #: Why it is, or was, parked: `reason` ("paused", "draft", "preempted") and when; None: it never was.
    parking: dict[str, Any] | None = None
    #: Its moves from state to state, where one job was requested.
    history: list[dict[str, Any]] = []
    #: Of a submission: whether this very job was there before.
    duplicate: bool = False

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def seed(self) -> int | None:
        """The seed it is drawn with, the one drawn at random included."""
        return self.spec.get("seed") if self.spec else None

    def raise_for_state(self) -> Job:
        """Return this job unless it failed or was cancelled. Raises `JobFailed`, `JobCancelled`."""
        if self.state == "failed":
            error = self.error or Failure(code="unknown", message="no reason is known")
            raise JobFailed(f"job {self.id} failed ({error.code}): {error.message}", self)
        if self.state == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled", self)
        return self


class JobEvent(Struct, kw_only=True, frozen=True):
    """A change of a job. `name` is "state" (state, attempt or a cancel changed) or "progress"; `job` is the job after it."""

    name: str
    #: The job's revision, to go on from: `events(job, after=…)`; 0 where only its place in the queue moved.
    revision: int
    job: Job


class Listed(Struct, kw_only=True):
    """A list of objects."""

    data: list[dict[str, Any]]


class Page(Listed, kw_only=True):
    """A page of a list; `last_id` is the next page's `after`. `searched_to`: it is short, so far was searched (Unix time)."""

    has_more: bool = False
    last_id: str | None = None
    searched_to: float | None = None


class Outcome(Result, kw_only=True):
    """Outcome of a request about a job.

    Of a cancel: `cancelled` (it waited and is over), `requested` (its worker is being stopped) or `already_final`; of a pause, resume or
    commit: `done` or `requested`.
    """

    id: str
    outcome: str
    job: Job


class WorkerJob(Struct, kw_only=True):
    """A job that a worker holds."""

    id: str
    phase: str | None = None
    step: int = 0
    total: int = 0


class Estimate(Result, kw_only=True):
    """Forecast of a job that came now: `ready_within_s` is the least that could be promised; `unknown` is the reason why nothing could."""

    model: str
    position: int = 0
    workers: int = 0
    starts_at: float | None = None
    done_at: float | None = None
    ready_by: float | None = None
    ready_within_s: float | None = None
    ready_confidence: float = 0.0
    takes_s: float | None = None
    unknown: str | None = None


class WorkerLoading(Struct, kw_only=True):
    """Reason why a worker takes no job yet: its model is loaded or warmed up, or its process waits to be started."""

    phase: str = ""
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    error: str | None = None


class WorkerDepot(Struct, kw_only=True):
    """Results of a worker that are not in the depot yet, and jobs whose inputs have not come from there."""

    results: int = 0
    size_mb: float = 0.0
    inputs: int = 0
    seconds: float = 0.0
    fault: str | None = None
    full: bool = False


class Worker(Result, kw_only=True):
    """A worker: its device, model, state, what it holds, and its counts since the broker started."""

    name: str
    state: str
    device: str = ""
    gpus: int = 0
    host: str = ""
    engine: str = ""
    model: str | None = None
    models: list[str] = []
    jobs: list[WorkerJob] = []
    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    utilisation: float | None = None
    temperature_c: float | None = None
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    fault: str | None = None
    loading: WorkerLoading | None = None
    depot: WorkerDepot | None = None


class Queue(Result, kw_only=True):
    """The queue: jobs by state, the seconds of work in it, and how long a new job would wait."""

    counts: dict[str, int] = {}
    backlog_s: float = 0.0
    wait_s: float = 0.0


class Model(Result, kw_only=True):
    """A model: what it makes, what it takes, its defaults and limits; `raw` has its presets and LoRAs, too."""

    id: str
    output: str = ""
    outputs: list[str] = []
    takes_image: bool = False
    needs_image: bool = False
    takes_inputs: list[str] = []
    needs_inputs: list[str] = []
    pipeline: str | None = None
    workers: int = 0
    defaults: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class Recipe(Result, kw_only=True):
    """Recipe of a file: the `request` that draws it again, and why that would be another picture here."""

    request: dict[str, Any]
    repeatable: bool = False
    differences: list[str] = []


class Credentials(Result, kw_only=True):
    """Content credentials of a file. `state`: "valid", "untrusted" (whole, by a signer whom the service does not trust) or "invalid"."""

    state: str
    failures: list[str] = []
    generated: bool = False
    source_type: str | None = None
    issuer: str | None = None
    signer: str | None = None
    generator: str | None = None
    unsigned_sha256: str | None = None
    recipe: dict[str, Any] | None = None


class UploadedFile(Result, kw_only=True):
    """A file that was uploaded: its `id` can be named wherever an image or a clip is taken."""

    id: str
    filename: str = ""
    bytes: int = 0
    purpose: str = ""
    created_at: float | None = None
    expires_at: float | None = None


class Health(Result, kw_only=True):
    """Whether a job sent now could run, and why not."""

    status: str
    workers: int = 0
    workers_ready: int = 0
    reasons: list[str] = []
    warnings: list[str] = []

    @property
    def is_ready(self) -> bool:
        return self.status == "healthy"


class UsageRow(Struct, kw_only=True):
    """Sums over jobs that are over; what they are not grouped by is None. `bytes` of results, `*_s` seconds on GPUs."""

    day: str | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    gpu_s: float = 0.0
    #: In attempts that came to nothing.
    lost_gpu_s: float = 0.0
    bytes: int = 0


class Usage(Result, kw_only=True):
    """Usage from `first_day` to `last_day`, both counting."""

    first_day: str
    last_day: str
    data: list[UsageRow] = []
    has_more: bool = False


class WebhookEvent(Result, kw_only=True):
    """A delivery of a webhook. `data` is the job, shortened; `id` is the same when it is delivered again."""

    id: str
    type: str
    created_at: float | None = None
    timestamp: str = ""
    data: dict[str, Any] = {}


class DownloadedFile(Struct, kw_only=True, frozen=True):
    """A file that was downloaded: where it is, and the digest of its bytes, which is the service's."""

    path: str
    size: int
    sha256: str


R = TypeVar("R", bound=Result)


S = TypeVar("S")


def checked(kind: type[S], members: Any) -> S:
    """Read a part of an answer. Raises `NotThisService` for one that cannot be it."""
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise NotThisService(f"the answer is not a {kind.__name__} of Zoetrope: {error}") from None


def convert(kind: type[R], members: Mapping[str, Any]) -> R:
    """A result from an object of an answer, which it keeps. Raises `NotThisService`."""
    made = checked(kind, members)
    made.raw = dict(members)
    return made


def decode(body: bytes) -> dict[str, Any]:
    """The object of an answer's body. Raises `NotThisService`."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise NotThisService("the answer is no JSON object: this is not Zoetrope") from None
