"""What a process says at its start about a store that is away, refuses, or is another service's; over HTTP, with the store's own client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from broker.depot.__main__ import main as ask
from broker.depot.object_store import OWNER_KEY, ObjectStore, StoreError
from broker.depot.store_check import check_edge, check_worker, service_id
from broker.runtime.settings import CommonSettings, SettingsError
from http_edge.cli import main as edge_main
from workers.cli import main as workers_main

URL = "s3://results/studio"


class Store(BaseHTTPRequestHandler):
    """As much of S3's protocol as is spoken at a start: objects are kept, or every request gets one answer."""

    objects: dict[str, bytes]
    answer: tuple[int, str] | None
    lists = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "list-type" in self.path and not self.lists:
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "list-type" in self.path:
            self._send(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        elif path in self.objects:
            self._send(200, self.objects[path])
        else:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") == "*" and self.path in self.objects:
            self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        if self.answer is None:
            self.objects[self.path] = data
        self._send(200, b"")

    def _send(self, status: int, body: bytes) -> None:
        if self.answer is not None:
            status, code = self.answer
            body = f"<Error><Code>{code}</Code><Message>Said by the store.</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 29 Nov 2026 08:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
    made = type("Made", (Store,), {"objects": {}, "answer": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def settings(tmp_path: Path, name: str = "home") -> CommonSettings:
    return CommonSettings(home=str(tmp_path / name), results_store=URL)


@pytest.mark.parametrize("check", [check_edge, check_worker])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, "NoSuchBucket"), "404 NoSuchBucket Said by the store."),
        ((403, "AccessDenied"), "403 AccessDenied Said by the store."),
        ((403, "SignatureDoesNotMatch"), "403 SignatureDoesNotMatch"),
        ((401, "Unauthorized"), "401"),
    ],
)
def test_a_store_that_refuses_is_told_in_one_line(tmp_path, store, check, answer, words):
    store.answer = answer
    with pytest.raises(SettingsError) as raised:
        check(settings(tmp_path))
    assert str(raised.value).startswith(f"results_store: '{URL}' cannot be used: the store cannot ")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("main", [edge_main, workers_main])
def test_a_process_ends_with_the_code_of_a_wrong_option(tmp_path, store, capfd, main, monkeypatch):
    store.answer = (403, "AccessDenied")
    monkeypatch.chdir(tmp_path)
    own = (
        ["--port", "0"] if main is edge_main else ["--depot", "http://127.0.0.1:1", "--gpus", "cpu", "--model", "fake"]
    )
    assert main(["--results-store", URL, "--home", str(tmp_path / "home"), *own], {}) == 2
    assert "results_store: 's3://results/studio' cannot be used" in capfd.readouterr().err


@pytest.mark.parametrize("check", [check_edge, check_worker])
@pytest.mark.parametrize("answer", [(503, "SlowDown"), (500, "InternalError")])
def test_a_store_that_has_trouble_stops_no_start(tmp_path, store, check, answer, caplog):
    store.answer = answer
    check(settings(tmp_path))
    assert "results_store does not answer; results wait until it does" in caplog.text


@pytest.mark.parametrize(
    ("answer", "lists", "code", "words"),
    [
        (None, True, 0, f"{URL} answers and takes files\n"),
        (None, False, 3, f"{URL} answers and takes files, and these keys may not list them\n"),
        ((403, "AccessDenied"), True, 2, f"results_store: '{URL}' cannot be used: the store cannot put"),
        ((503, "SlowDown"), True, 1, "503"),
    ],
)
def test_the_store_is_asked_without_a_start(store, capfd, answer, lists, code, words):
    store.answer, store.lists = answer, lists
    assert ask(["--results-store", URL], {}) == code
    assert words in capfd.readouterr().out
    assert ask([], {}) == 0


def test_an_outage_is_said_in_the_same_words_each_time(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    said = set()
    for _ in range(3):
        with pytest.raises(StoreError) as raised:
            ObjectStore.of(URL).has("x")
        said.add(str(raised.value))
    assert len(said) == 1, "a log that says what has changed says it once"
    assert "http://127.0.0.1:1/results/studio/x" in said.pop()


@pytest.mark.parametrize("check", [check_edge, check_worker])
def test_a_store_that_is_away_stops_no_start(tmp_path, store, check, caplog, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    check(settings(tmp_path))
    (record,) = caplog.records
    assert (record.store, "results_store does not answer" in record.message) == (URL, True)


@pytest.mark.parametrize("marker", [b"", b" \n"])
def test_a_marker_that_names_nobody_is_refused_and_not_asked_for_ever(tmp_path, store, marker):
    store.objects[f"/results/studio/{OWNER_KEY}"] = marker
    with pytest.raises(SettingsError, match=f"{OWNER_KEY} names no service: remove it"):
        check_edge(settings(tmp_path))


def test_the_first_edge_claims_the_prefix_and_those_of_its_home_may_use_it(tmp_path, store):
    own = settings(tmp_path)
    for _ in range(2):
        check_edge(own)
        check_worker(own)
    assert store.objects[f"/results/studio/{OWNER_KEY}"].decode() == service_id(own.home_path)


def test_an_edge_of_another_service_is_told_whose_prefix_it_is_and_what_to_do(tmp_path, store):
    check_edge(settings(tmp_path))
    owner = service_id(tmp_path / "home")
    other = settings(tmp_path, "other")
    with pytest.raises(SettingsError, match=f"results of another service, '{owner}', .*name another prefix"):
        check_edge(other)
    # The same service on another machine has its id.
    (tmp_path / "other" / "service_id").write_text(owner)
    check_edge(other)


def test_an_id_that_is_none_is_refused(tmp_path, store):
    (tmp_path / "service_id").write_text("one\ntwo\n")
    with pytest.raises(SettingsError, match="must hold the service's id, one line"):
        check_edge(settings(tmp_path, "."))


def test_without_a_store_nothing_is_asked(tmp_path):
    check_edge(CommonSettings(home=str(tmp_path)))
    check_worker(CommonSettings(home=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
