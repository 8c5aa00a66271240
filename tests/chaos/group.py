"""Faults of a group over two machines, here two network namespaces, while it draws one job after another: `python -m tests.chaos.group`.

Root only. Each job's file is compared with that of an undisturbed run, which is the same bytes: the encoder is deterministic.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil

from bench.harness.process import Process, children, clean_environ, free_port
from tests.support.waiting import wait_until
from tests.support.worker_key import make_worker_key
from tests.testing.service import FINAL, Service

_NEAR, _FAR = "198.18.78.1", "198.18.78.2"
_SEEDS = (1, 2, 3)
_GRACE_S = 6
_JOBS: dict[str, dict[str, Any]] = {
    "fake": {"num_inference_steps": 60, "extra": {"fake": "slow"}},
    "demo": {"num_inference_steps": 150},
}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cable:
    """A second machine, as a network namespace, and the cable to it."""

    def __init__(self) -> None:
        self.name = f"ztg{os.getpid() % 100000}"
        near = f"{self.name}n"
        _ip("netns", "add", self.name)
        _ip("link", "add", near, "type", "veth", "peer", self.name, "netns", self.name)
        _ip("address", "add", f"{_NEAR}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", self.name, "address", "add", f"{_FAR}/30", "dev", self.name)
        for device in ("lo", self.name):
            _ip("-n", self.name, "link", "set", device, "up")

    def cut(self, seconds: float) -> None:
        """Take the cable out for so long."""
        _ip("-n", self.name, "link", "set", self.name, "down")
        time.sleep(seconds)
        _ip("-n", self.name, "link", "set", self.name, "up")

    def close(self) -> None:
        """Take it down."""
        _ip("netns", "delete", self.name)


class Group:
    """The service, whose one worker is on both machines."""

    def __init__(self, home: Path, model: str, cable: Cable) -> None:
        make_worker_key(home / "curve")
        self._home, self._cable = home, cable
        self._fields = _JOBS[model]
        self._endpoint = f"tcp://{_NEAR}:{free_port()}"
        self._own = ["--curve-dir", str(home / "curve"), "--stop-grace-s", str(_GRACE_S)]
        self.service = Service(home, gpus="cpu:1", model=model)
        leads = ["--machines", "2", "--rank-endpoint", self._endpoint, "--checkpoint-s", "1"]
        self.service.more_flags = [*leads, *self._own]
        self.service.start()
        self.rank_host = self._start_rank_host()

    def _start_rank_host(self) -> Process:
        return Process(
            "workers.rank",
            *("--leader", self._endpoint, "--gpus", "cpu:1", "--home", str(self._home / "far"), *self._own),
            log=self._home / "rank.log",
            environ=clean_environ(),
            before=["ip", "netns", "exec", self._cable.name],
        )

    def submit(self, seed: int) -> str:
        return str(self.service.post(seed=seed, gpus=2, **self._fields)["id"])

    def file(self, job_id: str) -> bytes:
        """The result of a job, once it is final. Fails where it has none."""
        job = self.service.finished(job_id, 600)
        assert job["state"] == "succeeded", job
        return self.service.http.get(job["urls"]["result"]).content

    def live(self, job_ids: list[str]) -> list[dict[str, Any]]:
        """Those that are not final."""
        return [job for one in job_ids if (job := self.service.job(one))["state"] not in FINAL]

    def faults(self) -> dict[str, Callable[[], None]]:
        return {
            "rank host killed": lambda: self._end_rank_host(signal.SIGKILL),
            "rank host told to end": lambda: self._end_rank_host(signal.SIGTERM),
            "rank host stopped for 9 s": lambda: self._pause_rank_host(9),
            "cable out for 3 s": lambda: self._cable.cut(3),
            "cable out for 9 s": lambda: self._cable.cut(9),
            "engine there killed": lambda: _kill(children(self.rank_host.pid, "workers.engine.loop")),
            "engine here killed": lambda: _kill(self.service.engines()),
            "agent killed": lambda: _kill(self.service.agents()),
            "workers told to end": lambda: self._restart("workers", signal.SIGTERM),
            "workers killed": lambda: self._restart("workers", signal.SIGKILL),
            "broker killed": lambda: self._restart("broker", signal.SIGKILL),
        }

    def _end_rank_host(self, number: signal.Signals) -> None:
        code = self.rank_host.end(number)
        assert number == signal.SIGKILL or code == 0, f"it ended with {code}"
        self.rank_host = self._start_rank_host()

    def _pause_rank_host(self, seconds: float) -> None:
        self.rank_host.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.rank_host.send_signal(signal.SIGCONT)

    def _restart(self, name: str, number: signal.Signals) -> None:
        self.service.kill(name, number)
        self.service.start(name)

    def close(self) -> list[psutil.Process]:
        """End all; the processes that are left, for which there should be none."""
        everybody = [*self.service.everybody(), *self.rank_host.family()]
        self.rank_host.end(signal.SIGTERM)
        self.service.close()
        left: list[psutil.Process] = psutil.wait_procs(everybody, 10)[1]
        return left


def _kill(found: list[psutil.Process]) -> None:
    for process in found[:1]:
        process.kill()


def run(group: Group, seconds: float, random: Random) -> bool:
    """Disturb it for so long; whether every job ended as undisturbed."""
    expected = {seed: group.file(group.submit(seed)) for seed in _SEEDS}
    faults, made = group.faults(), Counter[str]()
    jobs: dict[str, int] = {}
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        while len(group.live([*jobs][-3:])) < 2:
            seed = random.choice(_SEEDS)
            jobs[group.submit(seed)] = seed
        wait_until(lambda: any(job["step"] for job in group.live([*jobs])), 300, "a job that is drawn")
        time.sleep(random.uniform(0, 3))
        name = random.choice(sorted(faults))
        faults[name]()
        made[name] += 1
    wrong = 0
    for job_id, seed in jobs.items():
        right = group.file(job_id) == expected[seed]
        wrong += not right
        job = group.service.job(job_id)
        print(
            job_id,
            "right" if right else "WRONG",
            *(f"{job[name]} {name}" for name in ("attempts", "crashes", "losses")),
        )
        for step in job["history"]:
            if step.get("note"):
                print("   ", step["cause"], step["note"])
    print(f"{sum(made.values())} faults: {dict(made)}; {len(jobs)} jobs, {wrong} of them wrong")
    return not wrong


def main() -> int:
    """Run it; 0 when every job ended as undisturbed and no process is left."""
    parser = argparse.ArgumentParser(prog="tests.chaos.group", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", choices=sorted(_JOBS), default="fake")
    options = parser.parse_args()
    cable = Cable()
    try:
        with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp") as home:
            group = Group(Path(home), options.model, cable)
            try:
                group.service.ready(1)
                fine = run(group, options.seconds, Random(options.seed))
            finally:
                left = group.close()
    finally:
        cable.close()
    print(f"processes left: {left or 'none'}")
    return 0 if fine and not left else 1


if __name__ == "__main__":
    sys.exit(main())
