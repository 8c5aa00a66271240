"""Two machines that share a cable and no disk: one has broker and edge, the other the workers. A clip is drawn from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.harness.process import ROOT, Process, clean_environ, end_all
from tests.acceptance.clips import frames_of, judged
from tests.support.machines import Machine, TwoMachines, possible
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PROMPT = "a red circle moving right on a black background"
WANTED = ("red", "right", "black")


class Studio:
    """The service over both machines, and its command on the one that has no worker."""

    def __init__(self, machines: TwoMachines) -> None:
        self.machines = machines
        self.here, self.there = machines.both
        self.url = f"http://{self.here.address}:8000"
        self.processes: list[Process] = []

    def start(self) -> None:
        home, far = self._home(self.here), self._home(self.there)
        self._run(self.here, "broker", "keys", "init", "--home", str(home))
        self._run(self.here, "broker", "keys", "add", "node-2", "--role", "worker", "--home", str(home))
        # The operator's scp.
        (far / "curve").mkdir(mode=0o700, parents=True)
        shutil.move(home / "curve" / "issued" / "node-2.key", far / "curve" / "worker.key")
        back = f"tcp://{self.here.address}:7002"
        self._begin(self.here, "broker", "--home", str(home), "--back-tcp", back, "--lost-after-s", "120")
        self._begin(self.here, "http_edge", "--home", str(home), "--host", "0.0.0.0")
        self.workers = self._begin(self.there, "workers", "--home", str(far), "--gpus", "cpu", "--back", back)
        wait_until(self._is_ready, 180, f"a worker that is idle; logs:\n{self.tail()}")

    def generate(self, out: Path, seed: int) -> None:
        """Draw with the command that users have, and fetch the file."""
        words = ["generate", PROMPT, "--seed", str(seed), "--out", str(out), "--url", self.url]
        self._run(self.here, "zoetrope", *words)

    def detached(self, seed: int) -> str:
        """Submit a job; its id."""
        words = ["generate", PROMPT, "--seed", str(seed), "--detach", "--url", self.url]
        return self._run(self.here, "zoetrope", *words).split()[-1]

    def ask(self, path: str) -> bytes:
        """What the edge answers on its machine."""
        code = f"import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen('{self.url}{path}', timeout=20).read())"
        command = [*self.here.within, sys.executable, "-c", code]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    def files(self, machine: Machine, pattern: str) -> list[Path]:
        return sorted(self._home(machine).glob(pattern))

    def tail(self) -> str:
        return "\n".join(f"== {process.log.name}\n{process.logged()[-2000:]}" for process in self.processes)

    def close(self) -> None:
        assert not end_all(self.processes, 60), self.tail()

    def _is_ready(self) -> bool:
        try:
            workers = json.loads(self.ask("/v1/workers"))["data"]
        except (subprocess.CalledProcessError, ValueError):
            return False
        return [worker["state"] for worker in workers if worker["name"].startswith("node-2.")] == ["idle"]

    def _home(self, machine: Machine) -> Path:
        return machine.root / "home"

    def _begin(self, machine: Machine, *words: str) -> Process:
        log = machine.root / f"{words[0]}.log"
        self.processes.append(Process(*words, log=log, before=machine.within, environ=clean_environ()))
        return self.processes[-1]

    def _run(self, machine: Machine, *words: str) -> str:
        command = [*machine.within, sys.executable, "-m", *words]
        ran = subprocess.run(
            command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, f"{words}: {ran.stderr}\n{self.tail()}"
        return ran.stdout


@pytest.fixture
def studio(short_dir: Path) -> Iterator[Studio]:
    if why := possible():
        pytest.skip(why)
    machines = TwoMachines(short_dir)
    found = Studio(machines)
    try:
        found.start()
        yield found
    finally:
        try:
            found.close()
        finally:
            machines.close()


def test_a_clip_is_drawn_over_a_cable_and_no_disk(studio, tmp_path):
    studio.generate(studio.here.root / "clip.mp4", seed=1)
    clip = (studio.here.root / "clip.mp4").read_bytes()
    frames, facts = frames_of(clip)
    assert (facts[0], len(frames)) == ("h264", 17)
    verdict = judged(frames)
    assert (verdict.colour, verdict.motion, verdict.background) == WANTED

    # What the worker put lies with the edge, and nothing is left with the worker.
    (stored,) = studio.files(studio.here, "artefacts/*/*/*.mp4")
    assert stored.read_bytes() == clip
    wait_until(lambda: studio.files(studio.there, "spool/*/*/*/*") == [], 30, "an empty spool")
    assert studio.files(studio.there, "artefacts/*/*/*.mp4") == []

    # The cable is out while the next is drawn and sent: it arrives all the same, once, and is the same clip.
    # The engine stands still until then, so that the clip is not there before, and the worker has the job.
    (engine,) = studio.workers.engines()
    engine.suspend()
    job_id = studio.detached(seed=1)
    wait_until(lambda: job_id in studio.workers.logged(), 60, "a worker with the job")
    studio.machines.pull()
    engine.resume()
    wait_until(lambda: studio.files(studio.there, "spool/*/*/*/*.mp4"), 60, "a clip that cannot be sent")
    assert json.loads(studio.ask(f"/v1/jobs/{job_id}"))["state"] in ("queued", "assigned", "running")
    studio.machines.plug()
    done = wait_until(
        lambda: (job := json.loads(studio.ask(f"/v1/jobs/{job_id}")))["state"] == "succeeded" and job, 120, "its end"
    )
    assert studio.ask(f"/v1/jobs/{job_id}/result") == clip
    assert done["attempts"] == 1
