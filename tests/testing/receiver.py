"""A webhook's receiver on this machine: it keeps what comes and answers as told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from msgspec import Struct


class Received(Struct):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """`answers` are given in order, then 204: status, or (status, headers)."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Received] = queue.Queue()
        self.answers: list[int | tuple[int, dict[str, str]]] = []
        self.url = ""

    def next(self) -> Received:
        return self.requests.get(timeout=60)

    @property
    def quiet(self) -> bool:
        return self.requests.empty()


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver.answers.pop(0) if receiver.answers else 204
            status, more = answer if isinstance(answer, tuple) else (answer, {})
            receiver.requests.put(Received(self.path, headers, body))
            self.send_response(status)
            for name, value in {"Content-Length": "0", **more}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?key=1"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
