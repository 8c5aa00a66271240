"""Log lines for the operator: that the service is ready, and until then what it waits for."""

from __future__ import annotations

import asyncio
import logging

from broker.runtime.log_actions import Action
from broker.wire.messages import PoolView
from http_edge.api.native.service_api import READY_STATES
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings
from http_edge.jobs.models import Catalogue

log = logging.getLogger(__name__)

#: How often the pool is looked at, and the longest silence while it is not ready: loading weights takes minutes.
_LOOK_S = 0.5
_LOG_AGAIN_S = 15.0

#: Addresses to listen on that cannot be connected to.
_EVERY_ADDRESS = frozenset(("", "*", "0.0.0.0", "::"))


def service_url(settings: EdgeSettings) -> str:
    """The URL to open: `public_url`, else the address that the edge listens on."""
    if settings.public_url.rstrip("/"):
        return settings.public_url.rstrip("/")
    host = "localhost" if settings.host in _EVERY_ADDRESS else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def announce(catalogue: Catalogue, settings: EdgeSettings, *, is_open: bool = False) -> None:
    """Log a line whenever the wait changes, and the last when a worker is ready.

    `is_open`: other machines can reach the port, and no key is required.
    """
    clock = asyncio.get_running_loop().time
    logged, logged_at = "", 0.0
    while True:
        missing = await _missing(catalogue)
        if not missing:
            break
        if missing != logged or clock() - logged_at >= _LOG_AGAIN_S:
            log.info("not ready yet: %s", missing, extra={"action": Action.WAITING})
            logged, logged_at = missing, clock()
        await asyncio.sleep(_LOOK_S)
    warning = "; the port is open to other machines, and no API key is required" if is_open else ""
    log.info(
        "ready: %s draws in a browser (API reference: /docs)%s",
        service_url(settings),
        warning,
        extra={"action": Action.READY},
    )


async def _missing(catalogue: Catalogue) -> str:
    """Return the reason why a job sent now would wait; "" when a worker is ready."""
    try:
        pool: PoolView = await catalogue.pool(_LOOK_S)
    except EdgeError:
        return "the broker does not answer"
    if any(worker.state in READY_STATES for worker in pool.workers):
        return ""
    if not pool.workers:
        return "no worker has registered"
    return ", ".join(f"{worker.name} is {worker.state}" for worker in pool.workers[:8])
