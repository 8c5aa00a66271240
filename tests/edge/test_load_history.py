"""The samples of how busy the pool was: what is counted, over restarts of the broker too, and the route that shows them."""

from __future__ import annotations

from broker.wire.messages import PoolView, WorkerView
from http_edge.background.load_sampler import LoadSampler
from http_edge.jobs.load_history import LoadHistory
from tests.edge.conftest import World


def pool(epoch: int = 1, now: float = 100.0, states: tuple[str, ...] = (), **counts: int) -> PoolView:
    workers = tuple(WorkerView(name=f"gpu-{n}", state=state) for n, state in enumerate(states))
    return PoolView(epoch=epoch, now=now, workers=workers, counts=counts, wait_s=2.5)


def test_a_sample_counts_workers_at_work_and_jobs_by_what_they_do():
    history = LoadHistory()
    states = ("busy", "busy", "idle", "draining", "lost", "starting")
    history.add(pool(states=states, queued=3, delayed=1, assigned=1, running=2))
    (sample,) = history.samples
    assert (sample.at, sample.workers, sample.busy, sample.waiting, sample.running, sample.wait_s) == (
        100,
        3,
        2,
        4,
        3,
        2.5,
    )


def test_what_ended_is_counted_between_two_samples_and_from_nothing_after_a_restart():
    history = LoadHistory()
    for view in (
        pool(succeeded=7),
        pool(succeeded=9, failed=1),
        pool(succeeded=9, failed=1),
        pool(epoch=2, succeeded=2),
    ):
        history.add(view)
    assert [sample.finished["succeeded"] for sample in history.samples] == [0, 2, 0, 2]
    assert [sample.finished["failed"] for sample in history.samples] == [0, 1, 0, 0]


def test_an_hour_is_kept():
    history = LoadHistory()
    for second in range(0, 7200, 10):
        history.add(pool(now=float(second)))
    assert (history.samples[0].at, history.samples[-1].at) == (3600, 7190)


def test_the_route_shows_what_was_sampled_and_a_silent_broker_leaves_a_gap(world: World) -> None:
    assert world.http.get("/v1/stats/history").json() == {"object": "list", "data": [], "period_s": 10.0}
    sampler = LoadSampler(world.edge.calls)
    assert world.http.portal is not None
    world.http.portal.call(sampler.sample)
    world.fake.down = True
    world.edge.calls.catalogue._pool_at = float("-inf")
    world.http.portal.call(sampler.sample)
    (sample,) = world.http.get("/v1/stats/history").json()["data"]
    assert (sample["workers"], sample["busy"], sample["finished"]["succeeded"]) == (2, 0, 0)


def test_the_queue_is_told_by_model(world: World) -> None:
    for fields in ({}, {}, {"model": "org/picture", "output": "image"}):
        world.submit(**fields)
    world.edge.calls.catalogue._pool_at = float("-inf")
    assert world.http.get("/v1/workers").json()["queue"]["by_model"] == {"demo": 2, "org/picture": 1}
