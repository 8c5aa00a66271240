"""Secrets that pass through a whole service are found afterwards in nothing that it wrote, told or printed."""

from __future__ import annotations

import base64
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.harness.process import free_port
from broker.depot import tokens
from http_edge.auth.keys_cli import main as api_keys
from http_edge.media.fetch import named_url
from tests.security.conftest import KeyDesk
from tests.support.waiting import wait_until
from tests.testing.service import Service

WRONG_KEY = "zk_wrong-key-that-nobody-should-see-again"
HOOK_SECRET = "whsec_" + base64.b64encode(b"distinctive-webhook-secret-0001").decode()
PASSWORD = "hunter2-distinctive"
SIGNATURE = "X-Signature-distinctive-77"


class KeyedService(Service):
    """With API keys, webhooks signed with a secret of its own, workers over tcp, and all it answered."""

    def __init__(self, home: Path, harness: KeyDesk, keys_file: Path, key: str) -> None:
        super().__init__(home, gpus="cpu:1", model="fake")
        self.back = f"tcp://127.0.0.1:{free_port()}"
        self.harness = harness
        self.keys_file = keys_file
        self.answers: list[bytes] = []
        self.http = httpx.Client(
            base_url=self.http.base_url,
            timeout=120,
            headers={"Authorization": f"Bearer {key}"},
            event_hooks={"response": [self._keep]},
        )

    def _keep(self, response: httpx.Response) -> None:
        self.answers.append(response.read() + repr(response.headers.multi_items()).encode())

    def _command(self, name: str) -> list[str]:
        more = {
            "broker": [
                "--back-tcp",
                self.back,
                "--metrics-file",
                str(self.home / "broker.prom"),
                "--log-level",
                "debug",
            ],
            "workers": ["--back", self.back, "--depot", str(self.http.base_url).rstrip("/"), "--log-level", "debug"],
            "edge": [
                "--keys-file",
                str(self.keys_file),
                "--access-log",
                "yes",
                "--log-level",
                "debug",
                "--fetch-allow",
                "127.0.0.1",
            ],
        }[name]
        return [*super()._command(name), *more, "--curve-dir", str(self.harness.directory)]


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert api_keys(["add", "studio", "--keys-file", str(tmp_path / "keys.jsonl")], {}) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def service(
    tmp_path: Path, short_dir: str, harness: KeyDesk, key: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyedService]:
    harness("add", "here", "--role", "worker", "--here")
    # In the environment: flags are for all to see, in `ps`.
    monkeypatch.setenv("ZOETROPE_WEBHOOK_SECRETS", HOOK_SECRET)
    made = KeyedService(Path(short_dir), harness, tmp_path / "keys.jsonl", key)
    try:
        made.start()
        made.ready(1)
        yield made
    finally:
        made.close()


def everything(service: KeyedService) -> dict[str, bytes]:
    """All files that the service wrote, by path, all it answered, and all it told the system of its processes."""
    found = {str(path): path.read_bytes() for path in service.home.rglob("*") if path.is_file()}
    found["answers"] = b"\n".join(service.answers)
    return found


def test_secrets_are_nowhere(service: KeyedService, key: str) -> None:
    http = service.http
    job = service.finished(service.post(webhook="http://127.0.0.1:9/hook")["id"])
    assert job["state"] == "succeeded"
    wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["webhook"]["events"][0]["attempts"], 60)
    refused = [
        http.get("/v1/jobs", headers={"Authorization": f"Bearer {WRONG_KEY}"}),
        http.get("/v1/jobs", headers={"Authorization": "", "X-API-Key": WRONG_KEY}),
        *[post(http, webhook=url) for url in hostile_urls()],
        *[post(http, image=url) for url in hostile_urls()],
        *[http.post("/v1/tasks/video/", json={"prompt": "x", "image_path": url}) for url in hostile_urls()],
        *[http.post("/v1/videos", json={"prompt": "x", "input_reference": url}) for url in hostile_urls()],
    ]
    assert {reply.status_code // 100 for reply in refused} == {4}
    for path in ("/metrics", "/v1/workers", "/v1/models", "/health", "/openapi.json", f"/v1/jobs/{job['id']}/nothing"):
        http.get(path)
    command_lines = "\0".join(" ".join(process.cmdline()) for process in service.everybody())
    wait_until(lambda: (service.home / "broker.prom").exists(), 60)
    curve = [tomllib.loads(path.read_text())["secret"] for path in service.harness.directory.rglob("*.key")]
    assert len(curve) == 2
    (depot_file,) = service.home.rglob("depot_secret")
    depot = depot_file.read_text().strip()
    secrets = [
        key,
        depot,
        tokens.key_of(depot, job["worker"]),
        WRONG_KEY,
        HOOK_SECRET,
        HOOK_SECRET.removeprefix("whsec_"),
        PASSWORD,
        SIGNATURE,
        *curve,
    ]
    places = {**everything(service), "command lines": command_lines.encode()}
    assert places.pop(str(depot_file)).strip() == depot.encode()
    assert {"broker.log", "workers.log", "edge.log", "broker.prom", "jobs.sqlite"} <= {
        os.path.basename(p) for p in places
    }
    assert [(secret, place) for secret in secrets for place, data in places.items() if secret.encode() in data] == []


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/jobs", json={"prompt": "x", **fields})


def hostile_urls() -> list[str]:
    """Refused, each at another point; each with something in it that nobody else should read."""
    return [
        f"https://user:{PASSWORD}@files.invalid/x.png",
        f"https://user:{PASSWORD}@[::1/x.png",
        f"ftp://user:{PASSWORD}@files.invalid/x.png",
        f"http://10.0.0.1:1/x.png?sig={SIGNATURE}",
        f"https://files.invalid/x.png?sig={SIGNATURE}",
        f"https://files.invalid:99999999/x.png?sig={SIGNATURE}#{PASSWORD}",
    ]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/x.png", "https://a.example/x.png"),
        ("https://user:pw@a.example/x.png", "https://…@a.example/x.png"),
        ("https://user:p@w@a.example/x.png", "https://…@a.example/x.png"),
        ("https://a.example/@x?sig=1&b=2#f", "https://a.example/@x?…"),
        ("https://a.example/x#secret", "https://a.example/x"),
        ("//user:pw@a.example/x", "//…@a.example/x"),
        ("https:user:pw@a.example", "https:…@a.example"),
    ],
)
def test_urls_are_named_without_what_may_be_secret(url: str, name: str) -> None:
    assert named_url(url) == name
