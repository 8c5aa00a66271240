"""OpenAI's Videos API: videos are shown, listed, deleted and found by their URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from http_edge.auth.keys import KeyRecord, hash_of, new_key, write_keys
from tests.edge.conftest import World
from tests.edge.openai_videos import URL, completed, create
from tests.edge.small_media import clip

# ---------------------------------------------------------------- retrieve


def test_progress_never_falls_and_is_100_only_at_the_end(world: World) -> None:
    video = create(world)
    seen = []

    def look() -> str:
        body = world.http.get(f"{URL}/{video['id']}").json()
        seen.append(body["progress"])
        return body["status"]

    assert look() == "queued"
    world.do(world.fake.run, video["id"])
    assert look() == "in_progress"
    world.do(world.fake.step, video["id"], 6)
    assert look() == "in_progress"
    world.do(world.fake.lose, video["id"])
    assert look() == "in_progress", "a job that has begun is never queued again"
    world.do(world.fake.run, video["id"])
    world.do(world.fake.step, video["id"], 1)
    assert look() == "in_progress"
    world.do(world.fake.step, video["id"], 1, phase="finished")
    assert look() == "in_progress"
    assert max(seen) < 100
    world.do(world.fake.succeed, video["id"])
    assert look() == "completed"
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_a_completed_video_carries_what_benchmarks_read(world: World) -> None:
    video = completed(world)
    assert (video["status"], video["completed_at"] > video["created_at"], video["error"]) == ("completed", True, None)
    assert (video["stage_durations"], video["inference_time_s"], video["num_outputs"]) == ({"denoise": 1.25}, 2.5, 1)
    assert video["peak_memory_mb"] == 0.0
    assert (video["file_name"], video["media_type"]) == (f"{video['id']}.mp4", "video/mp4")
    assert (video["num_frames"], video["fps"], video["duration_s"]) == (17, 8.0, 2.125)


def test_when_to_ask_again_comes_from_the_eta(world: World) -> None:
    video = create(world)
    url = f"{URL}/{video['id']}"
    world.do(world.fake._change, video["id"], eta_s=12.0)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "1200"
    world.do(world.fake._change, video["id"], eta_s=3600.0)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "5000"
    world.do(world.fake._change, video["id"], eta_s=0.01)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "100"
    world.do(world.fake.run, video["id"])
    world.do(world.fake.succeed, video["id"])
    assert "openai-poll-after-ms" not in world.http.get(url).headers


def test_a_failed_video_is_a_good_answer(world: World) -> None:
    video = create(world)
    world.do(world.fake.run, video["id"])
    world.do(world.fake.fail, video["id"], "the GPU fell off")
    answer = world.http.get(f"{URL}/{video['id']}")
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "failed")
    assert body["error"] == {"code": "engine_error", "message": "the GPU fell off"}
    assert body["progress"] < 100
    assert body["completed_at"] is None


def test_a_cancelled_video_has_failed_by_that(world: World) -> None:
    video = create(world)
    world.http.post(f"/v1/jobs/{video['id']}/cancel")
    body = world.http.get(f"{URL}/{video['id']}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "cancelled")


@pytest.mark.parametrize("video_id", ["video_nobody", "bad%20id", "x" * 200])
def test_an_unknown_video_is_404(world: World, video_id: str) -> None:
    answer = world.http.get(f"{URL}/{video_id}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "video")


def test_other_apis_jobs_are_not_videos(world: World) -> None:
    job = world.submit()
    assert world.http.get(f"{URL}/{job['id']}").status_code == 404
    assert world.http.delete(f"{URL}/{job['id']}").status_code == 404
    assert world.http.get(URL).json()["data"] == []


# ---------------------------------------------------------------- list


def test_pages_in_both_orders(world: World) -> None:
    ids = [create(world)["id"] for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = world.http.get(URL, params={"limit": 2, "order": "asc", "after": after}).json()
        seen += [video["id"] for video in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == ids
    newest = world.http.get(URL).json()
    assert [video["id"] for video in newest["data"]] == ids[::-1]
    assert (newest["object"], newest["has_more"]) == ("list", False)


def test_videos_behind_many_other_jobs_are_found_and_a_search_for_them_ends(world: World) -> None:
    """An SDK's iterator ends at an empty page, so that one comes only after a long search."""
    first = create(world)["id"]
    others = [world.submit(prompt="no video of OpenAI's") for _ in range(115)]
    newest = create(world)["id"]
    world.fake.looked_at = 1
    short = world.http.get(URL).json()
    assert ([video["id"] for video in short["data"]], short["has_more"]) == ([newest], True)
    assert short["searched_to"] == others[106]["submitted_at"]
    empty = world.http.get(URL, params={"after": short["last_id"]}).json()
    assert (empty["data"], empty["has_more"], empty["first_id"]) == ([], True, None)
    assert empty["searched_to"] == others[6]["submitted_at"]
    last = world.http.get(URL, params={"after": empty["last_id"]}).json()
    assert ([video["id"] for video in last["data"]], last["has_more"], last["last_id"]) == ([first], False, first)
    assert "searched_to" not in last
    world.fake.looked_at = 2
    found = world.http.get(URL, params={"after": newest}).json()
    assert [video["id"] for video in found["data"]] == [first]


