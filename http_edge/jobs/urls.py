"""Paths of a job, its events and its result on this server."""

from __future__ import annotations


def urls(job_id: str) -> dict[str, str]:
    """Build the paths of a job on this server."""
    base = f"/v1/jobs/{job_id}"
    return {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel", "result": f"{base}/result"}
