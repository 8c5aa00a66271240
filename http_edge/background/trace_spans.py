"""A finished job as the spans of a trace, made from its history. Pure: the same job gives the same spans with the same ids.

The job's own span is the one that the answer to its request named (`traceparent`), below the client's. Under it lie the times that it
waited, its attempts, and in the last attempt the phases that its engine measured, one behind the other, and what came after them until the
result was on record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from msgspec import Struct

from broker.wire.jobspec import PHASES, JobSpec, Result
from broker.wire.messages import JobView
from broker.wire.terms import HELD_NAMES

Value: TypeAlias = "str | int | float | bool"

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

#: State of a job -> name of the span of the time that it spends in it.
_WAITS = {"queued": "wait", "delayed": "wait before a retry", "parked": "parked"}


class Span(Struct, frozen=True, kw_only=True):
    """A span. Times are Unix seconds, ids hex digits; `parent_id` "" has none, and `error` "" no error."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_at: float
    end_at: float
    attributes: dict[str, Value] = {}
    error: str = ""


class _Stay(Struct):
    """A stretch of a job's history: waiting, or with a worker."""

    state: str
    start_at: float
    end_at: float
    worker: str = ""
    attempt: int = 0
    cause: str = ""
    note: str = ""
    target: str = ""


def spans_of(view: JobView, spec: JobSpec) -> list[Span]:
    """The spans of a final job, its own first; none where its request was not sampled, or is of no trace."""
    match = _TRACEPARENT.fullmatch(spec.traceparent)
    if match is None or not int(match[3], 16) & 1:
        return []
    trace_id, root_id = match[1], match[2]
    failed = view.failure.message or view.failure.kind if view.state == "failed" and view.failure else ""
    root = Span(
        name=f"generate_content {spec.model}",
        trace_id=trace_id,
        span_id=root_id,
        parent_id=spec.parent_span,
        start_at=view.submitted_at,
        end_at=max(view.submitted_at, view.finished_at),
        attributes=_of_job(view, spec),
        error=failed,
    )
    below: list[Span] = []

    def add(name: str, parent_id: str, start_at: float, end_at: float, error: str = "", **attributes: Value) -> str:
        digest = hashlib.blake2b(f"{view.id}/{len(below)}".encode(), digest_size=8).hexdigest()
        named = {f"zoetrope.{key}": value for key, value in attributes.items() if value not in ("", 0)}
        below.append(
            Span(
                name=name,
                trace_id=trace_id,
                span_id=digest,
                parent_id=parent_id,
                start_at=start_at,
                end_at=max(start_at, end_at),
                attributes=named,
                error=error,
            )
        )
        return digest

    stays = list(_stays(view))
    for stay in stays:
        if stay.state in _WAITS:
            add(_WAITS[stay.state], root_id, stay.start_at, stay.end_at)
            continue
        broken = "" if stay.target in ("succeeded", "cancelled", "parked") else stay.note or stay.cause
        attempt_id = add(
            f"attempt {stay.attempt}",
            root_id,
            stay.start_at,
            stay.end_at,
            broken,
            attempt=stay.attempt,
            worker=stay.worker,
            cause=stay.cause,
        )
        if stay is stays[-1] and view.result is not None:
            _add_phases(view, view.result, stay, partial(_below, add, attempt_id))
    return [root, *below]


def _add_phases(view: JobView, result: Result, stay: _Stay, add: Callable[[str, float, float], object]) -> None:
    at = max(stay.start_at, view.started_at)
    for phase in sorted(result.stage_durations, key=_rank):
        seconds = result.stage_durations[phase]
        add(phase, at, min(at + seconds, stay.end_at))
        at = min(at + seconds, stay.end_at)
    add("publish", at, stay.end_at)


def _below(add: Callable[..., str], parent_id: str, name: str, start_at: float, end_at: float) -> str:
    return add(name, parent_id, start_at, end_at)


def _rank(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


def _stays(view: JobView) -> Iterator[_Stay]:
    """The stretches of a history, in order: what is between two moves, `assigned` and `running` of one attempt as one."""
    open_stay: _Stay | None = None
    for move in view.history:
        if open_stay is not None:
            held = open_stay.state in HELD_NAMES and move.target in HELD_NAMES
            if held:
                open_stay.attempt = move.attempt or open_stay.attempt
                open_stay.worker = move.worker or open_stay.worker
                continue
            open_stay.end_at, open_stay.cause = move.at, move.cause
            open_stay.note, open_stay.target = move.note, move.target
            open_stay.attempt = open_stay.attempt or move.attempt
            yield open_stay
        known = move.target in _WAITS or move.target in HELD_NAMES
        open_stay = (
            _Stay(state=move.target, start_at=move.at, end_at=move.at, worker=move.worker, attempt=move.attempt)
            if known
            else None
        )


def _of_job(view: JobView, spec: JobSpec) -> dict[str, Value]:
    """Attributes by OpenTelemetry's conventions for generative AI, and this service's own."""
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "zoetrope",
        "gen_ai.request.model": spec.model,
        "gen_ai.output.type": spec.output,
        "gen_ai.request.seed": spec.seed,
        "gen_ai.request.choice.count": spec.num_outputs,
        "zoetrope.job.id": view.id,
        "zoetrope.job.state": view.state,
        "zoetrope.job.attempts": view.attempts,
        "zoetrope.job.steps": spec.num_inference_steps,
        "zoetrope.job.width": spec.width,
        "zoetrope.job.height": spec.height,
        "zoetrope.job.frames": spec.num_frames,
    }
    if view.submission.tenant:
        attributes["zoetrope.tenant"] = view.submission.tenant
    if view.failure is not None and view.state == "failed":
        attributes["error.type"] = str(view.failure.kind)
    return attributes
