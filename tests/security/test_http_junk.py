"""Bytes and bodies that no honest client sends: the edge answers or hangs up, does not grow, and goes on serving."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.security.conftest import few_descriptors
from tests.support.files import files_below
from tests.support.waiting import wait_until
from tests.testing.service import Service

MIB = 1024 * 1024
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"


class StrictService(Service):
    """Its edge takes small bodies and has little patience."""

    def _command(self, name: str) -> list[str]:
        more = ["--upload-idle-s", "2", "--max-upload-mb", "64"] if name == "edge" else []
        return [*super()._command(name), *more]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = StrictService(tmp_path_factory.mktemp("junk"), gpus="cpu:1", model="fake")
    try:
        with few_descriptors():
            made.start()
        made.ready(1)
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def lives(service: Service) -> Iterator[None]:
    """After each test the edge answers, has not grown much, and logged no fault of its own."""
    before = memory(service)
    yield
    assert service.http.get("/health").status_code == 200
    assert memory(service) - before < 120 * MIB
    log = (service.home / "edge.log").read_text()
    assert "Traceback" not in log
    assert not files_below(service.home / "z/uploads", "*.part")


def memory(service: Service) -> int:
    return int(psutil.Process(service.processes["edge"].pid).memory_info().rss)


def send(service: Service, *parts: bytes, patience_s: float = 60.0, upto: bytes = b"") -> bytes:
    """The answer to raw bytes; what came before the other side hung up, or up to `upto`."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=patience_s) as connection:
        answer = b""
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(OSError):
            while piece := connection.recv(65_536):
                answer += piece
                if len(answer) > MIB or (upto and upto in answer):
                    break
        return answer


def status(answer: bytes) -> int:
    """Of the first response; 0 when there is none."""
    words = answer[:40].split(b" ", 2)
    return int(words[1]) if answer.startswith(b"HTTP/1.1 ") else 0


BAD_LINES = {
    "garbage": bytes(range(256)) * 4,
    "a wrong version": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": HEAD + b"Content-Length: 1e3\r\n\r\n",
    "a chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an unknown transfer coding": HEAD + b"Transfer-Encoding: gzip, fish\r\n\r\n{}",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ZMTP": b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(50),
}


@pytest.mark.parametrize("data", BAD_LINES.values(), ids=BAD_LINES)
def test_requests_that_are_none_are_refused_and_never_taken_for_two(service: Service, data: bytes) -> None:
    # What follows must not be taken for a second request when the first is broken.
    answer = send(
        service, data, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", patience_s=3.0
    )
    assert status(answer) in (0, 400, 404, 405, 422, 501)
    if status(answer) in (0, 400):
        assert answer.count(b"HTTP/1.1 ") <= 1


