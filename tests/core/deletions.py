"""The deletion of records."""

from __future__ import annotations

from broker.testing import CoreHarness
from broker.wire import messages as m


def forget(harness: CoreHarness, *job_ids: str, **fields) -> tuple[str, ...]:
    return harness.ask(m.ForgetJobs(req=1, job_ids=job_ids, **fields), m.Forgotten).job_ids
