"""`use_prompt_enhancer`, with a chat endpoint on this machine that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from broker.runtime.settings import SettingsError
from broker.wire.jobspec import MAX_PROMPT_CHARS, decode_spec
from http_edge.base.settings import EdgeSettings
from http_edge.jobs.prompt_enhancer import PromptEnhancer
from tests.edge.conftest import World
from tests.edge.levers import draws
from tests.edge.small_media import picture
from tests.testing.fake_broker import PICTURE


class Endpoint:
    """Answers with `status` and `body`, after `go`."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 200
        self.body = b""
        self.go = threading.Event()
        self.go.set()
        self.answer("a tabby cat, curled on a red cushion")

    def answer(self, text: str) -> None:
        self.body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            served.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            served.keys.append(self.headers["authorization"])
            served.go.wait(60)
            try:
                self.send_response(served.status)
                self.send_header("Content-Length", str(len(served.body)))
                self.end_headers()
                self.wfile.write(served.body)
            except OSError:
                pass  # the asker has left

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    yield served
    served.go.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(open_edge: Callable[..., World], endpoint: Endpoint) -> Callable[..., World]:
    def open_one(**settings: Any) -> World:
        fields = {
            "prompt_enhancer_url": endpoint.url,
            "prompt_enhancer_model": "writer",
            "prompt_enhancer_allow": ("127.0.0.1",),
            **settings,
        }
        return open_edge(**fields)

    return open_one


def drawn(world: World, job_id: str) -> str:
    """The prompt that the engine gets."""
    return decode_spec(world.fake.submits[job_id].body).prompt


def test_the_enhanced_prompt_is_drawn_and_shown_beside_the_clients(
    opened: Callable[..., World], endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("sk-secret\n")
    world = opened(prompt_enhancer_key_file=str(tmp_path / "key"))
    endpoint.answer('<think>a cat, so a tabby</think>\n"a tabby cat, curled on a red cushion" ')
    job = world.submit(prompt="a cat", use_prompt_enhancer=True)
    spec = world.http.get(job["urls"]["self"]).json()["spec"]
    assert (spec["prompt"], spec["enhanced_prompt"]) == ("a cat", "a tabby cat, curled on a red cushion")
    assert drawn(world, job["id"]) == "a tabby cat, curled on a red cushion"
    (asked,) = endpoint.asked
    assert asked["model"] == "writer"
    assert "draws videos" in asked["messages"][0]["content"]
    assert asked["messages"][1] == {"role": "user", "content": "a cat"}
    assert endpoint.keys == ["Bearer sk-secret"]


@pytest.mark.parametrize("fields", [{}, {"use_prompt_enhancer": False}])
def test_nothing_is_asked_where_nobody_wants_it(
    opened: Callable[..., World], endpoint: Endpoint, fields: dict[str, Any]
) -> None:
    job = opened().submit(prompt="a cat", **fields)
    assert "enhanced_prompt" not in job["spec"]
    assert job["warnings"] == []
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {}),
        ("/v1/jobs", {"enhance_prompt": True, "use_prompt_enhancer": None}),
        ("/v1/videos", {}),
        ("/v1/tasks/video", {}),
        ("/v1/local/video/generate", {"task_id": "t", "save_video_path": "t.mp4"}),
        ("/api/v1/task/submit", {"task": "t2v"}),
    ],
)
def test_every_api_enhances(opened: Callable[..., World], endpoint: Endpoint, path: str, body: dict[str, Any]) -> None:
    world = opened()
    answer = world.http.post(path, json={"prompt": "a cat", "use_prompt_enhancer": True, **body})
    assert answer.status_code == 200, answer.text
    (job_id,) = world.fake.submits
    assert drawn(world, job_id) == "a tabby cat, curled on a red cushion"
    if path == "/v1/videos":
        assert answer.json()["prompt"] == "a cat"


def test_without_an_endpoint_the_prompt_is_drawn_with_a_warning(world: World) -> None:
    job = world.submit(prompt="a cat", use_prompt_enhancer=True)
    assert drawn(world, job["id"]) == "a cat"
    assert job["warnings"] == [
        "use_prompt_enhancer: no prompt enhancer is set up here, so the prompt is drawn as it is"
    ]


