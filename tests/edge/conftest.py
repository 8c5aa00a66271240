"""The application over a `FakeBroker`, in a start directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from http_edge.app import Edge, build_app, build_edge
from http_edge.base.settings import EdgeSettings
from tests.testing.fake_broker import ANIMATE, PICTURE, VIDEO, FakeBroker, worker
from tests.testing.receiver import Receiver, receiving


class World:
    """One running edge: `http` asks it, `broker` pulls levers on the edge's own event loop."""

    def __init__(self, edge: Edge, broker: FakeBroker, http: TestClient, start: Path) -> None:
        self.edge = edge
        self.http = http
        self.start = start
        self.fake = broker

    def do(self, lever: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call into the fake broker on the edge's event loop, where its events belong."""
        assert self.http.portal is not None
        return self.http.portal.call(lambda: lever(*args, **kwargs))

    def poll(self, job_id: str) -> None:
        """Have the edge take it that a client polls this job, as one does that asks again and again: it is told of its steps."""
        self.do(self.edge.hub.steps.polled, job_id)

    def submit(self, **fields: Any) -> dict[str, Any]:
        response = self.http.post("/v1/jobs", json={"prompt": "a red circle", **fields})
        assert response.status_code == 200, response.text
        return response.json()

    def finished(self, **fields: Any) -> dict[str, Any]:
        """A job that ran and succeeded."""
        job = self.submit(**fields)
        self.do(self.fake.run, job["id"])
        self.do(self.fake.succeed, job["id"])
        return self.http.get(job["urls"]["self"]).json()


@pytest.fixture
def start(tmp_path: Path) -> Path:
    directory = tmp_path / "start"
    directory.mkdir()
    return directory


@pytest.fixture
def open_edge(start: Path) -> Iterator[Callable[..., World]]:
    """Opens edges; each more one over the same broker is a second process of the same service."""
    open_ones: list[TestClient] = []
    broker = FakeBroker(
        start / ".zoetrope" / "artefacts",
        worker("cpu-0", VIDEO, ANIMATE, PICTURE),
        worker("cpu-1", VIDEO, ANIMATE, PICTURE),
    )

    def open_one(**settings: Any) -> World:
        # A pair of keys for each test takes longer than most of them.
        unsigned = {"content_credentials": "off", **settings}
        edge = build_edge(EdgeSettings(home=str(start / ".zoetrope"), **unsigned), start, broker.attach)
        http = TestClient(build_app(edge), base_url="http://localhost")
        http.__enter__()
        open_ones.append(http)
        return World(edge, broker, http, start)

    yield open_one
    for http in reversed(open_ones):
        http.__exit__(None, None, None)


@pytest.fixture
def world(open_edge: Callable[..., World]) -> World:
    return open_edge()


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    """The OpenAPI document."""
    return world.http.get("/openapi.json").json()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks are sent to."""
    with receiving() as found:
        yield found
