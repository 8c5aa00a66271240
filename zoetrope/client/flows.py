"""Every operation of the client, written once and without a socket: a generator that yields `steps` and is sent their outcomes."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from zoetrope.client.errors import (
    DigestMismatch,
    NotReady,
    ServiceUnreachable,
    WaitTimeout,
    ZoetropeError,
)
from zoetrope.client.requests import (
    STREAM_TIMEOUT_S,
    FileSource,
    Reply,
    Request,
    error_of,
    get,
    segment,
    submission,
    uploading,
)
from zoetrope.client.results import (
    Artefact,
    DownloadedFile,
    Health,
    Job,
    JobEvent,
    Listed,
    Model,
    Outcome,
    Page,
    Queue,
    R,
    UploadedFile,
    Worker,
    checked,
    convert,
    decode,
)
from zoetrope.client.retries import RetryPolicy
from zoetrope.client.sse import EventParser
from zoetrope.client.steps import Close, ConnectionBroken, Emit, Flow, Notify, Open, Read, Send, Sleep

#: Jobs requested at once while a list is walked.
_PAGE = 100

#: Ids of events that are revisions of a job.
_REVISION = re.compile("[0-9]{1,18}")

#: Bytes of a partial file that are read at once to go on with its digest.
_BLOCK = 1 << 20


class Flows:
    """The operations, for clients of one retry policy."""

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._wall = wall

    def send(self, request: Request) -> Flow[Reply]:
        """The answer to a request, tried again by the policy. Raises `ServiceError`, `ServiceUnreachable`."""
        failures = 0
        while True:
            try:
                reply: Reply = yield Send(request)
            except ConnectionBroken as broken:
                failures += 1
                delay = self._policy.after_break(
                    failures, self._draw(), repeatable=request.repeatable, sent=broken.sent
                )
                if delay is None:
                    raise ServiceUnreachable(str(broken)) from broken
            else:
                if reply.ok:
                    return reply
                failures += 1
                delay = self._delay(reply, failures, repeatable=request.repeatable)
                if delay is None:
                    raise error_of(reply, self._wall())
            yield Sleep(delay)

    def _delay(self, reply: Reply, failures: int, *, repeatable: bool) -> float | None:
        return self._policy.after_reply(
            reply.status, reply.headers, failures, self._draw(), repeatable=repeatable, now=self._wall()
        )

    def object(self, kind: type[R], request: Request) -> Flow[R]:
        """The answer as a result."""
        reply = yield from self.send(request)
        return convert(kind, decode(reply.body))

    def document(self, request: Request) -> Flow[dict[str, Any]]:
        """The answer's object as it came."""
        reply = yield from self.send(request)
        return decode(reply.body)

    # jobs

    def submit(self, prompt: str, fields: Mapping[str, Any], key: str | None = None) -> Flow[Job]:
        """Submit a job: one, however often the request is sent."""
        return (yield from self.object(Job, submission(prompt, fields, key)))

    def job(self, job_id: str) -> Flow[Job]:
        """A job as it is now, with its history."""
        return (yield from self.object(Job, get(f"/v1/jobs/{segment(job_id)}")))

    def jobs(
        self, *, limit: int | None, on_search: Callable[[float], Any] | None, **query: str | float | None
    ) -> Flow[None]:
        """Emit jobs page by page, at most `limit`. `query`: of `GET /v1/jobs`; `on_search`: called with how far was searched, Unix time."""
        after, left = None, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            reply = yield from self.send(get("/v1/jobs", limit=size, after=after, **query))
            page = checked(Page, decode(reply.body))
            for one in page.data:
                yield Emit(convert(Job, one))
            left = None if left is None else left - len(page.data)
            after = page.last_id
            if not page.has_more or after is None:
                return
            if on_search is not None and page.searched_to is not None:
                yield Notify(on_search, page.searched_to)

    def control(self, job: Job | str, action: str) -> Flow[Outcome]:
        """Cancel, pause, resume or commit a job; outcome and job."""
        job_id = _id(job)
        body = yield from self.document(Request(method="POST", path=f"/v1/jobs/{segment(job_id)}/{action}"))
        made = convert(Outcome, body)
        made.job.raw = body["job"]
        return made

    def delete(self, job_id: str) -> Flow[None]:
        """Delete a job, record and files; one that is not over is cancelled first."""
        yield from self.send(Request(method="DELETE", path=f"/v1/jobs/{segment(job_id)}", query={"purge": "true"}))

    def events(self, job: Job | str, after: int = 0, timeout_s: float | None = None) -> Flow[None]:
        """Emit the changes of a job until it is final, over as many connections as it takes.

        `timeout_s` ends the iteration, too. Raises `ServiceUnreachable` after an outage longer than the policy's.
        """
        path = f"/v1/jobs/{segment(_id(job))}/events"
        deadline = None if timeout_s is None else self._clock() + timeout_s
        last: Job | None = None
        failures, last_event_at = 0, self._clock()
        while True:
            silence_s = STREAM_TIMEOUT_S if deadline is None else min(STREAM_TIMEOUT_S, deadline - self._clock())
            if silence_s <= 0:
                return
            headers = {
                "Accept": "text/event-stream",
                "Accept-Encoding": "identity",
                **({"Last-Event-ID": str(after)} if after else {}),
            }
            pause_s = self._policy.first_s
            try:
                reply: Reply = yield Open(Request(method="GET", path=path, headers=headers, timeout_s=silence_s))
                if reply.status == 204:
                    return
                if not reply.ok:
                    failures += 1
                    delay = self._delay(reply, min(failures, self._policy.most), repeatable=True)
                    if delay is None or self._clock() - last_event_at > self._policy.outage_s:
                        raise error_of(reply, self._wall())
                    pause_s = delay
                else:
                    parser = EventParser()
                    while (chunk := (yield Read())) is not None:
                        failures, last_event_at = 0, self._clock()
                        for event in parser.feed(chunk):
                            last = _after(last, event.name, event.data)
                            revision = int(event.id) if _REVISION.fullmatch(event.id) else 0
                            after = revision or after
                            yield Emit(JobEvent(name=event.name, revision=revision, job=last))
                            if last.is_final:
                                yield Close()
                                return
                        if deadline is not None and self._clock() >= deadline:
                            yield Close()
                            return
                    # The service closed the stream before the end of the job: it restarts, or lost its broker.
            except ConnectionBroken as broken:
                failures += 1
                if self._clock() - last_event_at > self._policy.outage_s:
                    raise ServiceUnreachable(str(broken)) from broken
                pause_s = self._policy.pause(failures, self._draw())
            yield Sleep(pause_s)

    def wait(self, job: Job | str, timeout_s: float | None, on_progress: Callable[[Job], Any] | None) -> Flow[Job]:
        """The job once it is final, in full. Raises `WaitTimeout`."""
        job_id = _id(job)
        flow = self.events(job_id, timeout_s=timeout_s)
        outcome: Any = None
        broken: ConnectionBroken | None = None
        while True:
            try:
                step = flow.send(outcome) if broken is None else flow.throw(broken)
            except StopIteration:
                break
            outcome = broken = None
            if not isinstance(step, Emit):
                try:
                    outcome = yield step
                except ConnectionBroken as error:
                    broken = error
            elif on_progress is not None:
                yield Notify(on_progress, step.item.job)
        found = yield from self.job(job_id)
        if not found.is_final:
            waited = "when its events end" if timeout_s is None else f"after {timeout_s:g} s"
            raise WaitTimeout(f"job {job_id} is {found.state} {waited}; it goes on", found)
        return found

    def generate(
        self,
        prompt: str,
        fields: Mapping[str, Any],
        to: Path | None,
        timeout_s: float | None,
        on_progress: Callable[[Job], Any] | None,
        key: str | None,
    ) -> Flow[Job]:
        """Submit a job, wait for it, and download its first file. Raises `JobFailed`, `JobCancelled`, `WaitTimeout`."""
        job = yield from self.submit(prompt, fields, key)
        if on_progress is not None:
            yield Notify(on_progress, job)
        job = (yield from self.wait(job, timeout_s, on_progress)).raise_for_state()
        if to is not None:
            yield from self.download(job, to, None)
        return job

    # files

    def download(self, job: Job | str, to: Path, name: str | None) -> Flow[DownloadedFile]:
        """Fetch a file of a job to a path, or into a directory, and check its digest.

        A job without files is requested anew: it may have ended since. The file grows beside its place under a name of its own; a
        partial one is continued. Raises `DigestMismatch`, `NotReady`.
        """
        known = job if isinstance(job, Job) and job.artefacts else (yield from self.job(_id(job)))
        try:
            return (yield from self._downloaded(known, _artefact(known, name), to))
        except OSError as error:
            raise ZoetropeError(f"{to} cannot be written to: {error.strerror or error}") from error

    def _downloaded(self, known: Job, artefact: Artefact, to: Path) -> Flow[DownloadedFile]:
        target = to / artefact.name if to.is_dir() else to
        partial = target.with_name(f".{target.name}.{artefact.sha256[:16]}.part")
        # As it lies on the disk: a partial one is continued byte by byte.
        request = msgspec.structs.replace(
            get(f"/v1/jobs/{segment(known.id)}/result", name=artefact.name), headers={"Accept-Encoding": "identity"}
        )
        failures = 0
        while True:
            try:
                reply = yield from _fetch(request, partial, artefact)
            except ConnectionBroken as broken:
                failures += 1
                delay = self._policy.after_break(failures, self._draw(), repeatable=True, sent=True)
                if delay is None:
                    raise ServiceUnreachable(f"{broken}; the same download goes on from {partial}") from broken
            else:
                if reply is None:
                    break
                failures += 1
                delay = self._delay(reply, failures, repeatable=True)
                if delay is None:
                    raise error_of(reply, self._wall())
            yield Sleep(delay)
        digest = _digest(partial)
        if digest != artefact.sha256:
            partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"{artefact.name} of job {known.id} came with other bytes than were made; download it again"
            )
        partial.replace(target)
        return DownloadedFile(path=str(target), size=artefact.size, sha256=digest)

    def upload(self, file: FileSource, purpose: str, name: str) -> Flow[UploadedFile]:
        """Keep a file on the service."""
        return (yield from self.object(UploadedFile, uploading(file, purpose, name)))

    # the service

    def models(self) -> Flow[list[Model]]:
        """Every model that a worker can run."""
        body = yield from self.document(get("/v1/models"))
        return [convert(Model, one) for one in checked(Listed, body).data]

    def workers(self) -> Flow[list[Worker]]:
        """Every worker."""
        body = yield from self.document(get("/v1/workers"))
        return [convert(Worker, one) for one in checked(Listed, body).data]

    def queue(self) -> Flow[Queue]:
        """The queue in numbers."""
        body = yield from self.document(get("/v1/workers"))
        return convert(Queue, body.get("queue", {}))

    def health(self) -> Flow[Health]:
        """Whether a job sent now could run; a negative answer is no error."""
        try:
            reply: Reply = yield Send(get("/health"))
        except ConnectionBroken as broken:
            raise ServiceUnreachable(str(broken)) from broken
        if not reply.ok and reply.status != 503:
            raise error_of(reply, self._wall())
        return convert(Health, decode(reply.body))


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id