def test_a_client_that_leaves_with_requests_waiting_behind_one_ends_that_one(service: Service) -> None:
    body = b'{"prompt": "left", "fake": "slow", "fake_step_s": 1.0, "num_inference_steps": 200}'
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        connection.sendall(b"GET /v1/workers HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        wait_until(lambda: left(service, "running"), 60)
    wait_until(lambda: left(service, "cancelled"), 90)


def left(service: Service, state: str) -> bool:
    """Whether the job of a client that leaves is in this state."""
    jobs = service.http.get("/v1/jobs", params={"state": state}).json()["data"]
    return any(job["spec"]["prompt"] == "left" for job in jobs)


def test_a_very_long_path_and_a_very_long_query(service: Service) -> None:
    for target in (b"/" + b"a" * 60_000, b"/v1/jobs?" + b"a=b&" * 15_000, b"/v1/jobs/" + b"%00" * 5_000):
        answer = send(service, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert status(answer) in (200, 400, 404, 414, 422, 431)


def test_heads_without_an_end(service: Service) -> None:
    for line in (b"X-A: b\r\n", b"X-" + b"a" * 1000 + b": b\r\n", b"Cookie: " + b"c" * 100_000 + b"\r\n"):
        answer = send(service, b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[line * 50] * 400)
        assert status(answer) in (0, 400, 431)


def test_a_body_in_chunks_without_an_end(service: Service) -> None:
    """Until it is over what a body may have: it is read to disk, if at all, and then refused."""
    chunk = b"%x\r\n%s\r\n" % (64 * 1024, b"a" * 64 * 1024)
    for kind in (b"application/json", b"application/x-www-form-urlencoded", b"text/plain"):
        before, peak = memory(service), 0
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\nContent-Type: " + kind + b"\r\n\r\n")
            with contextlib.suppress(OSError):
                for number in range(4000):  # 250 MB
                    connection.sendall(chunk)
                    if number % 50 == 0:
                        peak = max(peak, memory(service))
            with contextlib.suppress(OSError):
                assert status(connection.recv(65_536)) in (0, 413)
        assert peak - before < 150 * MIB


@pytest.mark.parametrize("part", ["file", "field", "header", "preamble", "parts"])
def test_a_form_without_an_end(service: Service, part: str) -> None:
    start, rest = {
        "file": (b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n', b"a" * 65_536),
        "field": (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n', b"a" * 65_536),
        "header": (b"--b\r\nX-Long: ", b"a" * 65_536),
        "preamble": (b"", b"a" * 65_536),
        "parts": (b"", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 1000),
    }[part]
    before, peak = memory(service), 0
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(HEAD + kind + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            for data in (start, *[rest] * 3000):
                if data:
                    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                    sent += len(data)
                peak = max(peak, memory(service))
        with contextlib.suppress(OSError):
            assert status(connection.recv(65_536)) in (0, 400, 413, 422)
    assert sent < 170 * MIB, "it took all there was"
    assert peak - before < 150 * MIB


def test_bodies_that_stop_coming(service: Service) -> None:
    """Fifty at once: others are served meanwhile, and these are told that they are late."""
    with contextlib.ExitStack() as held:
        waiting = []
        for number in range(50):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + b"{" * (number + 1))
            waiting.append(connection)
        assert service.http.get("/health").status_code == 200
        assert {status(connection.recv(65_536)) for connection in waiting} == {408}


def test_slow_uploads_hold_up_no_honest_one(service: Service) -> None:
    """More of one client than it has places for: what it sends in earnest takes the place of one that hardly comes."""
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999999\r\n\r\n"
    with contextlib.ExitStack() as held:
        slow = [
            held.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60)) for _ in range(130)
        ]
        for connection in slow:
            connection.sendall(head + b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n')

        def upload() -> bool:
            return service.http.post("/v1/files", files={"file": ("a.txt", b"text")}).status_code == 200

        wait_until(upload, 60, "an upload beside slow ones")
    wait_until(lambda: not files_below(service.home / "z/uploads", "*.part"), 60, "the files of those who left to go")


RAW_HEADS = {
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "two hosts of which one is another's": (
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        400,
    ),
    "an empty host": (b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "an old request without a host": (b"GET /livez HTTP/1.0\r\n\r\n", 200),
    "another's host": (b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    "a target of another's": (b"GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
    "a target with a user": (b"GET http://localhost@evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a target of ours": (b"GET http://localhost/livez HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
    "a target of ours and two hosts": (b"GET http://localhost/livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two origins": (
        HEAD + b"Origin: http://localhost\r\nOrigin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}",
        400,
    ),
    "a page that upgrades": (
        HEAD
        + b"Origin: http://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
        403,
    ),
}


@pytest.mark.parametrize(("head", "expected"), RAW_HEADS.values(), ids=RAW_HEADS)
def test_whom_a_request_is_for_is_said_once(service: Service, head: bytes, expected: int) -> None:
    line, _, rest = head.partition(b"\r\n")
    closing = b"" if b"Upgrade" in head else b"Connection: close\r\n"
    answer = send(service, line + b"\r\n" + closing + rest, upto=b"\r\n\r\n")
    assert status(answer) == expected, answer[:300]


def test_heads_that_come_a_byte_at_a_time_hold_up_nobody(service: Service) -> None:
    with contextlib.ExitStack() as held:
        slow = [
            held.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60)) for _ in range(300)
        ]
        for byte in b"GET /health HT":
            for connection in slow:
                connection.send(bytes((byte,)))
        assert service.http.get("/health").status_code == 200
        # None of them has been given up: the answer did not wait for that.
        for connection in slow:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


DEEP = 100_000
BODIES = {
    "invalid UTF-8": b'{"prompt": "\xff\xfe\xc3"}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "an overlong sequence": b'{"prompt": "\xc0\xaf"}',
    "NaN": b'{"prompt": "x", "seed": NaN}',
    "infinity": b'{"prompt": "x", "fps": 1e999}',
    "minus infinity": b'{"prompt": "x", "guidance_scale": -Infinity}',
    "a huge integer": b'{"prompt": "x", "width": ' + b"9" * 100_000 + b"}",
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep lists in a member": b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "an open end": b'{"prompt": "x"' + b"," * 1000,
    "many members": b"{" + b",".join(b'"k%d": 1' % number for number in range(100_000)) + b"}",
    "one member many times": b"{" + b",".join([b'"prompt": "x"'] * 50_000) + b', "width": "no"}',
    "a list": b"[]",
    "a string": b'"x"',
    "nothing": b"",
    "a NUL": b'{"prompt": "a\\u0000b"}',
    "spaces": b" " * 1_000_000,
    "a byte-order mark in UTF-16": '{"prompt": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_json_that_is_none_or_too_much_is_refused_with_one_error(service: Service, body: bytes) -> None:
    for path in ("/v1/jobs", "/v1/local/video/generate", "/v1/videos", "/v1/tasks/video/"):
        reply = service.http.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= reply.status_code < 500, (path, reply.status_code, reply.text[:300])
        assert len(reply.content) < 20_000, path
        json.loads(reply.content)


def test_paths_that_try_to_get_out(service: Service) -> None:
    for target in (
        "/v1/jobs/..%2f..%2fjobs.sqlite/result",
        "/v1/jobs/%2e%2e/result",
        "/v1/files/../../../etc/passwd",
        "/v1/files/..%2f..%2fwebhook_secret/content",
        "/v1/jobs/%00/result",
        "//etc/passwd",
        "/v1/files/download/../../jobs.sqlite",
    ):
        raw = b"GET " + target.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = send(service, raw)
        assert status(answer) in (400, 403, 404, 405, 422), target
        assert b"SQLite format" not in answer
        assert b"root:" not in answer


def test_the_service_still_draws(service: Service) -> None:
    job = service.finished(service.post()["id"])
    assert job["state"] == "succeeded"
