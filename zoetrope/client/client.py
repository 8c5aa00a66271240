"""The two clients: `Client` blocks, `AsyncClient` awaits. Both carry out the flows of `flows` over httpx and know nothing else.

Methods say the same in both, and raise `ServiceError` (the service refused), `ServiceUnreachable` (no answer) or an error of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import httpx

from zoetrope.client.flows import (
    Close,
    ConnectionBroken,
    Emit,
    Flow,
    Flows,
    Notify,
    Open,
    Read,
    Send,
    Sleep,
    Step,
    Walk,
)
from zoetrope.client.requests import (
    Address,
    FileSource,
    Reply,
    Request,
    address,
    draining,
    estimating,
    reading_credentials,
    reading_recipe,
    reading_usage,
    undraining,
)
from zoetrope.client.results import (
    Credentials,
    DownloadedFile,
    Estimate,
    Health,
    Job,
    JobEvent,
    Model,
    Outcome,
    Queue,
    Recipe,
    UploadedFile,
    Usage,
    Worker,
)
from zoetrope.client.retries import RetryPolicy

T = TypeVar("T")

#: Seconds until a connection is there.
_CONNECT_S = 5.0

#: Called with the job whenever it moves.
OnProgress = Callable[[Job], Any]
OnSearch = Callable[[float], Any]


def _options(place: Address) -> dict[str, Any]:
    """Options of both of httpx's clients."""
    # A proxy of the environment does not lead to this machine.
    return {"base_url": place.url, "headers": place.headers, "trust_env": not place.is_local, "follow_redirects": False}


def _arguments(request: Request, opened: ExitStack) -> dict[str, Any]:
    """httpx's words for a request; its files are opened, anew for every try."""
    files = []
    for part in request.files:
        source = part.source
        if isinstance(source, Path):
            source = opened.enter_context(source.open("rb"))
        elif hasattr(source, "seek"):
            source.seek(0)
        files.append((part.field, (part.name, source, part.media_type)))
    body = {} if request.fields is None else {"data" if files else "json": request.fields}
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "headers": request.headers,
        "timeout": httpx.Timeout(request.timeout_s, connect=min(_CONNECT_S, request.timeout_s)),
        **({"files": files} if files else {}),
        **body,
    }


def _reply(response: httpx.Response, *, read: bool) -> Reply:
    return Reply(status=response.status_code, headers=dict(response.headers), body=response.content if read else b"")


def _broken(base: str, error: httpx.TransportError) -> ConnectionBroken:
    never = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
    why = str(error) or type(error).__name__
    return ConnectionBroken(f"the service at {base} cannot be reached: {why}", sent=not isinstance(error, never))


class _Session:
    """Carries out the steps of one flow, blocking."""

    def __init__(self, http: httpx.Client, base: str) -> None:
        self._http = http
        self._base = base
        self._stream: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def do(self, step: Step) -> Any:
        """The outcome of a step. Raises `ConnectionBroken`."""
        try:
            match step:
                case Send(request):
                    with ExitStack() as opened:
                        return _reply(self._http.request(**_arguments(request, opened)), read=True)
                case Open(request):
                    self.close()
                    with ExitStack() as opened:
                        response = self._http.send(self._http.build_request(**_arguments(request, opened)), stream=True)
                    self._stream, self._chunks = response, response.iter_bytes()
                    if response.status_code >= 400:
                        response.read()
                    return _reply(response, read=response.status_code >= 400)
                case Read():
                    return next(self._chunks, None)
                case Close():
                    self.close()
                case Sleep(seconds):
                    time.sleep(seconds)
                case Notify(callback, value):
                    callback(value)
        except httpx.TransportError as error:
            self.close()
            raise _broken(self._base, error) from error
        return None

    def close(self) -> None:
        """Close the open stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _AsyncSession:
    """Carries out the steps of one flow, awaiting."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self._http = http
        self._base = base
        self._stream: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def do(self, step: Step) -> Any:
        """The outcome of a step. Raises `ConnectionBroken`."""
        try:
            match step:
                case Send(request):
                    with ExitStack() as opened:
                        return _reply(await self._http.request(**_arguments(request, opened)), read=True)
                case Open(request):
                    await self.close()
                    with ExitStack() as opened:
                        made = self._http.build_request(**_arguments(request, opened))
                        response = await self._http.send(made, stream=True)
                    self._stream, self._chunks = response, response.aiter_bytes()
                    if response.status_code >= 400:
                        await response.aread()
                    return _reply(response, read=response.status_code >= 400)
                case Read():
                    return await anext(self._chunks, None) if self._chunks is not None else None
                case Close():
                    await self.close()
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Notify(callback, value):
                    told = callback(value)
                    if inspect.isawaitable(told):
                        await told
        except httpx.TransportError as error:
            await self.close()
            raise _broken(self._base, error) from error
        return None

    async def close(self) -> None:
        """Close the open stream."""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None


