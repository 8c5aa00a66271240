"""Event streams: snapshot, progress, resume, keep-alive, gaps, and their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.edge.conftest import World


class Stream:
    """Reads one event stream block by block."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self._lines: Iterator[str] = response.iter_lines()

    def block(self) -> dict[str, Any]:
        """The next block: its fields, its comment, or {} at the end of the stream."""
        fields: dict[str, Any] = {}
        for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name or "comment"] = value.strip()
        return fields

    def event(self) -> tuple[str, dict[str, Any]]:
        """The next event's name and data, comments passed over."""
        while True:
            block = self.block()
            if "event" in block:
                return block["event"], json.loads(block["data"])
            assert "comment" in block or "retry" in block, "the stream ended"


def test_a_stream_from_the_first_state_to_the_last(world: World) -> None:
    job = world.submit()
    with world.http.stream("GET", job["urls"]["events"]) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        stream = Stream(response)
        assert stream.block() == {"retry": "1000"}
        first = stream.block()
        assert (first["event"], int(first["id"])) == ("state", world.fake.jobs[job["id"]].revision)
        assert json.loads(first["data"])["spec"] == job["spec"]
        world.do(world.fake.run, job["id"])
        name, data = stream.event()
        assert (name, data["state"], data["attempts"]) == ("state", "running", 1)
        world.do(world.fake.step, job["id"], 4)
        name, data = stream.event()
        assert name == "progress"
        assert data == {
            "id": job["id"],
            "state": "running",
            "progress": 47,
            "phase": "denoise",
            "step": 4,
            "total": 8,
            "position": None,
            "eta_s": None,
            "worker": "cpu-0",
            "preview": None,
        }
        world.do(world.fake.succeed, job["id"])
        name, data = stream.event()
        assert (name, data["state"], data["progress"]) == ("state", "succeeded", 100)
        assert data["artefacts"][0]["url"] == f"/v1/jobs/{job['id']}/result?name=video.mp4"
        assert stream.block() == {}
    assert world.edge.hub.listeners == 0


def test_the_final_event_comes_after_the_clients_path_is_filled(world: World) -> None:
    job = world.submit(save_to="out.mp4")
    world.do(world.fake.run, job["id"])
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()
        world.do(world.fake.succeed, job["id"])
        assert stream.event()[1]["state"] == "succeeded"
        assert (world.start / "out.mp4").exists()


def test_a_slow_reader_gets_the_newest_state(world: World) -> None:
    job = world.submit()
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()

        def burst() -> None:
            world.fake.run(job["id"])
            for step in range(1, 8):
                world.fake.step(job["id"], step)

        world.do(burst)
        name, data = stream.event()
        # One event for all of them; that the state changed too is not lost.
        assert (name, data["state"], data["step"]) == ("state", "running", 7)
        world.do(world.fake.stop, job["id"])
        assert stream.event()[1]["state"] == "cancelled"


