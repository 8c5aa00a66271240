"""Every operation of the OpenAPI document, asked with what fits its schema and with what does not: no 500, nothing undeclared.

Schemathesis makes the requests, the same ones each time, bounded in number: what it draws depends on the order of sets too, so its process
has a fixed hash seed. `PYTHONHASHSEED=7 python -m pytest tests/edge/test_schemathesis.py` draws others. `positive_data_acceptance` is left
out: that an id or a path of the right form names nothing is no fault of the schema. Every boundary of a field is asked once in the JSON of
each API family and once in a form; examples are drawn of all fields of all operations.
"""

from __future__ import annotations

import copy
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


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def without_repeats(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """(document less optional fields that an operation before takes: in JSON one with the same errors, in a form any; fields taken out).

    All bodies of a family are read by one reader from one declaration, and forms by one reader into JSON: a boundary need be asked once.
    """
    document = copy.deepcopy(document)
    seen: set[str] = set()
    taken_out = 0
    for operations in document["paths"].values():
        for operation in operations.values():
            errors = json.dumps([operation["responses"].get(status) for status in ("400", "422")])
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                schema = copy.deepcopy(resolved(document, body["schema"]))
                for name, field in list(schema.get("properties", {}).items()):
                    known = json.dumps([errors if kind == "application/json" else "form", name, field], sort_keys=True)
                    if known in seen and name not in schema.get("required", ()):
                        del schema["properties"][name]
                        taken_out += 1
                    seen.add(known)
                body["schema"] = schema
    return document, taken_out


def check(schema: Path, address: str, phase: str, directory: Path) -> tuple[int, int]:
    """(operations asked, requests made), none of which showed a fault."""
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", schema, "--url", address,
        "--phases", phase, "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink",
        "--exclude-checks", "positive_data_acceptance", "--warnings", "off", "--no-color",
    ]  # fmt: skip

    ran = subprocess.run(command, cwd=directory, env=ENVIRON, capture_output=True, text=True, timeout=1800, check=False)

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    return int(re.search(r"Selected: (\d+)", ran.stdout)[1]), int(re.search(r"(\d+) generated", ran.stdout)[1])


def test_the_whole_document_holds(address: str, tmp_path: Path) -> None:
    document = httpx.get(f"{address}/openapi.json", trust_env=False).json()
    operations = sum(map(len, document["paths"].values()))
    trimmed, taken_out = without_repeats(document)
    paths = {"coverage": tmp_path / "trimmed.json", "fuzzing": tmp_path / "whole.json"}
    paths["coverage"].write_text(json.dumps(trimmed))
    paths["fuzzing"].write_text(json.dumps(document))

    of_boundaries, made = check(paths["coverage"], address, "coverage", tmp_path)
    of_examples, drawn = check(paths["fuzzing"], address, "fuzzing", tmp_path)

    assert of_boundaries == of_examples == operations >= 80
    assert taken_out > 100
    assert made > 3000
    assert drawn >= operations