class Client:
    """A client that blocks. May be used by several threads; close it, or use it in a `with` block."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retries: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` and `api_key` default to ZOETROPE_URL (else this machine, port 8000) and ZOETROPE_API_KEY."""
        place = address(url, api_key)
        self.url = place.url
        self._http = httpx.Client(transport=transport, **_options(place))
        self._flows = Flows(retries or RetryPolicy())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _iterate(self, walk: Walk[Any]) -> Iterator[Any]:
        session = _Session(self._http, self.url)
        try:
            step = walk.give()
            while step is not None:
                if isinstance(step, Emit):
                    yield step.item
                    step = walk.give()
                    continue
                try:
                    outcome = session.do(step)
                except ConnectionBroken as error:
                    step = walk.fail(error)
                else:
                    step = walk.give(outcome)
        finally:
            session.close()

    def _run(self, flow: Flow[T]) -> T:
        walk = Walk(flow)
        for _ in self._iterate(walk):
            pass
        return walk.result

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Submit a job with the fields of `POST /v1/jobs`; one job, however often the request had to be sent.

        A `Path`, bytes or an open file as `image` (or another input) is uploaded; text is a path, URL or file id that the service reads.
        """
        return self._run(self._flows.submit(prompt, fields, idempotency_key))

    def generate(
        self,
        prompt: str,
        *,
        to: str | Path | None = None,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit a job, wait for it, and download its first file to `to`. Raises `JobFailed`, `JobCancelled`, `WaitTimeout`."""
        place = None if to is None else Path(to)
        return self._run(self._flows.generate(prompt, fields, place, timeout_s, on_progress, idempotency_key))

    def wait(self, job: Job | str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Job:
        """The job once it is final, however it ended (`Job.raise_for_state`). Raises `WaitTimeout`; the job goes on then."""
        return self._run(self._flows.wait(job, timeout_s, on_progress))

    def job(self, job_id: str) -> Job:
        """A job as it is now, with its history."""
        return self._run(self._flows.job(job_id))

    def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        worker: str | None = None,
        prompt: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order: str = "desc",
        limit: int | None = None,
        on_search: OnSearch | None = None,
    ) -> Iterator[Job]:
        """Jobs, the newest first, page by page. `state`: one or several, with commas; `prompt`: a text in theirs; `since` and `until`:
        Unix seconds of their submission; `limit`: at most so many in all. `on_search` is called with a Unix time, of the jobs that a
        long search has come to."""
        words = {"state": state, "model": model, "worker": worker, "prompt": prompt, "order": order}
        flow = self._flows.jobs(limit=limit, on_search=on_search, since=since, until=until, **words)
        return cast(Iterator[Job], self._iterate(Walk(flow)))

    def events(self, job: Job | str, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Changes of a job until it is final; goes on over broken connections. `after`: the revision seen last;
        `timeout_s` ends the iteration, too."""
        walk = Walk(self._flows.events(job, after, timeout_s))
        return cast(Iterator[JobEvent], self._iterate(walk))

    def cancel(self, job: Job | str) -> Outcome:
        """Cancel a job; it is on disk when this returns."""
        return self._run(self._flows.control(job, "cancel"))

    def pause(self, job: Job | str) -> Outcome:
        """Let a job wait; one that is drawn, by a model that resumes, leaves its engine after its next step and keeps what it drew."""
        return self._run(self._flows.control(job, "pause"))

    def resume(self, job: Job | str) -> Outcome:
        """Let a paused job go on from where it was."""
        return self._run(self._flows.control(job, "resume"))

    def commit(self, job: Job | str) -> Outcome:
        """Let a draft (a job with `draft_steps`) be drawn to its end."""
        return self._run(self._flows.control(job, "commit"))

    def delete(self, job: Job | str) -> None:
        """Delete a job, record and files; one that is not over is cancelled first."""
        self._run(self._flows.delete(job if isinstance(job, str) else job.id))

    def download(self, job: Job | str, to: str | Path = ".", *, name: str | None = None) -> DownloadedFile:
        """Fetch a file of a job (the first, or `name`) to a path or into a directory; goes on where it broke off, and checks the digest."""
        return self._run(self._flows.download(job, Path(to), name))

    def upload(self, file: FileSource, *, purpose: str = "user_data", name: str = "") -> UploadedFile:
        """Keep a file on the service: a `Path`, bytes or an open file. Its id can be named wherever an image or a clip is taken."""
        return self._run(self._flows.upload(file, purpose, name))

    def estimate(self, **fields: Any) -> Estimate:
        """Estimate when a job with these fields would start and be done, without submitting it."""
        return self._run(self._flows.object(Estimate, estimating(fields)))

    def recipe(self, file: FileSource) -> Recipe:
        """Read the recipe in a file of a job: `submit(**recipe.request)` draws it again."""
        return self._run(self._flows.object(Recipe, reading_recipe(file)))

    def credentials(self, file: FileSource) -> Credentials:
        """Whether a file's content credentials (C2PA) hold, and what they say."""
        return self._run(self._flows.object(Credentials, reading_credentials(file)))

    def models(self) -> list[Model]:
        """Every model that a worker can run."""
        return self._run(self._flows.models())

    def workers(self) -> list[Worker]:
        """Every worker."""
        return self._run(self._flows.workers())

    def drain(self, worker: str, *, hand_back: bool = False, even_last: bool = False) -> Worker:
        """Let a worker finish what it holds and leave; `workers` shows it until then. `hand_back`: jobs go on elsewhere, where they can;
        `even_last`: also when it is the last one."""
        return self._run(self._flows.object(Worker, draining(worker, hand_back, even_last)))

    def undrain(self, worker: str) -> Worker:
        """Give a worker that drains, and has not left, work again."""
        return self._run(self._flows.object(Worker, undraining(worker)))

    def usage(self, first_day: str | None = None, last_day: str | None = None, *, by: str = "day") -> Usage:
        """Get the usage by "day", "tenant", "key", "model" or several with commas. Days as 2026-11-28, UTC; default the last 30."""
        return self._run(self._flows.object(Usage, reading_usage(first_day, last_day, by)))

    def queue(self) -> Queue:
        """The queue in numbers."""
        return self._run(self._flows.queue())

    def health(self) -> Health:
        """Whether a job sent now could run; not tried again."""
        return self._run(self._flows.health())

    def request(self, method: str, path: str, fields: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """The JSON of any route, for those that have no method here; POST is not sent again once the service may have had it."""
        request = Request(method=method, path=path, query=query, fields=fields, repeatable=method != "POST")
        return self._run(self._flows.document(request))


class AsyncClient:
    """A client for asyncio: as `Client`, awaited. `on_progress` may be a coroutine function."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retries: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`url` and `api_key` default to ZOETROPE_URL (else this machine, port 8000) and ZOETROPE_API_KEY."""
        place = address(url, api_key)
        self.url = place.url
        self._http = httpx.AsyncClient(transport=transport, **_options(place))
        self._flows = Flows(retries or RetryPolicy())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _iterate(self, walk: Walk[Any]) -> AsyncIterator[Any]:
        session = _AsyncSession(self._http, self.url)
        try:
            step = walk.give()
            while step is not None:
                if isinstance(step, Emit):
                    yield step.item
                    step = walk.give()
                    continue
                try:
                    outcome = await session.do(step)
                except ConnectionBroken as error:
                    step = walk.fail(error)
                else:
                    step = walk.give(outcome)
        finally:
            await session.close()

    async def _run(self, flow: Flow[T]) -> T:
        walk = Walk(flow)
        async for _ in self._iterate(walk):
            pass
        return walk.result

    async def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """As `Client.submit`."""
        return await self._run(self._flows.submit(prompt, fields, idempotency_key))

    async def generate(
        self,
        prompt: str,
        *,
        to: str | Path | None = None,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """As `Client.generate`."""
        place = None if to is None else Path(to)
        return await self._run(self._flows.generate(prompt, fields, place, timeout_s, on_progress, idempotency_key))

    async def wait(
        self, job: Job | str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """As `Client.wait`."""
        return await self._run(self._flows.wait(job, timeout_s, on_progress))

    async def job(self, job_id: str) -> Job:
        """As `Client.job`."""
        return await self._run(self._flows.job(job_id))

    def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        worker: str | None = None,
        prompt: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order: str = "desc",
        limit: int | None = None,
        on_search: OnSearch | None = None,
    ) -> AsyncIterator[Job]:
        """As `Client.jobs`, for `async for`."""
        words = {"state": state, "model": model, "worker": worker, "prompt": prompt, "order": order}
        return self._iterate(
            Walk(self._flows.jobs(limit=limit, on_search=on_search, since=since, until=until, **words))
        )

    def events(self, job: Job | str, *, after: int = 0, timeout_s: float | None = None) -> AsyncIterator[JobEvent]:
        """As `Client.events`, for `async for`."""
        return self._iterate(Walk(self._flows.events(job, after, timeout_s)))

    async def cancel(self, job: Job | str) -> Outcome:
        """As `Client.cancel`."""
        return await self._run(self._flows.control(job, "cancel"))

    async def pause(self, job: Job | str) -> Outcome:
        """As `Client.pause`."""
        return await self._run(self._flows.control(job, "pause"))

    async def resume(self, job: Job | str) -> Outcome:
        """As `Client.resume`."""
        return await self._run(self._flows.control(job, "resume"))

    async def commit(self, job: Job | str) -> Outcome:
        """As `Client.commit`."""
        return await self._run(self._flows.control(job, "commit"))

    async def delete(self, job: Job | str) -> None:
        """As `Client.delete`."""
        await self._run(self._flows.delete(job if isinstance(job, str) else job.id))

    async def download(self, job: Job | str, to: str | Path = ".", *, name: str | None = None) -> DownloadedFile:
        """As `Client.download`."""
        return await self._run(self._flows.download(job, Path(to), name))

    async def upload(self, file: FileSource, *, purpose: str = "user_data", name: str = "") -> UploadedFile:
        """As `Client.upload`."""
        return await self._run(self._flows.upload(file, purpose, name))

    async def estimate(self, **fields: Any) -> Estimate:
        """As `Client.estimate`."""
        return await self._run(self._flows.object(Estimate, estimating(fields)))

    async def recipe(self, file: FileSource) -> Recipe:
        """As `Client.recipe`."""
        return await self._run(self._flows.object(Recipe, reading_recipe(file)))

    async def credentials(self, file: FileSource) -> Credentials:
        """As `Client.credentials`."""
        return await self._run(self._flows.object(Credentials, reading_credentials(file)))

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._run(self._flows.models())

    async def workers(self) -> list[Worker]:
        """As `Client.workers`."""
        return await self._run(self._flows.workers())

    async def drain(self, worker: str, *, hand_back: bool = False, even_last: bool = False) -> Worker:
        """As `Client.drain`."""
        return await self._run(self._flows.object(Worker, draining(worker, hand_back, even_last)))

    async def undrain(self, worker: str) -> Worker:
        """As `Client.undrain`."""
        return await self._run(self._flows.object(Worker, undraining(worker)))

    async def usage(self, first_day: str | None = None, last_day: str | None = None, *, by: str = "day") -> Usage:
        """As `Client.usage`."""
        return await self._run(self._flows.object(Usage, reading_usage(first_day, last_day, by)))

    async def queue(self) -> Queue:
        """As `Client.queue`."""
        return await self._run(self._flows.queue())

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._run(self._flows.health())

    async def request(
        self, method: str, path: str, fields: dict[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        """As `Client.request`."""
        request = Request(method=method, path=path, query=query, fields=fields, repeatable=method != "POST")
        return await self._run(self._flows.document(request))
