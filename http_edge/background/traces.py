"""Traces by OpenTelemetry: each finished job is exported once, as spans made from its history (`trace_spans`).

Of several edges over one home the one that holds `<home>/traces.lock` does it, for all of them. `<home>/traces.json` has up to which end
jobs are exported; it is written after the collector has taken them, so a crash in between sends some again, with the same ids. What ended
while no edge ran, or while events were lost, is looked for in the list of jobs. No request waits for any of this: a collector that does not
answer delays traces alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol

from anyio.to_thread import run_sync

from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError
from broker.wire.jobspec import decode_spec
from broker.wire.messages import JobView
from broker.wire.terms import FINAL_NAMES
from http_edge.background.trace_spans import Span, spans_of
from http_edge.base.errors import EdgeError
from http_edge.jobs.service import JobService

log = logging.getLogger(__name__)

#: Jobs that are exported with one message; jobs that wait for it in memory, beyond which they are looked for again.
_BATCH, _MOST_WAITING = 50, 10_000

#: Ends that may come out of order, and submissions before the last export that are looked for at a start: seconds.
_WINDOW_S, _LOOK_BACK_S = 60.0, 86_400.0

#: Between two attempts: after a message, and after a collector or broker that did not answer.
_PAUSE_S, _LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 5.0, 60.0

_PACKAGE = "opentelemetry.exporter.otlp.proto.http"


class Exporter(Protocol):
    """Sender of spans of the SDK's kind; blocks. `SpanExporter` of opentelemetry-sdk is one."""

    def export(self, spans: Sequence[Any]) -> Any: ...


def otlp_exporter() -> Exporter:
    """An exporter to the endpoint in OTEL_EXPORTER_OTLP_*. Raises `SettingsError` where the package is not installed."""
    try:
        there = importlib.util.find_spec(_PACKAGE) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise SettingsError(
            "traces: true needs opentelemetry-exporter-otlp-proto-http, which is not installed: pip install 'zoetrope[otel]'"
        )
    exporter: Exporter = import_module(f"{_PACKAGE}.trace_exporter").OTLPSpanExporter()
    return exporter


