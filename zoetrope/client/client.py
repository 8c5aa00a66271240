"""The two clients: `Client` blocks, `AsyncClient` awaits. Each method is a flow of `flows`, which a `connection` carries out.

Methods are the same in both, and raise `ServiceError` (the service refused), `ServiceUnreachable` (no answer) or an error of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from zoetrope.client.connection import AsyncConnection, Connection
from zoetrope.client.flows import Flows
from zoetrope.client.requests import (
    FileSource,
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

#: Called with the job whenever it moves.
OnProgress = Callable[[Job], Any]
OnSearch = Callable[[float], Any]


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
        self._connection = Connection(place, transport)
        self._flows = Flows(retries or RetryPolicy())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Submit a job with the fields of `POST /v1/jobs`; one job, however often the request had to be sent.

        A `Path`, bytes or an open file as `image` (or another input) is uploaded; text is a path, URL or file id that the service reads.
        """
        return self._connection.run(self._flows.submit(prompt, fields, idempotency_key))

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
        return self._connection.run(
            self._flows.generate(prompt, fields, place, timeout_s, on_progress, idempotency_key)
        )

    def wait(self, job: Job | str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Job:
        """The job once it is final, however it ended (`Job.raise_for_state`). Raises `WaitTimeout`; the job goes on then."""
        return self._connection.run(self._flows.wait(job, timeout_s, on_progress))

    def job(self, job_id: str) -> Job:
        """A job as it is now, with its history."""
        return self._connection.run(self._flows.job(job_id))

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
        """Jobs, the newest first, page by page. `state`: one or several, with commas; `prompt`: a text in their prompts; `since` and
        `until`: Unix seconds of their submission; `limit`: at most so many in all. `on_search` is called in a long search with the Unix
        time that it has come to."""
        filters = {"state": state, "model": model, "worker": worker, "prompt": prompt, "order": order}
        flow = self._flows.jobs(limit=limit, on_search=on_search, since=since, until=until, **filters)
        return self._connection.iterate(flow)

    def events(self, job: Job | str, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Changes of a job until it is final; goes on over broken connections. `after`: the revision seen last;
        `timeout_s` ends the iteration, too."""
        return self._connection.iterate(self._flows.events(job, after, timeout_s))

    def cancel(self, job: Job | str) -> Outcome:
        """Cancel a job; it is on disk when this returns."""
        return self._connection.run(self._flows.control(job, "cancel"))

    def pause(self, job: Job | str) -> Outcome:
        """Let a job wait; one that is drawn, by a model that resumes, leaves its engine after its next step and keeps what it drew."""
        return self._connection.run(self._flows.control(job, "pause"))

    def resume(self, job: Job | str) -> Outcome:
        """Let a paused job go on from where it was."""
        return self._connection.run(self._flows.control(job, "resume"))

    def commit(self, job: Job | str) -> Outcome:
        """Let a draft (a job with `draft_steps`) be drawn to its end."""
        return self._connection.run(self._flows.control(job, "commit"))

    def delete(self, job: Job | str) -> None:
        """Delete a job, record and files; one that is not over is cancelled first."""
        self._connection.run(self._flows.delete(job if isinstance(job, str) else job.id))

    def download(self, job: Job | str, to: str | Path = ".", *, name: str | None = None) -> DownloadedFile:
        """Fetch a file of a job (the first, or `name`) to a path or into a directory; goes on where it broke off, and checks the digest.

        A job that has no files yet is requested anew. Raises `NotReady` where it still has none.
        """
        return self._connection.run(self._flows.download(job, Path(to), name))

    def upload(self, file: FileSource, *, purpose: str = "user_data", name: str = "") -> UploadedFile:
        """Keep a file on the service: a `Path`, bytes or an open file. Its id can be named wherever an image or a clip is taken."""
        return self._connection.run(self._flows.upload(file, purpose, name))

    def estimate(self, **fields: Any) -> Estimate:
        """Estimate when a job with these fields would start and be done, without submitting it."""
        return self._connection.run(self._flows.object(Estimate, estimating(fields)))

    def recipe(self, file: FileSource) -> Recipe:
        """Read the recipe in a file of a job: `submit(**recipe.request)` draws it again."""
        return self._connection.run(self._flows.object(Recipe, reading_recipe(file)))

    def credentials(self, file: FileSource) -> Credentials:
        """Whether a file's content credentials (C2PA) are valid, and their content."""
        return self._connection.run(self._flows.object(Credentials, reading_credentials(file)))

    def models(self) -> list[Model]:
        """Every model that a worker can run."""
        return self._connection.run(self._flows.models())

    def workers(self) -> list[Worker]:
        """Every worker."""
        return self._connection.run(self._flows.workers())

    def drain(self, worker: str, *, hand_back: bool = False, even_last: bool = False) -> Worker:
        """Let a worker finish what it holds and leave; `workers` shows it until then. `hand_back`: jobs go on elsewhere, where they can;
        `even_last`: also when it is the last one."""
        return self._connection.run(
            self._flows.object(Worker, draining(worker, hand_back=hand_back, even_last=even_last))
        )

    def undrain(self, worker: str) -> Worker:
        """Give a worker that drains, and has not left, work again."""
        return self._connection.run(self._flows.object(Worker, undraining(worker)))

    def usage(self, first_day: str | None = None, last_day: str | None = None, *, by: str = "day") -> Usage:
        """Get the usage by "day", "tenant", "key", "model" or several with commas. Days as 2026-11-28, UTC; default the last 30."""
        return self._connection.run(self._flows.object(Usage, reading_usage(first_day, last_day, by)))

    def queue(self) -> Queue:
        """The queue in numbers."""
        return self._connection.run(self._flows.queue())

    def health(self) -> Health:
        """Whether a job sent now could run; not tried again."""
        return self._connection.run(self._flows.health())

    def request(self, method: str, path: str, fields: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """The JSON of any route, for those that have no method here; POST is not sent again once the service may have had it."""
        request = Request(method=method, path=path, query=query, fields=fields, repeatable=method != "POST")
        return self._connection.run(self._flows.document(request))


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
        self._connection = AsyncConnection(place, transport)
        self._flows = Flows(retries or RetryPolicy())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """As `Client.submit`."""
        return await self._connection.run(self._flows.submit(prompt, fields, idempotency_key))

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
        return await self._connection.run(
            self._flows.generate(prompt, fields, place, timeout_s, on_progress, idempotency_key)
        )

    async def wait(
        self, job: Job | str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """As `Client.wait`."""
        return await self._connection.run(self._flows.wait(job, timeout_s, on_progress))

    async def job(self, job_id: str) -> Job:
        """As `Client.job`."""
        return await self._connection.run(self._flows.job(job_id))

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
        filters = {"state": state, "model": model, "worker": worker, "prompt": prompt, "order": order}
        flow = self._flows.jobs(limit=limit, on_search=on_search, since=since, until=until, **filters)
        return self._connection.iterate(flow)

    def events(self, job: Job | str, *, after: int = 0, timeout_s: float | None = None) -> AsyncIterator[JobEvent]:
        """As `Client.events`, for `async for`."""
        return self._connection.iterate(self._flows.events(job, after, timeout_s))

    async def cancel(self, job: Job | str) -> Outcome:
        """As `Client.cancel`."""
        return await self._connection.run(self._flows.control(job, "cancel"))

    async def pause(self, job: Job | str) -> Outcome:
        """As `Client.pause`."""
        return await self._connection.run(self._flows.control(job, "pause"))

    async def resume(self, job: Job | str) -> Outcome:
        """As `Client.resume`."""
        return await self._connection.run(self._flows.control(job, "resume"))

    async def commit(self, job: Job | str) -> Outcome:
        """As `Client.commit`."""
        return await self._connection.run(self._flows.control(job, "commit"))

    async def delete(self, job: Job | str) -> None:
        """As `Client.delete`."""
        await self._connection.run(self._flows.delete(job if isinstance(job, str) else job.id))

    async def download(self, job: Job | str, to: str | Path = ".", *, name: str | None = None) -> DownloadedFile:
        """As `Client.download`."""
        return await self._connection.run(self._flows.download(job, Path(to), name))

    async def upload(self, file: FileSource, *, purpose: str = "user_data", name: str = "") -> UploadedFile:
        """As `Client.upload`."""
        return await self._connection.run(self._flows.upload(file, purpose, name))

    async def estimate(self, **fields: Any) -> Estimate:
        """As `Client.estimate`."""
        return await self._connection.run(self._flows.object(Estimate, estimating(fields)))

    async def recipe(self, file: FileSource) -> Recipe:
        """As `Client.recipe`."""
        return await self._connection.run(self._flows.object(Recipe, reading_recipe(file)))

    async def credentials(self, file: FileSource) -> Credentials:
        """As `Client.credentials`."""
        return await self._connection.run(self._flows.object(Credentials, reading_credentials(file)))

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._connection.run(self._flows.models())

    async def workers(self) -> list[Worker]:
        """As `Client.workers`."""
        return await self._connection.run(self._flows.workers())

    async def drain(self, worker: str, *, hand_back: bool = False, even_last: bool = False) -> Worker:
        """As `Client.drain`."""
        return await self._connection.run(
            self._flows.object(Worker, draining(worker, hand_back=hand_back, even_last=even_last))
        )

    async def undrain(self, worker: str) -> Worker:
        """As `Client.undrain`."""
        return await self._connection.run(self._flows.object(Worker, undraining(worker)))

    async def usage(self, first_day: str | None = None, last_day: str | None = None, *, by: str = "day") -> Usage:
        """As `Client.usage`."""
        return await self._connection.run(self._flows.object(Usage, reading_usage(first_day, last_day, by)))

    async def queue(self) -> Queue:
        """As `Client.queue`."""
        return await self._connection.run(self._flows.queue())

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._connection.run(self._flows.health())

    async def request(
        self, method: str, path: str, fields: dict[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        """As `Client.request`."""
        request = Request(method=method, path=path, query=query, fields=fields, repeatable=method != "POST")
        return await self._connection.run(self._flows.document(request))
