"""Webhook deliveries through a real broker, its journal and its death."""

from __future__ import annotations

import asyncio

import msgspec

from broker.core import deliveries
from broker.wire import messages as m
from tests.testing.in_process import a_job, agent, connected, in_loop, serving

URL = "https://client.example/hook"


def done(claim: m.ClaimedDelivery, outcome: str, **fields) -> m.DeliveryDone:
    return m.DeliveryDone(req=0, number=claim.number, claim=claim.claim, outcome=outcome, **fields)


@in_loop
async def test_what_became_of_a_job_is_told_once_over_the_brokers_death(tmp_path, run_dir):
    async with (
        serving(tmp_path, run_dir) as service,
        connected(service) as one,
        connected(service) as other,
        agent(service) as worker,
    ):
        await worker.join()
        await one.submit(a_job("a", webhook=URL))
        run = await worker.receive(m.Run)
        worker.start(run)
        worker.finish(run)
        await worker.receive(m.ResultAck)
        await service.restart()
        first, _ = await one.delivery_requests.claim(1)
        second, _ = await other.delivery_requests.claim(9)
        assert [claim.event for claim in (*first, *second)] == ["started", "completed"]
        await one.delivery_requests.report(done(first[0], "delivered", status=204))
        await service.restart()
        assert (await one.delivery_requests.claim(9))[0] == []
        await other.delivery_requests.report(done(second[0], "retry", status=503, retry_s=0.0, note="busy"))
        (again,), wait_s = await one.delivery_requests.claim(9)
        assert (again.number, again.attempts, wait_s) == (second[0].number, 2, -1.0)
        view = await one.get("a")
        assert view.submission.webhook == URL
        assert [
            (delivery.event, delivery.state, delivery.sending, delivery.status) for delivery in view.deliveries
        ] == [
            ("started", "delivered", False, 204),
            ("completed", "pending", True, 503),
        ]


@in_loop
async def test_a_claim_that_nobody_reports_is_given_again_after_its_lease(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr("broker.core.webhook_requests.LEASE_S", 2.0)
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await client.submit(a_job("a", webhook=URL, webhook_events=("cancelled",)))
        await client.cancel("a")
        (first,), _ = await client.delivery_requests.claim(9)
        claims, wait_s = await client.delivery_requests.claim(9)
        assert claims == []
        assert 0 < wait_s <= 2.0
        while not claims:
            await asyncio.sleep(0.1)
            claims, _ = await client.delivery_requests.claim(9)
        (second,) = claims
        assert msgspec.structs.replace(second, claim=first.claim, attempts=1) == first
        assert deliveries.LEASE_S == 60.0


@in_loop
async def test_deleting_a_job_deletes_what_was_to_be_told(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await client.submit(a_job("a", webhook=URL))
        await client.cancel("a")
        (claim,), _ = await client.delivery_requests.claim(9)
        assert await client.forget(["a"]) == ("a",)
        await client.delivery_requests.report(done(claim, "retry"))
        assert await client.delivery_requests.claim(9) == ([], -1.0)
