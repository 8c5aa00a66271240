"""Errors of the client: one base, a class for each kind of refusal, and those of a job's own end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoetrope.client.results import Job


class ZoetropeError(Exception):
    """Base of every error of this library."""


class ServiceUnreachable(ZoetropeError):
    """The service could not be reached, or the connection broke more often than retries allow."""


class NotThisService(ZoetropeError):
    """Another service than Zoetrope answers at the address."""


class ClientClosed(ZoetropeError):
    """The client was closed, and sends nothing more."""


class ServiceError(ZoetropeError):
    """The service refused a request.

    `status` is the HTTP status, `code` the service's name of the error ("invalid_value"), `param` the field at fault as it was written.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class InvalidRequest(ServiceError):
    """A field or value was refused; `param` names it."""


class Unauthorized(ServiceError):
    """An API key is needed, or the one that was sent is not known."""


class Forbidden(ServiceError):
    """The key may not do this."""


class NotFound(ServiceError):
    """No such job, model, worker or file."""


class NotReady(NotFound):
    """The result is not there yet."""


class Conflict(ServiceError):
    """Another request or job stands in the way."""


class QueueFull(ServiceError):
    """The queue has no room, or too many requests wait; `retry_after_s`: when to try again."""


class Unavailable(ServiceError):
    """The service cannot serve now: no workers, busy, shutting down, disk full."""


class ServiceFault(ServiceError):
    """The service failed at something it should have done; its log has more."""


_BY_CODE: dict[str, type[ServiceError]] = {
    "not_ready": NotReady,
    "queue_full": QueueFull,
    "too_many_requests": QueueFull,
    "disk_full": Unavailable,
}
_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    429: QueueFull,
    503: Unavailable,
}


def error_class(status: int, code: str) -> type[ServiceError]:
    """The class of an answer's error."""
    fallback = ServiceFault if status >= 500 else InvalidRequest
    return _BY_CODE.get(code) or _BY_STATUS.get(status, fallback)


class JobError(ZoetropeError):
    """A job ended without a result; `job` is the job."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobError):
    """The job failed; `code` is the class of the failure ("out_of_memory")."""

    @property
    def code(self) -> str:
        return self.job.error.code if self.job.error else ""


class JobCancelled(JobError):
    """The job was cancelled."""


class WaitTimeout(JobError):
    """The job was not over within the time given; it goes on."""


class DigestMismatch(ZoetropeError):
    """The bytes of a downloaded file are not those that the service made."""


class BadSignature(ZoetropeError):
    """A webhook's delivery is not from this service, or too old."""
