"""Ids of jobs in clients' requests and in the journal.

Without API keys they are the same. With keys, an id that a client chose is its tenant's own: the journal has it behind a tag of the tenant,
so that two tenants may choose the same, neither finds the other's, and no client can take an id that another request will be given (the
one that is made of its `Idempotency-Key`, for example). Ids that the service makes bear no tag. No client's id has a dot.
"""

from __future__ import annotations

import functools
import hashlib
import re

from http_edge.base.context import Caller

#: Ids that `jobs.submit` makes: from the time, or from an idempotency key.
_MADE = re.compile(r"[a-z]+[_-](?:[0-9a-f]{31}|[0-9a-f]{40})")


def is_made(job_id: str) -> bool:
    """Whether an id is of the form of those that the service makes."""
    return _MADE.fullmatch(job_id) is not None


def own_id(tenant: str, job_id: str) -> str:
    """The id in the journal of a job to which a client of this tenant gave this id."""
    return f"{_tag(tenant)}.{job_id}"


def shown_id(job_id: str) -> str:
    """A job's id for its clients, from the journal's."""
    return job_id.rpartition(".")[2]


def journal_ids(caller: Caller, job_id: str) -> tuple[str, ...]:
    """The ids in the journal that a client's id can stand for, the likeliest first. Jobs from before keys were required bear no tag."""
    if not caller.key_name or "." in job_id:
        return (job_id,)
    own = own_id(caller.tenant, job_id)
    return (job_id, own) if is_made(job_id) else (own, job_id)


@functools.lru_cache(1024)
def _tag(tenant: str) -> str:
    return hashlib.sha256(tenant.encode()).hexdigest()[:12]
