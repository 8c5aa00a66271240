"""Jobs as the core would have them."""

from __future__ import annotations

from broker.core.deliveries import Delivery
from broker.core.jobs import Cause, Job
from broker.testing import submission
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result

RESULT = Result(
    artefacts=(Artefact(name="video.mp4", media_type="video/mp4", size=5, sha256="ab" * 32, width=64, num_frames=17),),
    stage_durations={"load": 2.0, "denoise": 7.5},
    seed=2**63 - 1,
)


def new_job(job_id: str, at: float = 100.0, **fields) -> Job:
    """A job just submitted."""
    fields = {"body": b"spec of " + job_id.encode(), "submitted_at": at, **fields}
    job = Job(id=job_id, submission=submission(fields), **fields)
    job.move(Cause.SUBMITTED, at)
    return job


def give(job: Job, fence: int, at: float = 101.0, worker: str = "gpu-0") -> Job:
    """Granted and started."""
    job.fence, job.worker = fence, worker
    job.move(Cause.DISPATCHED, at)
    job.begin_attempt(at)
    job.move(Cause.STARTED, at)
    return job


def finish(job: Job, at: float = 102.0) -> Job:
    job.result, job.run_s = RESULT, 9.5
    job.move(Cause.FINISHED, at)
    return job


def fail(job: Job, at: float = 102.0) -> Job:
    job.failure = m.Failure("engine_error", "no")
    job.move(Cause.FAILED, at)
    return job


def put(journal, *jobs: Job) -> None:
    """On disk, in this order."""
    for job in jobs:
        journal.stage(job)
    journal.commit()


def delivery(number: int, job_id: str, event: m.WebhookEvent = "completed", **fields) -> Delivery:
    return Delivery(number=number, job_id=job_id, event=event, **{"created_at": 102.0, "due_at": 102.0, **fields})
