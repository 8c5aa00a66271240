"""The index of workers with room chooses as `placement.choose` does among all that fit, whatever has happened to them."""

from __future__ import annotations

from random import Random

import pytest

from broker.core.pool import Pool, Worker
from broker.core.scheduling import placement
from broker.core.scheduling.free_workers import FEW
from broker.testing import worker_info
from broker.wire import codec
from broker.wire import messages as m

MODELS = ("demo", "flux", "wan")
NOW = 1_000.0


def changed(random: Random, pool: Pool, at: float) -> None:
    """Something happens to one of the workers."""
    worker = random.choice([*pool])
    what = random.choice(("beat", "grant", "end", "trip", "suspect", "heard", "drain", "undrain", "again", "remove"))
    if what == "beat":
        model, loras = random.choice(("", *MODELS)), random.choice(((), ("a",), ("a", "b")))
        stats = m.Heartbeat(seen=worker.seen, free=random.randint(0, 2), model=model, loaded_loras=loras)
        pool.update_stats(worker, stats)
    elif what == "grant":
        pool.grant(worker, f"j{at}", int(at * 10))
    elif what == "end" and worker.held:
        job_id, fence = random.choice([*worker.held.items()])
        pool.update_room(worker, fence, random.randint(0, 2))
        pool.release(worker, job_id, fence, at)
    elif what == "trip":
        pool.trip(worker, random.choice((0.0, at + 5.0)))
    elif what == "suspect":
        pool.mark_suspect(worker)
    elif what == "heard":
        pool.renew_lease(worker, at)
    elif what == "drain":
        pool.request_drain(worker)
    elif what == "undrain":
        pool.request_undrain(worker)
    elif what == "again":
        pool.register_again(worker, random.choice(("b", "c")), worker.peer, info(random), at)
        pool.update_room(worker, 0, 1)
    elif what == "remove" and len(pool.workers) > 4:
        pool.remove(worker)


def info(random: Random) -> m.WorkerInfo:
    models = random.sample(MODELS, random.randint(1, 3))
    return codec.worker_info(worker_info(*models, gpus=random.choice((1, 1, 2))))


@pytest.mark.parametrize("seed", range(30))
def test_it_chooses_as_a_look_at_all_of_them(seed):
    random = Random(seed)
    pool = Pool()
    for number in range(24):
        name = f"w{number}"
        pool.add(Worker(name, "b", name.encode(), info(random), NOW + random.randint(0, 3)))
        pool.update_room(pool.workers[name], 0, random.randint(0, 2))
    chosen = 0
    for step in range(300):
        changed(random, pool, NOW + step)
        assert [*pool.free] == [name for name in pool.free if pool.workers[name].room]
        assert {*pool.free} == {worker.name for worker in pool if worker.room}
        wanted = m.Submission(
            model=random.choice(MODELS), gpus=random.choice((1, 1, 2)), pinned=random.choice(("", "", "", "w1"))
        )
        loras = random.choice(((), ("a",), ("b", "a")))
        able = [worker for worker in pool.free.values() if placement.fits(wanted, worker)]
        expected = placement.choose(wanted.model, able, loras)
        assert pool.free.choose(wanted, loras) is expected
        assert pool.free.any_fits(wanted) is bool(able)
        chosen += expected is not None
    assert chosen > 50


def test_workers_that_come_and_go_leave_nothing_behind():
    pool = Pool()
    for number in range(2 * FEW):
        name = f"w{number:02}"
        pool.add(Worker(name, "b", name.encode(), codec.worker_info(worker_info("demo")), NOW))
        pool.update_room(pool.workers[name], 0, 1)
    # The first of them stays idle for ever, so that it is never the one to go.
    last, wanted = pool.workers[name], m.Submission(model="demo")
    for fence in range(1, 2_000):
        pool.grant(last, "job", fence)
        pool.update_room(last, fence, 1)
        pool.release(last, "job", fence, NOW + fence)
        assert pool.free.choose(wanted).name == "w00"
    (group,) = pool.free._groups.values()
    assert len(group._heap) < 4 * 2 * FEW
