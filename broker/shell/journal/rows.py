"""Conversion of a job to journal rows, and of rows to a job.

A job's row is written once, when it is accepted: what a store selects by, in columns, everything that changes, as it is then, packed into
one msgpack array, what never changes, into another, and the spec's bytes. What changes later is the job's *outcome*, a row of its own that
takes the place of the first's; most jobs get one, their last. Arrays are read by position, so new fields go at the end, with
a default: an old row then still decodes.

Before a packed part stand a byte that begins no msgpack and checksums of it and of the columns beside it, the row's number included: no
disk, and no index, can pass off one row as another. Rows of before 0.2.0 have none and are taken as they are.
"""

from __future__ import annotations

from math import isfinite
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, astuple

from broker.core.jobs import Job, JobRecord
from broker.wire.messages import HistoryEntry
from broker.wire.submission import Submission
from broker.wire.terms import STATE_NAMES, JobState

JobRow = tuple[Any, ...]

#: The columns of a job's row but the packed one, in the order of their checksum and of `job_row`.
COLUMNS = ("n", "id", "state", "fence", "worker", "tenant", "origin", "alias", "model", "pinned", "submitted_at")

#: Where they stand in a row that `decode` takes, and what follows them: the packed column, the columns of `outcome` (None: nothing became
#: of it), what never changes.
N, ID, _SUBMITTED_AT = COLUMNS.index("n"), COLUMNS.index("id"), COLUMNS.index("submitted_at")
_TAIL = len(COLUMNS)
_STATE, _FENCE, _WORKER, _NEWER_TAIL, _HEAD, BODY = range(_TAIL + 1, _TAIL + 7)


class Head(Struct, frozen=True, array_like=True):
    """Immutable part of a job's row; what a store selects by of it stands in columns, too."""

    submission: Submission
    deadline_at: float


#: Number of the fields of a `JobRecord`.
_RECORD = len(JobRecord.__struct_fields__)

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_record = msgspec.msgpack.Decoder(JobRecord).decode


class RowDamaged(ValueError):
    """A row is not what was written."""


#: To look a state up takes less than to call its class.
_STATES = {name: state for state, name in STATE_NAMES.items()}

#: msgpack leaves this byte unused.
_SEAL = b"\xc1"


#: Of a blob to be written: Python calls its adapters for every `bytes` that it binds, which costs more than this copy.
_Blob = bytearray


def _sealed_tail(columns: JobRow, job: Job) -> bytearray:
    """The packed part of a row of `job` or `outcome`: a `JobRecord` behind its seal, which is of the row's columns, too."""
    # The fields of a record come first in a job; named one by one (`attrgetter`), they take longer than all at once.
    packed = _encode(astuple(job)[:_RECORD])
    return _Blob(_SEAL + crc32(packed, crc32(_encode(columns))).to_bytes(4, "big") + packed)


def _open_tail(columns: JobRow, stored: bytes) -> JobRecord:
    """The packed part of a row with these columns. Raises `RowDamaged`, or what msgspec does."""
    if stored[:1] != _SEAL:
        return _decode_record(stored)
    packed = stored[5:]
    if crc32(packed, crc32(_encode(columns))).to_bytes(4, "big") != stored[1:5]:
        raise RowDamaged("its row does not match its checksum")
    return _decode_record(packed)


def open_sealed_head(n: int, stored: bytes | None) -> tuple[bytes, bytes]:
    """Return (immutable part, packed; checksum of the spec: b"" for a row without). Raises `RowDamaged`."""
    if stored is None:
        raise RowDamaged("its spec is gone")
    if stored[:1] != _SEAL:
        return stored, b""
    if crc32(stored[5:], n & 0xFFFF_FFFF).to_bytes(4, "big") != stored[1:5]:
        raise RowDamaged("what was submitted does not match its checksum")
    return stored[9:], stored[5:9]


def _open_head(n: int, stored: bytes | None) -> tuple[Head, bytes]:
    """Return (immutable part, checksum of the spec). Raises `RowDamaged`, or what msgspec does."""
    packed, check = open_sealed_head(n, stored)
    return _decode_head(packed), check


