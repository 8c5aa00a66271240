"""Ids that no `Submit` brought: whatever they look like, they are looked up, and found nowhere."""

from __future__ import annotations

import pytest

from broker.core.effects import Send
from broker.testing import EDGE, RESULT, CoreHarness, peer_of
from broker.wire import messages as m

STRANGE = ("../../etc", "/etc/passwd", "", "job\n", "job\0", "é" * 64, "x" * m.MAX_ID)


def said_of(job_id: str, fence: int) -> list[tuple[bytes, m.Message]]:
    """Everything that names a job, but `Submit`."""
    held = (m.Held(job_id=job_id, fence=fence, phase="denoise"),)
    agent = peer_of("w2")
    return [
        (agent, m.Heartbeat(seen=fence, free=0, held=held)),
        (agent, m.Finished(job_id=job_id, fence=fence, body=RESULT)),
        (agent, m.Failed(job_id=job_id, fence=fence, kind="engine_error")),
        (agent, m.Cancelled(job_id=job_id, fence=fence)),
        (agent, m.Refused(job_id=job_id, fence=fence)),
        (EDGE, m.CancelJob(req=1, job_id=job_id)),
        (EDGE, m.GetJob(req=2, job_id=job_id)),
        (EDGE, m.ListJobs(req=3, after=job_id)),
        (EDGE, m.ForgetJobs(req=4, job_ids=(job_id,))),
        (EDGE, m.SettleSetAside(req=5, job_id=job_id, action="delete")),
    ]


@pytest.mark.parametrize("job_id", STRANGE)
def test_they_make_no_row_and_are_given_to_no_worker(job_id: str) -> None:
    harness = CoreHarness()
    fence = harness.running("mine", "w1")
    harness.hello("w2")
    for peer, message in said_of(job_id, fence):
        effects = harness.feed(peer, message)
        assert all(isinstance(effect, Send) for effect in effects), f"{message} changed {effects}"
        assert not any(isinstance(effect.message, m.Run | m.JobsDeleted) for effect in effects)
    assert [job.id for job in harness.archive.live()] == ["mine"]
    assert harness.core.job(job_id) is None
    assert harness.archive.find(job_id) is None
