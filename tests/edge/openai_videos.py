"""Videos made over OpenAI's API."""

from __future__ import annotations

from typing import Any

from tests.edge.conftest import World

URL = "/v1/videos"


def create(world: World, **fields: Any) -> dict[str, Any]:
    answer = world.http.post(URL, json={"prompt": "a red circle", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def completed(world: World, data: bytes = b"", **fields: Any) -> dict[str, Any]:
    video = create(world, **fields)
    world.do(world.fake.run, video["id"])
    world.do(world.fake.succeed, video["id"], **({"video_mp4": data} if data else {}))
    return world.http.get(f"{URL}/{video['id']}").json()
