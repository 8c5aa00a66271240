"""Messages and peers of the stand-ins: usual values, so that a test names only those that it is about."""

from __future__ import annotations

from typing import Any

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result

#: The peer that `CoreHarness` submits as.
EDGE = b"f-edge"
#: Work of a job that takes seconds: much more than what a start-up could explain.
UNIT = 1e5
RESULT = codec.encode_body(Result(seed=7))


def worker_info(*models: str, gpus: int = 1, resumes: bool = False, host: str = "here") -> bytes:
    """The body of a `Hello`: a worker with these models, "demo" without any."""
    cards = tuple(ModelCard(name=name, engine="fake", output="video", resumes=resumes) for name in models or ("demo",))
    return codec.encode_body(m.WorkerInfo(host=host, pid=1, device="cpu", gpus=gpus, models=cards))


def submission(fields: dict[str, Any]) -> m.Submission:
    """Take the fields of a `Submission` out of these; the model is "demo" where none is named."""
    fixed = {name: fields.pop(name) for name in m.Submission.__struct_fields__ if name in fields}
    return m.Submission(**{"model": "demo", **fixed})


def submit_message(job_id: str, body: bytes = b"spec", req: int = 0, **fields: Any) -> m.Submit:
    """A `Submit`; `fields` are its own and those of its `Submission`."""
    fields = {"units": 1.0, **fields}
    return m.Submit(req=req, job_id=job_id, submission=submission(fields), body=body, **fields)


def holding(job_id: str, fence: int, **fields: Any) -> m.Heartbeat:
    """The heartbeat of a worker that has this attempt in its engine, and no other."""
    return m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id=job_id, fence=fence, **fields),))


def peer_of(name: str) -> bytes:
    """The routing id that `CoreHarness` uses for this worker."""
    return b"b-" + name.encode()
