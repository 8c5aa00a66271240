"""An image task whose client waits for the image: drawn while the client is there, cancelled when it leaves or its patience ends."""

from __future__ import annotations

import contextlib
import logging

import anyio
from starlette.requests import Request
from starlette.responses import Response

from http_edge.calls import Calls
from http_edge.downloads import whole_file
from http_edge.errors import EdgeError
from http_edge.fields import Reader
from http_edge.files import artefact_file, find_artefact
from http_edge.lightx2v_intake import Taken
from http_edge.lightx2v_shapes import failure_text
from http_edge.presence import ClientGone, while_present

log = logging.getLogger(__name__)

_DEFAULT_TIMEOUT_S = 600
_MAX_TIMEOUT_S = 86_400

#: The request is over already when its task is cancelled: it must not hang on a broker that does not answer.
_CANCEL_WAIT_S = 2.0


def read_waiting(request: Request) -> int:
    """Seconds that the client is ready to wait. Raises `EdgeError`."""
    reader = Reader(request.query_params, lenient=True, place="query")
    # An interval is checked and not needed: nothing here polls.
    for name in ("timeout_seconds", "poll_interval_seconds"):
        if (reader.number(name, -1e300, 1e300) or 1.0) <= 0:
            raise EdgeError("unsupported", f"{name} must be > 0", param=name, code="invalid_value")
    timeout_s = reader.integer("timeout_seconds", 0, _MAX_TIMEOUT_S)
    return _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s


async def draw_and_wait(calls: Calls, request: Request, taken: Taken, timeout_s: float) -> Response:
    """The image of a task that was just taken, or what became of it. Raises `EdgeError`."""
    job_id, task_id = taken.job.id, taken.request.task_id
    is_over = False
    try:
        is_over = await while_present(request, calls.wait_final([job_id], timeout_s))
    except ClientGone:
        log.info("client left, its task is cancelled", extra={"action": "gone", "job_id": job_id})
        return Response(status_code=499)
    finally:
        # Also when the broker is away, or the server itself is being stopped: nobody would fetch what is drawn.
        if not is_over:
            await _cancel(calls, job_id)
    if not is_over:
        if calls.hub.closed:
            raise EdgeError("shutting_down", "the service is stopping; the task was cancelled", retry_after_s=5.0)
        raise EdgeError("wait_timeout", f"Task {task_id} timed out after {timeout_s} seconds")
    job = await calls.job(job_id)
    if job.view.state == "cancelled":
        raise EdgeError("job_cancelled", "Task cancelled by user")
    if job.view.state == "failed":
        bad = job.view.failure is not None and job.view.failure.kind == "invalid_input"
        # LightX2V's word for what its pipeline would not take.
        raise EdgeError("too_large" if bad else "job_failed", failure_text(job.view))
    index, artefact = find_artefact(job.view)
    return await whole_file(artefact_file(calls.settings.artefacts_path, job.view, index, artefact, name="result.png"))


async def _cancel(calls: Calls, job_id: str) -> None:
    """Cancel, whatever happens to this request meanwhile."""
    with anyio.move_on_after(_CANCEL_WAIT_S, shield=True), contextlib.suppress(EdgeError):
        await calls.cancel(job_id)
