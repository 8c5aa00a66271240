"""Broker and edge with one home, a worker over tcp with another: they share no disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from bench.harness.process import ROOT, Process, clean_environ, end_all, free_port
from tests.support.waiting import wait_until


class FarService:
    """Real processes below a directory: homes `here` and `there`."""

    def __init__(self, directory: Path) -> None:
        self.home, self.far = directory / "here", directory / "there"
        self._directory = directory
        _keys("init", home=self.home)
        _keys("add", "node-2", "--role", "worker", home=self.home)
        (self.far / "curve").mkdir(mode=0o700, parents=True)
        shutil.move(self.home / "curve" / "issued" / "node-2.key", self.far / "curve" / "worker.key")
        self._back, port = f"tcp://127.0.0.1:{free_port()}", free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.processes: list[Process] = []
        self._begin("broker", "--home", str(self.home), "--back-tcp", self._back)
        self._begin("http_edge", "--home", str(self.home), "--host", "127.0.0.1", "--port", str(port))

    def start_worker(self, *flags: str) -> Process:
        """A worker that is idle."""
        home = ("--home", str(self.far))
        process = self._begin("workers", *home, "--gpus", "cpu", "--back", self._back, "--depot", self.url, *flags)
        wait_until(self._is_ready, 120, f"a worker that is idle:\n{process.logged()[-2000:]}")
        return process

    def close(self) -> None:
        self.http.close()
        assert not end_all(self.processes, 60)

    def _begin(self, *words: str) -> Process:
        log = self._directory / f"{words[0]}-{len(self.processes)}.log"
        self.processes.append(Process(*words, log=log, environ=clean_environ()))
        return self.processes[-1]

    def _is_ready(self) -> bool:
        try:
            return [one["state"] for one in self.http.get("/v1/workers").json()["data"]] == ["idle"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False


def _keys(*words: str, home: Path) -> None:
    command = [sys.executable, "-m", "broker", "keys", *words, "--home", str(home)]
    subprocess.run(command, check=True, cwd=ROOT, env=clean_environ(), capture_output=True)
