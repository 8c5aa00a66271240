"""A worker over tcp that shares no disk with the edge: what it draws is seen in the job's event stream while it is drawn."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from bench.harness.process import ROOT, Process, clean_environ, end_all, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

#: Long enough for a preview to be sent while the next is drawn.
SLOW = {"fake": "slow", "fake_step_s": 0.15}


def keys(*words: str, home: Path) -> None:
    command = [sys.executable, "-m", "broker", "keys", *words, "--home", str(home)]
    subprocess.run(command, check=True, cwd=ROOT, env=clean_environ(), capture_output=True)


@pytest.fixture
def service(short_dir: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """(a client of the edge, the home of the worker, which is not the edge's)."""
    home, far = short_dir / "here", short_dir / "there"
    keys("init", home=home)
    keys("add", "node-2", "--role", "worker", home=home)
    (far / "curve").mkdir(mode=0o700, parents=True)
    shutil.move(home / "curve" / "issued" / "node-2.key", far / "curve" / "worker.key")
    back, port = f"tcp://127.0.0.1:{free_port()}", free_port()
    url = f"http://127.0.0.1:{port}"
    lines = (
        ["broker", "--home", str(home), "--back-tcp", back],
        ["http_edge", "--home", str(home), "--host", "127.0.0.1", "--port", str(port)],
        ["workers", "--home", str(far), "--gpus", "cpu", "--model", "fake", "--back", back, "--depot", url],
    )
    processes = [Process(*line, log=short_dir / f"{line[0]}.log", environ=clean_environ()) for line in lines]

    def is_ready() -> bool:
        try:
            return [one["state"] for one in client.get("/v1/workers").json()["data"]] == ["idle"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    with httpx.Client(base_url=url, timeout=60) as client:
        try:
            wait_until(is_ready, 120, "a worker that is idle")
            yield client, far
        finally:
            assert not end_all(processes, 60)


def test_previews_arrive_in_the_event_stream_while_it_is_drawn(service: tuple[httpx.Client, Path]) -> None:
    client, far = service
    fields = {"prompt": "seen from afar", "previews": 3, "num_inference_steps": 24, "extra": SLOW}
    job_id = client.post("/v1/jobs", json=fields).json()["id"]
    seen: dict[str, tuple[str, bytes]] = {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        for line in stream.iter_lines():
            told = json.loads(line.partition(": ")[2]) if line.startswith("data: ") else {}
            if told.get("preview") and told["preview"] not in seen:
                seen[told["preview"]] = told["state"], client.get(told["preview"]).content
            if told.get("state") in ("succeeded", "failed", "cancelled"):
                break
    assert told["state"] == "succeeded"
    drawn = [data for state, data in seen.values() if state == "running"]
    assert len(drawn) >= 2, list(seen)
    assert len(set(drawn)) == len(drawn)
    for data in drawn:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
    # They came over the wire: with the worker lies what is not sent yet, and no preview that the edge could have read there.
    assert list(far.glob("artefacts/*/*/*.png")) == []
