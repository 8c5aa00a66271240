"""A result that waits for its depot outlives the process that drew it: it is sent by the next, and not drawn again."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.waiting import wait_until

#: Long enough for the edge to be gone before the last step.
SLOW = {"fake": "slow", "fake_step_s": 0.25}


@pytest.mark.parametrize("killed", ["agent", "workers"])
def test_a_result_that_was_drawn_is_sent_by_the_next_agent(start_service, killed):
    service = start_service(workers=1, gpus="cpu:1", depot=True)
    service.post(id="drawn", num_inference_steps=8, extra=SLOW)
    wait_until(lambda: service.job("drawn")["state"] == "running", 60, "a job that is drawn")
    service.kill("edge")
    spool = service.home / "z" / "spool"
    (result,) = wait_until(lambda: [*spool.glob("*/drawn/*/.result")], 60, "a result that cannot be sent")
    (clip,) = result.parent.glob("*.mp4")
    drawn = clip.read_bytes()

    if killed == "agent":
        service.agents()[0].kill()
    else:
        service.kill("workers")
        service.start("workers")
    service.start("edge")

    job = service.finished("drawn")
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    (artefact,) = job["artefacts"]
    assert artefact["sha256"] == hashlib.sha256(drawn).hexdigest()
    assert service.http.get(artefact["url"]).content == drawn
    assert [move["to"] for move in job["story"]].count("succeeded") == 1
    wait_until(lambda: not [*spool.glob("*/*/*/*")], 60, "an empty spool")
    service.ready(1)
    service.post(id="next")
    assert service.finished("next")["state"] == "succeeded"
