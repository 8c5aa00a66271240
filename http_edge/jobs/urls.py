"""Where a job, its events and its result are found."""

from __future__ import annotations


def urls(job_id: str) -> dict[str, str]:
    """Where to go on with a job; paths on this server."""
    base = f"/v1/jobs/{job_id}"
    return {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel", "result": f"{base}/result"}
