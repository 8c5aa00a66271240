"""The line that says that the service is ready, and those before it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from broker.wire.messages import PoolView
from http_edge.announce import announce, service_url
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings
from tests.testing.fake_broker import VIDEO, worker


class Pools:
    """Answers with one pool after the other."""

    def __init__(self, *pools: PoolView | EdgeError) -> None:
        self._pools = iter(pools)

    async def pool(self, max_age_s: float) -> PoolView:
        pool = next(self._pools)
        if isinstance(pool, EdgeError):
            raise pool
        return pool


def pool_of(state: str) -> PoolView:
    view = worker("gpu-0", VIDEO)
    return PoolView(epoch=1, workers=(msgspec.structs.replace(view, state=state),))


def lines(caplog: pytest.LogCaptureFixture, *pools: Any, **settings: Any) -> list[tuple[str, str]]:
    caplog.set_level(logging.INFO)
    asyncio.run(announce(Pools(*pools), EdgeSettings(**settings)))  # type: ignore[arg-type]
    return [(record.action, record.getMessage()) for record in caplog.records if hasattr(record, "action")]


def test_it_says_what_it_waits_for_and_then_where_to_go(caplog, monkeypatch):
    monkeypatch.setattr("http_edge.announce._LOOK_S", 0.0)
    broker_away = EdgeError("unavailable", "no answer")
    pools = (broker_away, broker_away, PoolView(epoch=1), pool_of("starting"), pool_of("idle"))
    assert lines(caplog, *pools, port=9000) == [
        ("waiting", "not ready yet: the broker does not answer"),
        ("waiting", "not ready yet: no worker has registered"),
        ("waiting", "not ready yet: gpu-0 is starting"),
        ("ready", "ready: http://localhost:9000 draws in a browser (API reference: /docs)"),
    ]


def test_the_last_line_warns_of_an_open_port(caplog):
    caplog.set_level(logging.INFO)
    asyncio.run(announce(Pools(pool_of("idle")), EdgeSettings(), is_open=True))
    assert (
        caplog.records[-1]
        .getMessage()
        .endswith("(API reference: /docs); the port is open to other machines, and no API key is required")
    )


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://localhost:8000"),
        ({"host": "::", "port": 9000}, "http://localhost:9000"),
        ({"host": "127.0.0.1"}, "http://127.0.0.1:8000"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"public_url": "https://media.example.com/"}, "https://media.example.com"),
    ],
)
def test_the_address_is_one_that_can_be_typed(settings, url):
    assert service_url(EdgeSettings(**settings)) == url
