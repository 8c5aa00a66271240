import json
import re

import pytest

from tests.scripts.support import FakeServer, closed_port, run_script

ROUTE = "/v1/local/video/generate"
CLIENTS = ("post.py", "check_status.py", "stop_running_task.py", "post_multi_servers.py")


def printed(text, title):
    """The JSON printed behind a title."""
    return json.JSONDecoder().raw_decode(text.split(f"{title}: ", 1)[1])[0]


def test_post_sends_the_guides_message():
    def take(message):
        return {
            "task_id": message["task_id"],
            "task_status": "processing",
            "save_video_path": message["save_video_path"],
        }

    with FakeServer({("POST", ROUTE): take}) as server:
        done = run_script("post.py", "--url", server.url)
    assert done.returncode == 0, done.stderr
    ((_, _, message),) = server.requests
    assert message["task_id_must_unique"] is True
    assert message["prompt"].startswith("Two anthropomorphic cats in comfy boxing gear")
    assert message["negative_prompt"].startswith("色调艳丽，过曝，静态")
    assert message["negative_prompt"].endswith("背景人很多，倒着走")
    assert message["image_path"] == ""
    assert message["save_video_path"] == "./output_lightx2v_wan_t2v_t02.mp4"
    assert re.fullmatch(r"([A-Z0-9]{4}-){4}[A-Z0-9]{4}", message["task_id"])
    assert printed(done.stdout, "reply")["task_id"] == message["task_id"]


def test_every_run_has_its_own_task_id():
    with FakeServer({("POST", ROUTE): lambda message: {"task_id": message["task_id"]}}) as server:
        run_script("post.py", "--url", server.url)
        run_script("post.py", "--url", server.url)
    assert len({message["task_id"] for _, _, message in server.requests}) == 2


@pytest.mark.parametrize("answer", [{"error": "Service busy"}, (422, {"detail": [{"msg": "prompt: missing"}]})])
def test_post_shows_a_refusal_and_fails(answer):
    with FakeServer({("POST", ROUTE): answer}) as server:
        done = run_script("post.py", "--url", server.url)
    assert done.returncode == 1
    assert printed(done.stdout, "reply") in (answer, answer[1] if isinstance(answer, tuple) else None)


def test_check_status_asks_for_the_running_task():
    answers = {
        ("GET", f"{ROUTE}/service_status"): {"service_status": "busy", "task_id": "t1"},
        ("GET", f"{ROUTE}/get_all_tasks"): {"t0": {"success": True}},
        ("POST", f"{ROUTE}/task_status"): lambda message: {"task_status": "processing", "asked": message["task_id"]},
    }
    with FakeServer(answers) as server:
        done = run_script("check_status.py", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert printed(done.stdout, "service_status") == {"service_status": "busy", "task_id": "t1"}
    assert printed(done.stdout, "get_all_tasks") == {"t0": {"success": True}}
    assert printed(done.stdout, "task_status of t1") == {"task_status": "processing", "asked": "t1"}


def test_check_status_of_an_idle_service_asks_for_a_named_task_only():
    answers = {
        ("GET", f"{ROUTE}/service_status"): {"service_status": "idle"},
        ("GET", f"{ROUTE}/get_all_tasks"): {},
        ("POST", f"{ROUTE}/task_status"): {"task_status": "not_found"},
    }
    with FakeServer(answers) as server:
        assert "task_status of" not in run_script("check_status.py", "--url", server.url).stdout
        assert "task_status of x" in run_script("check_status.py", "--url", server.url, "--task_id", "x").stdout


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("do_nothing", 0), ("error", 1), ("warning", 1)])
def test_stop_tells_how_it_went(status, code):
    reply = {"stop_status": status, "reason": "a reason"}
    with FakeServer({("GET", f"{ROUTE}/stop_running_task"): reply}) as server:
        done = run_script("stop_running_task.py", "--url", f"{server.url}/")
    assert done.returncode == code
    assert printed(done.stdout, "stop_running_task") == reply


@pytest.mark.parametrize("script", CLIENTS)
def test_no_server_is_one_sentence(script):
    done = run_script(script, "--url", f"http://127.0.0.1:{closed_port()}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no server answers at http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("answer", [b"<html>", b"[1]"])
def test_another_server_is_one_sentence(answer):
    with FakeServer({("GET", f"{ROUTE}/stop_running_task"): (200, answer)}) as server:
        done = run_script("stop_running_task.py", "--url", server.url)
    assert done.returncode == 1
    assert "is another server on this port?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_url_that_is_none_is_one_sentence():
    done = run_script("check_status.py", "--url", "nonsense")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
