"""Every operation of the OpenAPI document, asked with what fits its schema and with what does not: no 500, nothing undeclared.

Schemathesis makes the requests, the same ones each time, bounded in number: what it draws depends on the order of sets too, so its process
has a fixed hash seed. `PYTHONHASHSEED=7 python -m pytest tests/edge/test_schemathesis.py` draws others. `positive_data_acceptance` is left
out: that an id or a path of the right form names nothing is no fault of the schema. Of operations that take the very same request (several
paths make tasks) one is asked with every boundary of every field, the others with some examples only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

#: Examples an operation in the fuzzing phase; the coverage phase makes one request for each boundary of each field.
EXAMPLES = 3

#: Of the processes that make and answer the requests.
ENVIRON = {"PYTHONHASHSEED": "0", **os.environ}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A listening edge over a made-up broker."""
    with (tmp_path / "edge.log").open("wb") as log:
        target = subprocess.Popen(
            [sys.executable, "-m", "tests.edge.fuzz_target", str(tmp_path)],
            env=ENVIRON,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert target.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(target.stdout.readline())}"
    finally:
        target.terminate()
        target.wait(60)
        target.stdout.close()


def twins(document: dict[str, Any]) -> list[str]:
    """Paths of which every operation takes the same body and parameters as one that stands before it."""
    seen: set[str] = set()
    found = []
    for path, operations in document["paths"].items():
        taken = [
            json.dumps([method, one.get("requestBody"), one.get("parameters")], sort_keys=True)
            for method, one in operations.items()
            if "requestBody" in one
        ]
        if len(taken) == len(operations) and seen.issuperset(taken):
            found.append(path)
        seen.update(taken)
    return found


def check(address: str, directory: Path, phases: str, *paths: str) -> tuple[int, int, int]:
    """(operations asked, operations there are, requests made), none of which showed a fault."""
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{address}/openapi.json",
        "--phases", phases, "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink",
        "--exclude-checks", "positive_data_acceptance", "--warnings", "off", "--no-color", *paths,
    ]  # fmt: skip

    ran = subprocess.run(command, cwd=directory, env=ENVIRON, capture_output=True, text=True, timeout=1800, check=False)

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    selected, total = map(int, re.search(r"Selected: (\d+)/(\d+)", ran.stdout).groups())
    return selected, total, int(re.search(r"(\d+) generated", ran.stdout)[1])


def test_the_whole_document_holds(address: str, tmp_path: Path) -> None:
    alike = twins(httpx.get(f"{address}/openapi.json", trust_env=False).json())
    assert "/v1/tasks/video" in alike
    assert not {"/v1/tasks", "/v1/videos", "/v1/jobs", "/v1/images/edits"} & set(alike)

    first, total, made = check(address, tmp_path, "coverage,fuzzing", *(f"--exclude-path={path}" for path in alike))
    rest, _, examples = check(address, tmp_path, "fuzzing", *(f"--include-path={path}" for path in alike))

    assert first + rest == total >= 80
    assert made > 1000
    assert examples >= rest
