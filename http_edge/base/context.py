"""Context of a request (caller, trace, idempotency key): held in a context variable, so that API families need not pass it on.

`Middleware` sets it for every request. Background tasks have none and act for the service, which reads every tenant's jobs.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Any

import msgspec
from msgspec import Struct

from http_edge.base.trace import Trace

#: The tenant of jobs that were sent without a key.
OPEN_TENANT = "default"


class Caller(Struct, frozen=True, kw_only=True):
    """Sender of a request, with its rights."""

    #: Name of its key; "" without one.
    key_name: str = ""
    #: Tenant of its jobs.
    tenant: str = OPEN_TENANT
    #: Tenant whose jobs it may read; "": every tenant's.
    visible_tenant: str = OPEN_TENANT
    #: Jobs of its tenant that may wait, and that may run at once; 0: no limit.
    max_queued: int = 0
    max_running: int = 0
    max_priority: int = 9
    #: LoRAs that its jobs may name; None: all.
    loras: tuple[str, ...] | None = None
    #: Whether its files may have their recipe.
    recipe: bool = True
    #: Whether it may take workers out of service; without keys every caller may.
    operator: bool = False

    def may_see(self, tenant: str) -> bool:
        """Whether jobs and files of this tenant are there for it."""
        return self.visible_tenant in ("", tenant)


#: Caller of every request where no API keys are required.
OPEN_CALLER = Caller()
#: The service itself.
SERVICE = Caller(visible_tenant="")


class Payload:
    """A digest of a request's content, by which the next request with its idempotency key is compared."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *parts: Any) -> None:
        """Add these values to the digest. Equal JSON gives equal digests, whatever the order of its members."""
        self._hash.update(msgspec.json.encode(parts, order="sorted"))

    def digest(self) -> str:
        return self._hash.hexdigest()


class RequestScope:
    """Context of one request."""

    __slots__ = ("caller", "job_key", "payload", "replayed", "request_id", "trace")

    def __init__(
        self,
        caller: Caller,
        *,
        request_id: str = "",
        trace: Trace | None = None,
        job_key: str = "",
        payload: Payload | None = None,
    ) -> None:
        self.caller = caller
        self.request_id = request_id
        self.trace = trace
        #: Text that the job's id is made of, from the idempotency key; "" without one.
        self.job_key = job_key
        #: Filled while the body is read; None when it is not needed.
        self.payload = payload
        #: Whether the job that the answer shows was there before, by the idempotency key.
        self.replayed = False

    def log_fields(self) -> dict[str, str]:
        """Build the fields that the request's log lines bear."""
        trace_id = self.trace.trace_id if self.trace else ""
        return {"request_id": self.request_id, "trace_id": trace_id, "tenant": self.caller.tenant}


_SERVICE_SCOPE = RequestScope(SERVICE)

REQUEST: ContextVar[RequestScope] = ContextVar("request", default=_SERVICE_SCOPE)


def current() -> RequestScope:
    """The scope of the request that is being served, or the service's own."""
    return REQUEST.get()