def _after(last: Job | None, name: str, data: str) -> Job:
    """The job after an event: "state" brings it whole, "progress" what moved."""
    members = decode(data.encode())
    if name != "state" and last is not None:
        members = {**last.raw, **members}
    return convert(Job, members)


def _artefact(job: Job, name: str | None) -> Artefact:
    """The file to fetch, the first without a name. Raises `NotReady`, `ZoetropeError`."""
    if not job.artefacts:
        raise NotReady(f"job {job.id} is {job.state} and has no files", status=404, code="not_ready")
    found = next((one for one in job.artefacts if name in (None, one.name)), None)
    if found is None:
        names = ", ".join(one.name for one in job.artefacts)
        raise ZoetropeError(f"job {job.id} has no file {name!r}; it has {names}")
    return found


def _fetch(request: Request, partial: Path, artefact: Artefact) -> Flow[Reply | None]:
    """Append what is missing of the file; the answer where it was refused, None where all of it is there."""
    here = partial.stat().st_size if partial.exists() else 0
    if here == artefact.size:
        return None
    if 0 < here < artefact.size:
        more = {**request.headers, "Range": f"bytes={here}-", "If-Range": f'"{artefact.sha256}"'}
        request = msgspec.structs.replace(request, headers=more)
    reply: Reply = yield Open(request)
    if not reply.ok:
        return reply
    with open(partial, "ab" if reply.status == 206 else "wb") as file:
        while (chunk := (yield Read())) is not None:
            file.write(chunk)
    if partial.stat().st_size < artefact.size:
        raise ConnectionBroken(f"{artefact.name} ended early", sent=True)
    return None


def _digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