def test_a_page_of_none_says_whether_there_are_any(world: World) -> None:
    assert world.http.get(URL, params={"limit": 0}).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
    create(world)
    assert world.http.get(URL, params={"limit": 0}).json()["has_more"] is True


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_who_deletes_what_it_lists_reaches_the_end(world: World, order: str) -> None:
    ids = {create(world)["id"] for _ in range(7)}
    gone: set[str] = set()
    after = ""
    while True:
        page = world.http.get(URL, params={"limit": 2, "order": order, "after": after}).json()
        for video in page["data"]:
            assert world.http.delete(f"{URL}/{video['id']}").status_code == 200
            gone.add(video["id"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert gone == ids


def test_behind_an_id_that_never_was_there_is_nothing(world: World) -> None:
    create(world)
    assert world.http.get(URL, params={"after": "video_nobody"}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"), [("limit=101", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("order=up", "order")]
)
def test_bad_pages_are_400(world: World, query: str, param: str) -> None:
    answer = world.http.get(f"{URL}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# ---------------------------------------------------------------- delete


def test_deleting_a_queued_video_cancels_and_forgets_it(world: World) -> None:
    video = create(world)
    answer = world.http.delete(f"{URL}/{video['id']}", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (
        200,
        {"id": video["id"], "object": "video.deleted", "deleted": True},
    )
    assert world.http.get(f"{URL}/{video['id']}").status_code == 404
    assert world.http.delete(f"{URL}/{video['id']}").status_code == 404
    assert world.http.get(URL).json()["data"] == []


def test_deleting_a_running_video_waits_for_its_stop(world: World) -> None:
    video = create(world)
    world.do(world.fake.run, video["id"])
    assert world.http.delete(f"{URL}/{video['id']}").json()["deleted"] is True
    assert world.http.get(f"{URL}/{video['id']}").status_code == 404


def test_deleting_what_does_not_stop_asks_to_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.jobs.delete_job.STOP_WAIT_S", 0.01)
    world.fake.obeys_cancel = False
    video = create(world)
    world.do(world.fake.run, video["id"])
    answer = world.http.delete(f"{URL}/{video['id']}")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "true")
    assert answer.json()["error"]["code"] == "still_stopping"
    world.do(world.fake.stop, video["id"])
    assert world.http.delete(f"{URL}/{video['id']}").status_code == 200


def test_deleting_a_completed_video_takes_its_files(world: World) -> None:
    video = completed(world)
    files = list(world.fake.artefacts.rglob("video.mp4"))
    assert len(files) == 1
    world.http.delete(f"{URL}/{video['id']}")
    assert not files[0].exists()
    assert world.http.get(f"{URL}/{video['id']}/content").status_code == 404


# ---------------------------------------------------------------- where the file is


def test_the_url_of_a_video_is_one_that_can_be_asked_for(world: World) -> None:
    video = completed(world, clip())
    assert video["url"] == f"{str(world.http.base_url).rstrip('/')}{URL}/{video['id']}/content"
    assert world.http.get(video["url"]).content[4:8] == b"ftyp"
    by_address = world.http.get(f"{URL}/{video['id']}", headers={"Host": "127.0.0.1:8000"}).json()
    assert by_address["url"] == f"http://127.0.0.1:8000{URL}/{video['id']}/content"
    assert world.http.get(f"{URL}/{video['id']}").json()["url"] == video["url"]
    assert world.http.get(URL).json()["data"][0]["url"] == video["url"]


def test_the_url_of_a_video_begins_with_the_address_that_the_service_is_known_by(
    open_edge: Callable[..., World],
) -> None:
    world = open_edge(public_url="https://media.example.com/")
    video = completed(world, clip())
    assert video["url"] == f"https://media.example.com{URL}/{video['id']}/content"


def test_there_is_no_url_where_it_would_need_a_key(open_edge: Callable[..., World], tmp_path: Path) -> None:
    key = new_key()
    write_keys(tmp_path / "keys", [KeyRecord(name="one", tenant="red", hash=hash_of(key))])
    world = open_edge(keys_file=str(tmp_path / "keys"))
    world.http.headers["Authorization"] = f"Bearer {key}"
    video = completed(world, clip())
    assert (video["status"], video["url"]) == ("completed", None)
