"""A core with a running job that can be parked, and what is read of it."""

from __future__ import annotations

from broker.core.policy import Policy
from broker.testing import CoreHarness, sent, worker_info
from broker.wire import messages as m

STEPS = 40


def harness_with(
    job_id: str = "a", *, resumes: bool = True, policy: Policy | None = None, **fields: object
) -> CoreHarness:
    """A core with one worker that runs this job of 40 steps."""
    harness = CoreHarness(policy)
    harness.hello("w1", body=worker_info(resumes=resumes))
    harness.submit(job_id, steps=STEPS, **fields)
    harness.start("w1", job_id)
    assert harness.state(job_id) == "running"
    return harness


def refusal(harness: CoreHarness, job_id: str, action: m.JobAction) -> str:
    """Why this is refused."""
    reply = harness.ask(m.ControlJob(req=0, job_id=job_id, action=action), m.ControlReply)
    assert reply.outcome == "refused"
    return reply.reason


def reported(harness: CoreHarness) -> m.Parking:
    """What an edge is told of the job's parking."""
    parking = harness.view("a").parking
    assert parking is not None
    return parking


def runs(harness: CoreHarness) -> list[m.Run]:
    return sent(harness.effects, m.Run)
