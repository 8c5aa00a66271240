"""The catalogue of models looks at the pool as seldom as the pool's size asks for."""

from __future__ import annotations

import asyncio

from broker.wire.jobspec import ModelCard
from broker.wire.messages import PoolView, WorkerView
from http_edge.jobs.models import Catalogue

CARD = ModelCard(name="demo", engine="fake", output="video")


class SlowBroker:
    """Answers with a pool, each time after so long."""

    def __init__(self, took_s: float) -> None:
        self.now = 100.0
        self.looks = 0
        self.took_s = took_s
        self.models = (CARD,)

    async def pool(self) -> PoolView:
        self.looks += 1
        self.now += self.took_s
        workers = tuple(WorkerView(name=name, state="idle", models=self.models) for name in ("w1", "w2"))
        return PoolView(epoch=1, workers=workers)

    def clock(self) -> float:
        return self.now


def looks_in(seconds: float, took_s: float) -> int:
    """How often the pool is looked at while jobs come, ten a second."""
    broker = SlowBroker(took_s)
    catalogue = Catalogue(broker.pool, broker.clock)

    async def submits() -> None:
        end = broker.now + seconds
        while broker.now < end:
            assert (await catalogue.choose("demo")).name == "demo"
            broker.now += 0.1

    asyncio.run(submits())
    return broker.looks


def test_a_small_pool_is_looked_at_every_second_and_a_large_one_a_twentieth_of_the_time() -> None:
    assert 9 <= looks_in(10.0, took_s=0.001) <= 11
    assert 4 <= looks_in(10.0, took_s=0.1) <= 6
    assert 5 <= looks_in(30.0, took_s=1.0) <= 7, "never older than some seconds"


def test_a_new_model_is_found_at_once_however_long_a_look_takes() -> None:
    broker = SlowBroker(1.0)
    catalogue = Catalogue(broker.pool, broker.clock)

    async def reported() -> list[str]:
        await catalogue.choose("demo")
        broker.models = (CARD, ModelCard(name="new", engine="fake", output="video"))
        return [(await catalogue.choose("new")).name, *(card.name for card in await catalogue.cards("w2"))]

    assert asyncio.run(reported()) == ["new", "demo", "new"]