class Traces:
    """Task that exports finished jobs."""

    def __init__(
        self, calls: JobService, exporter: Exporter | None, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """`exporter` None: nothing is exported."""
        self._calls = calls
        self._exporter = exporter
        self._wall_clock = wall_clock
        self._home = calls.settings.home_path
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._look = True
        self._lock: int | None = None
        self._until = 0.0
        #: Jobs that ended in the last `_WINDOW_S` before `_until` and are exported -> when they ended.
        self._done: dict[str, float] = {}

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the caller cancels the task."""
        if self._exporter is None:
            return []
        self._calls.hub.when_changed(self._on_change)
        self._calls.hub.when_gap(self.look_again)
        return [asyncio.create_task(self._run())]

    def _on_change(self, view: JobView) -> None:
        if view.state not in FINAL_NAMES:
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting[view.id] = None
        else:
            self._look = True
        self._wake.set()

    def look_again(self) -> None:
        """Look in the list of jobs for what has ended: events may have been missed."""
        self._look = True
        self._wake.set()

    async def _run(self) -> None:
        retry_s = _LEAST_RETRY_S
        try:
            while True:
                pause_s = _PAUSE_S
                try:
                    await self.turn()
                    retry_s = _LEAST_RETRY_S
                except (EdgeError, OSError, NotTaken) as error:
                    reason = error.message if isinstance(error, EdgeError) else str(error)
                    log.warning("traces wait", extra={"action": Action.TRACES, "reason": reason})
                    pause_s, retry_s = retry_s, min(_MOST_RETRY_S, retry_s * 2)
                await asyncio.sleep(pause_s)
                if self._lock is None:
                    continue
                if not self._waiting and not self._look:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Release the lock, so that another edge does the work."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def turn(self) -> None:
        """Export all that has ended, if this edge is the one that does it. Raises `EdgeError`, `OSError`, `NotTaken`."""
        if not await run_sync(self._has_lock):
            # What ends meanwhile is found in the list of jobs, should it become this edge's work.
            self._waiting.clear()
            self._look = True
            return
        if self._look:
            self._look = False
            try:
                await self._look_for_them()
            except EdgeError:
                self._look = True
                raise
        while self._waiting:
            ids = list(self._waiting)[:_BATCH]
            views = [view for job_id in ids if (view := await self._calls.jobs.view(job_id)) is not None]
            fresh = [view for view in views if view.state in FINAL_NAMES and not view.damaged and self._is_new(view)]
            spans = [span for view in fresh for span in _spans(view)]
            if spans:
                assert self._exporter is not None
                await run_sync(_export, self._exporter, spans)
            for view in fresh:
                self._done[view.id] = view.finished_at
                self._until = max(self._until, view.finished_at)
            self._done = {one: at for one, at in self._done.items() if at > self._until - _WINDOW_S}
            if fresh:
                await run_sync(self._write)
            for job_id in ids:
                self._waiting.pop(job_id, None)

    def _is_new(self, view: JobView) -> bool:
        return view.id not in self._done and view.finished_at > self._until - _WINDOW_S

    async def _look_for_them(self) -> None:
        """Find the jobs that ended and are not exported, the one that ended first first."""
        found: list[JobView] = []
        after, more = "", True
        while more:
            views, more = await self._calls.jobs.views(limit=_BATCH, after=after, states=tuple(sorted(FINAL_NAMES)))
            found += [view for view in views if self._is_new(view)]
            if not views or views[-1].submitted_at < self._until - _LOOK_BACK_S:
                break
            after = views[-1].id
        waiting = {view.id: None for view in sorted(found, key=lambda view: view.finished_at)}
        self._waiting = {**waiting, **self._waiting}

    # ------------------------------------------------------------ on disk; in a thread

    def _has_lock(self) -> bool:
        """Whether this edge is the one that does it; where it has just become that, what is on disk is read. Raises `OSError`."""
        if self._lock is not None:
            return True
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._home / "traces.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        self._read()
        return True

    @property
    def _path(self) -> Path:
        return self._home / "traces.json"

    def _read(self) -> None:
        """Read the mark. Where there is none yet, what has ended before now is not exported."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._until, self._done = float(kept["until"]), {str(one): float(at) for one, at in kept["done"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._until, self._done = self._wall_clock() + _WINDOW_S, {}
            self._write()

    def _write(self) -> None:
        temporary = self._home / ".traces.json.part"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"until": self._until, "done": self._done}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


class NotTaken(Exception):
    """The collector did not take the spans."""


def _spans(view: JobView) -> list[Span]:
    """The spans of a job; none of one whose spec cannot be read, which is of another version."""
    try:
        return spans_of(view, decode_spec(view.body))
    except ValueError:
        return []


def _export(exporter: Exporter, spans: Sequence[Span]) -> None:
    """Send spans. Blocks. Raises `NotTaken`."""
    try:
        answer = exporter.export([_sdk_span(span) for span in spans])
    except Exception as error:  # an exporter is a library of others, and none of its faults is a job's
        raise NotTaken(f"{type(error).__name__}: {error}") from error
    if getattr(answer, "name", "") != "SUCCESS":
        raise NotTaken("the collector did not take the spans")


def _sdk_span(span: Span) -> Any:
    """The span as exporters take it."""
    api: Any = import_module("opentelemetry.trace")
    sdk: Any = import_module("opentelemetry.sdk.trace")

    def context(span_id: str, *, remote: bool) -> Any:
        flags = api.TraceFlags(api.TraceFlags.SAMPLED)
        return api.SpanContext(int(span.trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=flags)

    is_job = "zoetrope.job.id" in span.attributes
    status = api.Status(api.StatusCode.ERROR, span.error[:1000]) if span.error else api.Status(api.StatusCode.UNSET)
    resource: Any = import_module("opentelemetry.sdk.resources").Resource
    return sdk.ReadableSpan(
        name=span.name,
        context=context(span.span_id, remote=False),
        parent=context(span.parent_id, remote=is_job) if span.parent_id else None,
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count before this name.
        resource=resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "zoetrope"}),
        attributes=dict(span.attributes),
        kind=api.SpanKind.SERVER if is_job else api.SpanKind.INTERNAL,
        instrumentation_scope=import_module("opentelemetry.sdk.util.instrumentation").InstrumentationScope(
            "zoetrope", metadata.version("zoetrope")
        ),
        status=status,
        start_time=int(span.start_at * 1e9),
        end_time=int(span.end_at * 1e9),
    )
