"""Every operation of the OpenAPI document, asked with what fits its schema and with what does not: no 500, nothing undeclared.

Schemathesis makes the requests, the same ones each time, bounded in number. `positive_data_acceptance` is left out: that an id or a path of
the right form names nothing is no fault of the schema.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Examples an operation in the fuzzing phase; the coverage phase makes one request for each boundary of each field.
EXAMPLES = 4


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A listening edge over a made-up broker."""
    with (tmp_path / "edge.log").open("wb") as log:
        target = subprocess.Popen(
            [sys.executable, "-m", "tests.edge.fuzz_target", str(tmp_path)], stdout=subprocess.PIPE, stderr=log
        )
    assert target.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(target.stdout.readline())}"
    finally:
        target.terminate()
        target.wait(20)
        target.stdout.close()


def test_the_whole_document_holds(address: str, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{address}/openapi.json",
        "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink",
        "--exclude-checks", "positive_data_acceptance", "--warnings", "off", "--no-color",
    ]  # fmt: skip

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    selected, total = map(int, re.search(r"Selected: (\d+)/(\d+)", ran.stdout).groups())
    assert selected == total >= 80
    assert int(re.search(r"(\d+) generated", ran.stdout)[1]) > 1000