def test_resuming_sends_only_what_is_new(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    seen = world.fake.jobs[job["id"]].revision
    with world.http.stream("GET", job["urls"]["events"], headers={"last-event-id": str(seen)}) as response:
        stream = Stream(response)
        assert stream.block() == {"retry": "1000"}
        world.do(world.fake.step, job["id"], 1)
        name, data = stream.event()
        assert (name, data["step"]) == ("progress", 1)
        world.do(world.fake.stop, job["id"])
        assert stream.event()[1]["state"] == "cancelled"


def test_resuming_after_missing_something_begins_with_the_whole_state(world: World) -> None:
    job = world.submit()
    seen = world.fake.jobs[job["id"]].revision
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"])
    response = world.http.get(job["urls"]["events"], params={"last_event_id": seen})
    name, data = Stream(response).event()
    assert (name, data["state"], data["spec"]["prompt"]) == ("state", "succeeded", "a red circle")


def test_a_finished_stream_fully_seen_is_204(world: World) -> None:
    job = world.finished()
    seen = str(world.fake.jobs[job["id"]].revision)
    assert world.http.get(job["urls"]["events"], headers={"last-event-id": seen}).status_code == 204
    assert world.http.get(job["urls"]["events"], params={"last_event_id": seen}).status_code == 204
    for useless in ("", "abc", "-1", "9" * 30, "²"):
        again = world.http.get(job["urls"]["events"], params={"last_event_id": useless})
        assert Stream(again).event()[1]["state"] == "succeeded"


def test_an_id_from_the_future_of_a_running_job_is_not_believed(world: World) -> None:
    job = world.submit()
    headers = {"last-event-id": str(2**62)}
    with world.http.stream("GET", job["urls"]["events"], headers=headers) as response:
        stream = Stream(response)
        assert stream.event()[1]["state"] == "queued"
        world.do(world.fake.stop, job["id"])
        assert stream.event()[1]["state"] == "cancelled"


def test_silence_is_filled_with_comments(open_edge: Callable[..., World]) -> None:
    world = open_edge(keep_alive_s=0.01)
    job = world.submit()
    world.do(world.fake.run, job["id"])
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()
        assert stream.block() == {"comment": "keep-alive"}
        assert stream.block() == {"comment": "keep-alive"}
        world.do(world.fake.stop, job["id"])
        assert stream.event()[1]["state"] == "cancelled"


def test_a_queue_position_that_moves_is_progress_without_an_id(open_edge: Callable[..., World]) -> None:
    world = open_edge(keep_alive_s=0.01)
    world.edge.hub.memory._clock = iter(range(10**6)).__next__
    world.submit()
    job = world.submit()
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        assert stream.event()[1]["position"] == 1
        world.fake.jobs[job["id"]] = msgspec.structs.replace(world.fake.jobs[job["id"]], position=0)
        while "data" not in (block := stream.block()):
            assert block == {"comment": "keep-alive"}
        assert (block["event"], "id" in block, json.loads(block["data"])["position"]) == ("progress", False, 0)
        world.do(world.fake.stop, job["id"])
        stream.event()


def test_after_a_gap_a_stream_asks_for_the_state(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()

        def lose_an_event() -> None:
            tell, world.fake.on_event = world.fake.on_event, lambda view: None
            world.fake.succeed(job["id"])
            world.fake.on_event = tell
            world.fake.gap()

        world.do(lose_an_event)
        assert stream.event()[1]["state"] == "succeeded"
        assert stream.block() == {}


def test_a_stream_outlives_a_broker_that_is_down(open_edge: Callable[..., World]) -> None:
    world = open_edge(keep_alive_s=0.01)
    job = world.submit()
    world.do(world.fake.run, job["id"])
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()
        world.fake.down = True
        world.do(world.fake.gap)
        assert stream.block() == {"comment": "keep-alive"}
        world.fake.down = False
        world.do(world.fake.stop, job["id"])
        assert stream.event()[1]["state"] == "cancelled"


def test_streams_end_when_the_edge_stops(world: World) -> None:
    job = world.submit()
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()
        world.do(world.edge.hub.close)
        assert stream.block() == {}


def test_a_client_that_leaves_is_forgotten(world: World) -> None:
    job = world.submit()
    with world.http.stream("GET", job["urls"]["events"]) as response:
        stream = Stream(response)
        stream.event()
        assert world.edge.hub.listeners == 1
    assert world.edge.hub.listeners == 0


def test_head_of_a_stream_does_not_hang(world: World) -> None:
    job = world.submit()
    response = world.http.head(job["urls"]["events"])
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_a_videos_stream_shows_the_video_with_its_public_statuses(world: World) -> None:
    video = world.http.post("/v1/videos", json={"prompt": "a"}).json()
    with world.http.stream("GET", f"/v1/videos/{video['id']}/events") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        stream = Stream(response)
        seen = [stream.event()]
        world.do(world.fake.run, video["id"])
        seen.append(stream.event())
        world.do(world.fake.succeed, video["id"])
        seen.append(stream.event())
        assert stream.block() == {}
    assert [name for name, _ in seen] == ["video.queued", "video.in_progress", "video.completed"]
    assert [data["status"] for _, data in seen] == ["queued", "in_progress", "completed"]
    assert {data["object"] for _, data in seen} == {"video"}
    assert seen[-1][1]["progress"] == 100

    job = world.submit()
    assert world.http.get(f"/v1/videos/{job['id']}/events").status_code == 404