def checked_body(n: int, head_bytes: bytes, body: bytes) -> bytes:
    """The spec's bytes. Raises `RowDamaged`, or what msgspec does."""
    _, check = _open_head(n, head_bytes)
    if check and crc32(body).to_bytes(4, "big") != check:
        raise RowDamaged("its spec does not match its checksum")
    return bytes(body)


def job_row(n: int, job: Job) -> JobRow:
    """The row that is written once: the columns, then what is packed, what never changes, and the spec."""
    submission = job.submission
    columns = (
        n,
        job.id,
        STATE_NAMES[job.state],
        job.fence,
        job.worker,
        submission.tenant,
        submission.origin,
        submission.alias,
        submission.model,
        submission.pinned,
        job.submitted_at,
    )
    head = seal_head(n, crc32(job.body).to_bytes(4, "big"), (submission, job.deadline_at))
    return *columns, _sealed_tail(columns, job), _Blob(head), _Blob(job.body)


def seal_head(n: int, check: bytes, head: Head | tuple[Submission, float]) -> bytes:
    """Immutable part of row `n`: a `Head`, or its fields, behind its seal, which is of the spec's checksum, too."""
    packed = check + _encode(head)
    return _SEAL + crc32(packed, n & 0xFFFF_FFFF).to_bytes(4, "big") + packed


def outcome_row(n: int, job: Job) -> JobRow:
    """The row of what became of a job since: number, state, fence, worker, what is packed."""
    columns = n, STATE_NAMES[job.state], job.fence, job.worker
    return *columns, _sealed_tail(columns, job)


def decode(row: JobRow) -> Job:
    """A job from its row, with an empty spec from a row that leaves it out (None).

    Raises `ValueError` (`RowDamaged` and all of msgspec's errors are) or `TypeError` when it is damaged.
    """
    n, job_id, state, fence, worker = row[:5]
    submitted_at = row[_SUBMITTED_AT]
    body = row[BODY]
    record = _open_tail(row[:_TAIL], row[_TAIL])
    if row[_NEWER_TAIL] is not None:
        state, fence, worker = row[_STATE : _WORKER + 1]
        record = _open_tail((n, state, fence, worker), row[_NEWER_TAIL])
    head, check = _open_head(n, row[_HEAD])
    if body is not None and check and crc32(body).to_bytes(4, "big") != check:
        raise RowDamaged("its spec does not match its checksum")
    return Job(
        id=job_id,
        submission=head.submission,
        body=b"" if body is None else body,
        deadline_at=head.deadline_at,
        state=_STATES.get(state) or JobState(state),
        fence=fence,
        worker=worker,
        submitted_at=submitted_at,
        **asdict(record),
    )


def salvage(row: JobRow) -> Job:
    """Salvage what can be shown of a row that cannot be decoded: its columns, as far as they make sense."""
    _, job_id, state, fence, worker, tenant, origin, alias, model, pinned, submitted_at = row[:_TAIL]
    if row[_NEWER_TAIL] is not None:
        state, fence, worker = row[_STATE : _WORKER + 1]
    body = row[BODY]
    at = float(submitted_at) if isinstance(submitted_at, int | float) and isfinite(submitted_at) else 0.0
    return Job(
        id=as_text(job_id),
        submission=Submission(
            model=as_text(model),
            tenant=as_text(tenant),
            origin=as_text(origin),
            alias=as_text(alias),
            pinned=as_text(pinned),
        ),
        body=body if isinstance(body, bytes) else b"",
        state=JobState(state) if state in STATE_NAMES.values() else JobState.QUEUED,
        fence=fence if isinstance(fence, int) and fence >= 0 else 0,
        worker=as_text(worker),
        submitted_at=at,
        history=[HistoryEntry(at, "", "queued", "submitted")],
    )


def standing(row: JobRow) -> tuple[str, int]:
    """(state, fence) of a row that `decode` takes, as they stand in it."""
    return (row[2], row[3]) if row[_NEWER_TAIL] is None else (row[_STATE], row[_FENCE])


def as_text(value: object) -> str:
    """A column that should be text, whatever it is."""
    return value if isinstance(value, str) else repr(value)
