"""One request in the terms of each API family, and what it became."""

from __future__ import annotations

from typing import Any

from broker.wire.jobspec import JobSpec, ModelCard, decode_spec
from tests.edge.conftest import World
from tests.testing.fake_broker import worker

#: API -> (path, fields that it needs).
APIS: dict[str, tuple[str, dict[str, Any]]] = {
    "native": ("/v1/jobs", {}),
    "openai": ("/v1/videos", {}),
    "tasks": ("/v1/tasks/video", {}),
    "gen1": ("/v1/local/video/generate", {"task_id": "t", "save_video_path": "t.mp4"}),
    "cloud": ("/api/v1/task/submit", {"task": "t2v"}),
}


def send(world: World, api: str, how: str = "json", **fields: Any) -> Any:
    path, own = APIS[api]
    values = {"prompt": "a cat", **own, **fields}
    if how == "json":
        return world.http.post(path, json=values)
    return world.http.post(path, data=values)


def drawn(world: World) -> JobSpec:
    return decode_spec(list(world.fake.jobs.values())[-1].body)


def message(answer: Any) -> str:
    return str(
        answer.json()["detail"] if isinstance(answer.json()["detail"], str) else answer.json()["detail"][0]["msg"]
    )


def use(world: World, card: ModelCard) -> None:
    """Let this be the only model."""
    for name in world.fake.workers:
        world.fake.workers[name] = worker(name, card)
