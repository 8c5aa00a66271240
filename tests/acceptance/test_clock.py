"""A wall clock that is wrong and set right under load: no job is lost, none expires early, and nothing is deleted for its age."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faulty import Faults, faults_or_skip
from tests.support.waiting import wait_until
from tests.testing.service import Service

DAY_MS = 86_400_000


@pytest.fixture
def faults(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Of all processes. Finished jobs are kept for longer than the test takes, and looked through every eight seconds."""
    faults = faults_or_skip(short_dir, path="jobs.sqlite")
    for name, value in {**faults.environ, "ZOETROPE_RETENTION_S": "80"}.items():
        monkeypatch.setitem(os.environ, name, value)
    return faults


def finish_some(service: Service, name: str) -> list[str]:
    ids = [f"{name}-{n}" for n in range(3)]
    for job_id in ids:
        service.post(id=job_id, deadline_s=120)
    for job_id in ids:
        assert service.finished(job_id)["state"] == "succeeded"
    return ids


def check_there(service: Service, ids: list[str]) -> None:
    for job_id in ids:
        artefact = service.job(job_id)["artefacts"][0]
        assert hashlib.sha256(service.http.get(artefact["url"]).content).hexdigest() == artefact["sha256"]


def notice(service: Service) -> None:
    """The edge says that it would rather not delete anything, and has come to the moment when it would have."""

    def said() -> bool:
        warned = any("the clock was set" in one for one in service.http.get("/health").json().get("warnings", ()))
        return warned and "nothing is deleted: the clocks differ" in (service.home / "edge.log").read_text()

    wait_until(said, 60, f"a word of the clock; logs:\n{service.tail()}")


@pytest.mark.parametrize("days", [(-10, 0), (0, 8, 0)], ids=["started behind and set right", "ahead for a moment"])
def test_a_clock_that_is_set_costs_no_job_and_no_file(
    start_service: Callable[..., Service], faults: Faults, days: tuple[int, ...]
) -> None:
    faults.set(ahead_ms=days[0] * DAY_MS)
    service = start_service()
    ids = finish_some(service, "first")
    for turn, ahead in enumerate(days[1:]):
        faults.set(ahead_ms=ahead * DAY_MS)
        notice(service)
        ids += finish_some(service, f"turn-{turn}")
        check_there(service, ids)
    service.processes["broker"].kill()
    service.processes["broker"].wait()
    service.start("broker")
    service.ready(2)
    notice(service)
    ids += finish_some(service, "last")
    check_there(service, ids)
    shown = [service.job(job_id)["finished_at"] for job_id in ids]
    assert max(shown) - min(shown) < 3600
