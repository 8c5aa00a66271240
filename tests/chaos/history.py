"""What happened, as facts: what clients did and were told, what the journal says at the end, what lies on the disk.

Everything here is data. `checker` judges it, and needs no process to do so.
"""

from __future__ import annotations

from msgspec import Struct

FINAL = frozenset(("succeeded", "failed", "cancelled"))


class FileFact(Struct, frozen=True):
    """A file by what it holds."""

    name: str
    size: int
    sha256: str


class Fact(Struct, frozen=True, kw_only=True, tag=True):
    """Something about one job, `at` seconds after the start, as a client saw it."""

    at: float
    job_id: str


class Submitted(Fact, frozen=True, kw_only=True):
    """A client began to submit a job under this id; what came of it is not known yet."""

    #: Equal for jobs that must draw the same picture; "": it is like no other.
    drawing: str = ""


class Accepted(Fact, frozen=True, kw_only=True):
    """The service said that it has the job. Every repetition says so again, with the same seed."""

    seed: int


class Seen(Fact, frozen=True, kw_only=True):
    """The job's state in an answer or an event, and its files once it has some."""

    state: str
    #: When the question was sent, or the stream opened: what was answered may be as old.
    asked: float = 0.0
    files: tuple[FileFact, ...] = ()
    #: Which of the edges answered.
    edge: int = 0


class CancelAnswered(Fact, frozen=True, kw_only=True):
    """A cancel was answered: "cancelled", "requested" or "already_final"."""

    outcome: str


class Missing(Fact, frozen=True, kw_only=True):
    """404 to a question about a job that had been accepted."""


class Fetched(Fact, frozen=True, kw_only=True):
    """A client downloaded a result whole."""

    file: FileFact


class Saved(Fact, frozen=True, kw_only=True):
    """What lay at the path that the client had chosen when the job was first reported as succeeded; None: nothing."""

    file: FileFact | None


class Undesigned(Fact, frozen=True, kw_only=True):
    """An answer that no page of the documentation promises."""

    text: str


class JournalJob(Struct, frozen=True, kw_only=True):
    """A job as the journal has it after everything has stopped."""

    job_id: str
    state: str
    fence: int = 0
    files: tuple[FileFact, ...] = ()
    #: States its story enters, in order.
    story: tuple[str, ...] = ()
    attempts: int = 0


class DiskFile(Struct, frozen=True, kw_only=True):
    """A file of an attempt's directory, `<artefacts>/<job>/<fence>/<name>`."""

    job_id: str
    fence: int
    file: FileFact
    #: Digest of a picture's raw pixels; "": it is none.
    pixels: str = ""


class Evidence(Struct, frozen=True, kw_only=True):
    """All that the verdict rests on."""

    facts: tuple[Fact, ...]
    journal: tuple[JournalJob, ...]
    disk: tuple[DiskFile, ...]


class Violation(Struct, frozen=True, kw_only=True):
    """A promise that was not kept."""

    kind: str
    job_id: str
    text: str
