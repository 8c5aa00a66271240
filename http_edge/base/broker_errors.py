"""The broker's refusals as the edge's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from broker.client.errors import BrokerError
from http_edge.base.errors import from_broker


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise `EdgeError` for errors of the broker's client in the block."""
    try:
        yield
    except BrokerError as error:
        raise from_broker(error) from None
