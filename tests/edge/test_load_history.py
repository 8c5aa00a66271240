"""How busy the pool was, as the API shows it: the broker keeps the samples."""

from __future__ import annotations

from broker.wire.messages import LoadSample
from tests.edge.conftest import World


def test_the_samples_of_the_broker_are_shown_and_a_silent_one_is_503(world: World) -> None:
    world.fake.load_samples = [
        LoadSample(at=100.5, workers=3, busy=2, waiting=4, running=2, wait_s=2.5, finished={"succeeded": 1})
    ]
    assert world.http.get("/v1/stats/history").json() == {
        "object": "list",
        "data": [
            {
                "at": 100.5,
                "workers": 3,
                "busy": 2,
                "waiting": 4,
                "running": 2,
                "wait_s": 2.5,
                "finished": {"succeeded": 1},
            }
        ],
        "period_s": 10.0,
    }
    world.fake.down = True
    assert world.http.get("/v1/stats/history").status_code == 503


def test_the_queue_is_told_by_model(world: World) -> None:
    for fields in ({}, {}, {"model": "org/picture", "output": "image"}):
        world.submit(**fields)
    world.edge.calls.catalogue._pool_at = float("-inf")
    assert world.http.get("/v1/workers").json()["queue"]["by_model"] == {"demo": 2, "org/picture": 1, "animate": 0}
