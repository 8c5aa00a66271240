"""Disks that are slow or fail, and wall clocks that are set, under processes that the test starts: see `faulty.c`."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("faulty.c")
_NUMBERS = ("slow_ms", "sync_errno", "write_errno", "ahead_ms", "failed")


class Unbuildable(Exception):
    """The library cannot be built here."""


class Faults:
    """The library, built, and its numbers; all begin at 0."""

    def __init__(self, directory: Path, path: str) -> None:
        """`path`: part of the paths of the files that are concerned. Raises `Unbuildable`."""
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            raise Unbuildable("needs a C compiler (cc) and Linux")
        library = directory / "faulty.so"
        built = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise Unbuildable(f"cc cannot build the library: {built.stderr.strip()[-200:]}")
        self._control = directory / "faults"
        self._control.write_bytes(bytes(8 * len(_NUMBERS)))
        #: For the processes.
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAULTY_CONTROL": str(self._control),
            "FAULTY_PATH": path,
        }

    def set(self, **numbers: int) -> None:
        """From now on, in every process: `slow_ms`, `sync_errno`, `write_errno`, `ahead_ms`."""
        with self._control.open("r+b") as file:
            for name, value in numbers.items():
                file.seek(8 * _NUMBERS.index(name))
                file.write(struct.pack("=q", value))

    @property
    def failed(self) -> int:
        """How many calls have failed."""
        return int(struct.unpack_from("=q", self._control.read_bytes(), 8 * _NUMBERS.index("failed"))[0])


def faults_or_skip(directory: Path, path: str) -> Faults:
    """For a test, which is skipped where the library cannot be built."""
    try:
        return Faults(directory, path)
    except Unbuildable as reason:
        pytest.skip(str(reason))