def _fails(endpoint: Endpoint, how: str) -> None:
    match how:
        case "slow":
            endpoint.go.clear()
        case "error":
            endpoint.status = 500
        case "garbage":
            endpoint.body = b"<html>no</html>"
        case "other":
            endpoint.body = b'{"choices": []}'
        case "huge":
            endpoint.body = b"x" * (1 << 20)
        case "long":
            endpoint.answer("a" * (MAX_PROMPT_CHARS + 1))
        case "nul":
            endpoint.answer("a\0cat")
        case "empty":
            endpoint.answer(' "" ')


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("slow", "its server did not answer in time"),
        ("error", "its server answered 500"),
        ("garbage", "its answer is no chat completion"),
        ("other", "its answer is no chat completion"),
        ("huge", "its answer has more than 524288 bytes"),
        ("long", "its answer has 20001 characters, at most 20000"),
        ("empty", "its answer is empty"),
        ("nul", "its answer contains a NUL character"),
    ],
)
@pytest.mark.parametrize("policy", ["draw", "refuse"])
def test_an_endpoint_that_fails_is_told_of_and_the_operator_says_what_follows(
    opened: Callable[..., World], endpoint: Endpoint, how: str, said: str, policy: str
) -> None:
    world = opened(prompt_enhancer_on_error=policy, prompt_enhancer_timeout_s=0.3 if how == "slow" else 60.0)
    _fails(endpoint, how)
    answer = world.http.post("/v1/jobs", json={"prompt": "a cat", "use_prompt_enhancer": True})
    if policy == "refuse":
        assert (answer.status_code, answer.json()["detail"]) == (
            503,
            f"use_prompt_enhancer: the prompt enhancer failed: {said}",
        )
        assert answer.headers["retry-after"]
        assert world.fake.submits == {}
    else:
        job = answer.json()
        assert job["warnings"] == [
            f"use_prompt_enhancer: the prompt enhancer failed, so the prompt is drawn as it is: {said}"
        ]
        assert drawn(world, job["id"]) == "a cat"


def test_a_private_endpoint_is_reached_only_where_the_setting_says_so(
    opened: Callable[..., World], endpoint: Endpoint
) -> None:
    job = opened(prompt_enhancer_allow=()).submit(prompt="a cat", use_prompt_enhancer=True)
    assert "it leads to an address or port that this service does not send to" in job["warnings"][0]
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("fields", "headers"), [({"id": "mine"}, {}), ({}, {"Idempotency-Key": "one"})], ids=["id", "key"]
)
def test_a_repeated_request_is_enhanced_once_and_is_one_job(
    opened: Callable[..., World], endpoint: Endpoint, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    world = opened()
    body = {"prompt": "a cat", "use_prompt_enhancer": True, **fields}
    first = world.http.post("/v1/jobs", json=body, headers=headers).json()
    endpoint.answer("something else")
    again = world.http.post("/v1/jobs", json=body, headers=headers).json()
    assert (again["id"], again["spec"]["enhanced_prompt"]) == (first["id"], first["spec"]["enhanced_prompt"])
    assert len(endpoint.asked) == 1
    assert len(world.fake.jobs) == 1


def test_a_repeated_request_whose_first_could_not_be_enhanced_is_the_same_job(
    opened: Callable[..., World], endpoint: Endpoint
) -> None:
    world = opened()
    endpoint.status = 500
    body = {"prompt": "a cat", "use_prompt_enhancer": True, "id": "mine"}
    first = world.http.post("/v1/jobs", json=body).json()
    endpoint.status = 200
    again = world.http.post("/v1/jobs", json=body)
    assert (again.status_code, again.json()["warnings"]) == (200, first["warnings"])
    other = world.http.post("/v1/jobs", json={**body, "prompt": "a dog"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "id_conflict")


def test_pictures_tell_the_revised_prompt(opened: Callable[..., World], endpoint: Endpoint) -> None:
    world = opened()
    draws(world, image_png=picture())
    body = {"prompt": "a cat", "model": PICTURE.name, "use_prompt_enhancer": True}
    answer = world.http.post("/v1/images/generations", json=body)
    assert answer.json()["data"][0]["revised_prompt"] == "a tabby cat, curled on a red cushion"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_enhancer_url": "http://a.example/v1"}, "prompt_enhancer_model: it is missing"),
        ({"prompt_enhancer_allow": ("10.0.0.0/99",)}, "prompt_enhancer_allow: '10.0.0.0/99' is neither"),
        ({"prompt_enhancer_key_file": "/nowhere/key"}, "prompt_enhancer_key_file: '/nowhere/key' cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_start(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PromptEnhancer(EdgeSettings(**fields))
    assert str(caught.value).startswith(message)
