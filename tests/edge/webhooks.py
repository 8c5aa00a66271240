"""What tests of webhooks share: jobs with one, what was received of them, and what was reported."""

from __future__ import annotations

import standardwebhooks

from broker.wire import messages as m
from http_edge.background.webhook_signing import new_secret
from tests.edge.conftest import World
from tests.testing.receiver import Received, Receiver

OLD, NEW = new_secret(), new_secret()


def submit(world: World, receiver: Receiver, *events: str, **fields) -> str:
    return world.submit(webhook=receiver.url, webhook_events=list(events) or ["completed"], **fields)["id"]


def succeed(world: World, job_id: str) -> None:
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)


def report(world: World) -> m.DeliveryDone:
    return world.fake.deliveries.reports.get(timeout=60)


def later(world: World, seconds: float) -> None:
    """Let the broker's time pass, and the edge look again."""

    def pass_time() -> None:
        world.fake.deliveries.now += seconds
        world.fake.gap()

    world.do(pass_time)


def verified(received: Received, secret: str = NEW) -> dict:
    return standardwebhooks.Webhook(secret).verify(received.body, received.headers)


def hooks(world: World, job_id: str) -> list[dict]:
    world.do(world.edge.hub.memory.clear)
    return world.http.get(f"/v1/jobs/{job_id}").json()["webhook"]["events"]
