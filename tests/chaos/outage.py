"""`python -m tests.chaos.outage`: an object store that is away for minutes under load, and what that cost.

A broker, an edge and two workers with an engine that draws nothing; their results go to SeaweedFS (`weed` on the PATH), which is
killed in the middle of the work and started again. Exit code 0: every job succeeded in its first attempt, and every result is what was
drawn; 1: not so; 2: bad option.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from bench.harness.process import Process, clean_environ, end_all, free_port
from tests.support.object_stores import BUCKET, LocalStore, NoStore
from tests.support.waiting import wait_until

_FINAL = ("succeeded", "failed", "cancelled")

#: Seconds between two looks at the workers while the store is away, and for anything but the outage itself.
_LOOK_S, _LIMIT_S = 2.0, 600.0

#: Of a job's steps.
_STEPS = 20


class Found(Struct, kw_only=True):
    """Findings of one run; times in seconds."""

    store: str
    workers: int
    jobs: int
    away_s: float
    #: Succeeded when the store went away; drawn, and queued, when it came back.
    before: int = 0
    drawn_meanwhile: int = 0
    queued_meanwhile: int = 0
    #: After the store went away, until each worker had said why its results wait, and until each had said that it takes no job.
    told_after_s: float = 0.0
    full_after_s: float = 0.0
    #: After the store was back.
    first_after_s: float = 0.0
    last_after_s: float = 0.0
    states: dict[str, int] = {}
    attempts: dict[str, int] = {}
    #: Results that cannot be fetched, or are not those of the job's record.
    wrong_results: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or done twice."""
        return self.states == {"succeeded": self.jobs} and self.attempts == {"1": self.jobs} and not self.wrong_results


class Outage:
    """One run."""

    def __init__(self, home: Path, store: LocalStore, workers: int) -> None:
        self._home = home
        self._store = store
        port = free_port()
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        environ = clean_environ(**store.environ())
        stored = ("--results-store", f"s3://{BUCKET}/outage")
        engines = ("--gpus", f"cpu:{workers}", "--model", "fake", "--depot", f"http://127.0.0.1:{port}")
        commands = (
            ("broker",),
            ("http_edge", "--host", "127.0.0.1", "--port", str(port), *stored),
            ("workers", *engines, *stored),
        )
        self._processes = [
            Process(*command, "--home", str(home / "z"), log=home / f"{command[0]}.log", environ=environ)
            for command in commands
        ]

    def run(self, found: Found, job_s: float) -> Found:
        """Let the store go and come back, and fill in what is found."""
        wait_until(lambda: self._idle() == found.workers, _LIMIT_S, "idle workers")
        jobs = [self._post(job_s) for _ in range(found.jobs)]
        wait_until(lambda: self._count("succeeded") >= found.jobs // 10, _LIMIT_S, "the first jobs")
        self._store.kill()
        gone_at = time.monotonic()
        found.before = self._count("succeeded")
        _say(f"the store is away; {found.before} of {found.jobs} jobs have succeeded")
        while (left_s := gone_at + found.away_s - time.monotonic()) > 0:
            self._look(found, gone_at)
            time.sleep(min(_LOOK_S, left_s))
        found.queued_meanwhile = self._count("queued")
        found.drawn_meanwhile = found.jobs - self._count("succeeded") - found.queued_meanwhile
        self._store.start()
        back_at = time.monotonic()
        _say(
            f"the store is back; {found.drawn_meanwhile} results wait or are drawn, {found.queued_meanwhile} jobs wait"
        )
        succeeded = self._count("succeeded")
        wait_until(lambda: self._count("succeeded") > succeeded, _LIMIT_S, "the first result")
        found.first_after_s = time.monotonic() - back_at
        wait_until(lambda: sum(map(self._count, _FINAL)) == found.jobs, _LIMIT_S, "the end of all jobs")
        found.last_after_s = time.monotonic() - back_at
        ended = [self._http.get(f"/v1/jobs/{one}").json() for one in jobs]
        found.states = dict(Counter(job["state"] for job in ended))
        found.attempts = dict(Counter(str(job["attempts"]) for job in ended))
        found.wrong_results = sum(not self._is_right(job) for job in ended if job["state"] == "succeeded")
        return found

    def close(self) -> None:
        """End everything."""
        self._http.close()
        end_all(self._processes, 60)
        self._store.kill()

    def _look(self, found: Found, gone_at: float) -> None:
        waits = [worker["depot"] for worker in self._workers()]
        since_s = time.monotonic() - gone_at
        if not found.told_after_s and all(wait and wait["fault"] for wait in waits):
            found.told_after_s = since_s
            _say(f"after {since_s:.0f} s all workers say why: {waits[0]['fault']}")
        if not found.full_after_s and all(wait and wait["full"] for wait in waits):
            found.full_after_s = since_s
            _say(f"after {since_s:.0f} s no worker takes a job")

    def _workers(self) -> list[dict[str, Any]]:
        return self._http.get("/v1/workers").json()["data"]

    def _idle(self) -> int:
        try:
            return sum(worker["state"] == "idle" for worker in self._workers())
        except (httpx.HTTPError, ValueError, KeyError):
            return 0

    def _count(self, state: str) -> int:
        return int(self._http.get("/v1/workers").json()["queue"]["counts"].get(state, 0))

    def _post(self, job_s: float) -> str:
        fake = {"fake": "slow", "fake_step_s": job_s / _STEPS}
        body = {"prompt": "a bar", "num_inference_steps": _STEPS, "extra": fake}
        return str(self._http.post("/v1/jobs", json=body).raise_for_status().json()["id"])

    def _is_right(self, job: dict[str, Any]) -> bool:
        for artefact in job["artefacts"]:
            answer = self._http.get(artefact["url"])
            if answer.status_code != 200 or hashlib.sha256(answer.content).hexdigest() != artefact["sha256"]:
                return False
        return True


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the store is away (default: 600)")
    parser.add_argument("--workers", type=int, default=2, help="CPU workers (default: 2)")
    parser.add_argument("--jobs", type=int, default=80, help="jobs (default: 80)")
    parser.add_argument("--job-s", type=float, default=1.0, help="seconds that a job is drawn (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="zo-") as directory:
        home = Path(directory)
        try:
            # A store that forgets would have lost what it had before: that is another test.
            store = LocalStore(home / "store", home / "store.log", ("weed",))
        except NoStore as error:
            parser.error(str(error))
        store.start()
        outage = Outage(home, store, asked.workers)
        try:
            found = outage.run(
                Found(store=store.name, workers=asked.workers, jobs=asked.jobs, away_s=asked.seconds), asked.job_s
            )
        finally:
            outage.close()
    text = msgspec.json.format(msgspec.json.encode(found)).decode()
    print(text)
    if asked.json:
        asked.json.write_text(text, encoding="utf-8")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
