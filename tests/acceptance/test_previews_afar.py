"""A worker over tcp that shares no disk with the edge: what it draws is seen in the job's event stream while it is drawn."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.testing.far_service import FarService

pytestmark = pytest.mark.slow

#: Long enough for a preview to be sent while the next is drawn.
SLOW = {"fake": "slow", "fake_step_s": 0.15}


@pytest.fixture
def service(short_dir: Path) -> Iterator[FarService]:
    found = FarService(short_dir)
    try:
        found.start_worker("--model", "fake")
        yield found
    finally:
        found.close()


def test_previews_arrive_in_the_event_stream_while_it_is_drawn(service: FarService) -> None:
    client, far = service.http, service.far
    fields = {"prompt": "seen from afar", "previews": 3, "num_inference_steps": 24, "extra": SLOW}
    job_id = client.post("/v1/jobs", json=fields).json()["id"]
    seen: dict[str, tuple[str, bytes]] = {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        for line in stream.iter_lines():
            reported = json.loads(line.partition(": ")[2]) if line.startswith("data: ") else {}
            if reported.get("preview") and reported["preview"] not in seen:
                seen[reported["preview"]] = reported["state"], client.get(reported["preview"]).content
            if reported.get("state") in ("succeeded", "failed", "cancelled"):
                break
    assert reported["state"] == "succeeded"
    drawn = [data for state, data in seen.values() if state == "running"]
    assert len(drawn) >= 2, list(seen)
    assert len(set(drawn)) == len(drawn)
    for data in drawn:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
    # They came over the wire: with the worker lies what is not sent yet, and no preview that the edge could have read there.
    assert list(far.glob("artefacts/*/*/*.png")) == []
