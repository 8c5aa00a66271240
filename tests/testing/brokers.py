"""Brokers in processes of their own, one after another over one home."""

from __future__ import annotations

from pathlib import Path

from bench.harness.process import Process, clean_environ
from tests.support.waiting import wait_until


class Brokers:
    """`python -m broker` over one home, as often as the test starts it, each life with a log of its own."""

    def __init__(self, home: Path, run_dir: str) -> None:
        self.home = home
        self.front = f"ipc://{run_dir}/front.sock"
        self.back = f"ipc://{run_dir}/back.sock"
        self._run_dir = run_dir
        self._started: list[Process] = []

    def start(self, *options: str) -> Process:
        process = Process(
            "broker",
            "--home",
            str(self.home),
            "--run-dir",
            self._run_dir,
            *options,
            log=self.home / f"log-{len(self._started)}",
            environ=clean_environ(ZOETROPE_RESERVE_MB="0"),
        )
        self._started.append(process)
        return process

    def serve(self, *options: str) -> Process:
        process = self.start(*options)
        wait_until(lambda: " serving " in process.logged() or process.poll() is not None)
        assert process.poll() is None, process.logged()
        return process

    def fails(self, *options: str) -> tuple[int, str]:
        """(exit code, what it said) of a broker that must not start."""
        process = self.start(*options)
        return process.wait(60), process.logged()

    def close(self) -> None:
        for process in self._started:
            process.end()
