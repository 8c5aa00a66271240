"""Costs of requests that take the broker much longer than most messages, in messages of a pass.

A pass ends when it has taken as much as it may, and what it answers leaves then: so an edge that requests a list waits for no more than a
pass, not for a hundred lists of others before it in the same one. Measured, some 10 us are one message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.shell.journal.queries import MAX_ROWS
from broker.wire import messages as m


def _listing(message: m.ListJobs, workers: int) -> int:
    if message.text or message.model or message.worker:
        # A search may look at a thousand rows for each that it finds.
        return 256
    return 4 + 2 * min(message.limit, MAX_ROWS)


def _pool(message: m.GetPool, workers: int) -> int:
    return min(message.limit or workers, workers)


#: By the type of a request: its cost beyond that of a message, in a pool of so many workers.
COSTS: dict[type[m.Message], Callable[[Any, int], int]] = {
    m.ListJobs: _listing,
    m.GetPool: _pool,
    m.GetUsage: lambda message, workers: 128,
    m.ListSetAside: lambda message, workers: 64,
    m.ForgetJobs: lambda message, workers: 8 * len(message.job_ids),
    m.ClaimDeliveries: lambda message, workers: message.limit,
}
