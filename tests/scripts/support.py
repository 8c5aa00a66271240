"""A server that answers what the test tells it, and scripts run as a user runs them."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


class FakeServer:
    """`answers` maps (method, path) to a reply, or to a function of the request's JSON; `requests` records what came."""

    def __init__(self, answers):
        self.answers = answers
        self.requests = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(None)

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, message):
                fake.requests.append((self.command, self.path, message))
                answer = fake.answers.get((self.command, self.path), (404, {"detail": "no such route"}))
                if callable(answer):
                    answer = answer(message)
                status, body = answer if isinstance(answer, tuple) else (200, answer)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def run_script(name, *arguments, timeout=120):
    """Run a client script with nothing but the standard library, as any interpreter on any machine would."""
    command = [sys.executable, "-S", str(SCRIPTS / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def closed_port():
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def clean_environ(**changes):
    """The caller's environment without settings of the service or of another make."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ZOETROPE_", "MAKE", "MFLAGS"))}
    for key in ("PORT", "GPUS", "MODEL", "PYTHON", "num_gpus"):
        kept.pop(key, None)
    return {**kept, **changes}
