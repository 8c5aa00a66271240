"""OpenAI's own Python SDK, unmodified, against the real processes."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.waiting import wait_until
from tests.testing.service import Service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import openai

#: The SDK says so of every method of its Videos resource.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROMPT = "a red circle moving right on a black background"


@pytest.fixture
def sdk() -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes SDK clients of a service."""
    clients: list[openai.OpenAI] = []

    def make(service: Service, **options: Any) -> openai.OpenAI:
        base_url = f"http://127.0.0.1:{service.port}/v1"
        clients.append(openai.OpenAI(base_url=base_url, api_key="any", **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def is_red_on_black(picture: np.ndarray[Any, Any]) -> bool:
    red = (picture[..., 0] > 120) & (picture[..., 1] < 110) & (picture[..., 2] < 110)
    black = picture.max(axis=-1) < 70
    return red.sum() > 30 and black.mean() > 0.5


@pytest.mark.slow
def test_the_demo_model_serves_videos_and_images(start_service, sdk):
    client = sdk(start_service(workers=1, gpus="cpu:1", model=""))
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "zoetrope"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("no/such")
    assert missing.value.code == "model_not_found"

    video = client.videos.create_and_poll(prompt=PROMPT, model="sora-2", seconds="4", size="1280x720")
    assert (video.status, video.progress, video.model, video.seconds, video.error) == (
        "completed",
        100,
        "sora-2",
        "4",
        None,
    )
    body = client.videos.download_content(video.id).read()
    with av.open(io.BytesIO(body)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert f"{frames[0].shape[1]}x{frames[0].shape[0]}" == video.size
    assert len(frames) == 33
    thumbnail = pixels(client.videos.download_content(video.id, variant="thumbnail").read())
    assert np.abs(thumbnail - frames[0]).mean() < 8
    sheet = pixels(client.videos.download_content(video.id, variant="spritesheet").read())
    assert sheet.shape[:2] == (4 * frames[0].shape[0], 4 * frames[0].shape[1])

    blue = client.videos.poll(client.videos.remix(video.id, prompt=PROMPT.replace("red", "blue")).id)
    assert (blue.status, blue.remixed_from_video_id, blue.size) == ("completed", video.id, video.size)

    images = client.images.generate(prompt=PROMPT, model="gpt-image-1", n=2, size="1024x1024")
    assert len(images.data) == 2
    assert all(is_red_on_black(pixels(base64.b64decode(image.b64_json))) for image in images.data)

    events = list(
        client.images.generate(
            prompt=PROMPT, stream=True, partial_images=3, extra_body={"num_inference_steps": 40, "seed": 7}
        )
    )
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    shown = [pixels(base64.b64decode(event.b64_json)) for event in events]
    far = [float(np.abs(picture - shown[-1]).mean()) for picture in shown]
    assert far[0] > far[1] > far[2] > 0, "the previews do not approach the picture"

    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(image=base64.b64decode(images.data[0].b64_json), prompt="p")
    assert (refused.value.code, refused.value.param) == ("unsupported", "image")


def test_the_fake_model_through_every_other_method(start_service, sdk):
    service = start_service()
    client = sdk(service)
    ids = [client.videos.create(prompt=f"job {number}", extra_body={"num_frames": 1}).id for number in range(105)]
    assert [video.id for video in client.videos.list(order="asc", limit=20)] == ids
    assert [video.id for video in client.videos.list(limit=100)] == ids[::-1]

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 200, 0)).save(picture, "PNG")
    drawn = client.videos.create_and_poll(prompt="p", input_reference=picture.getvalue())
    assert drawn.status == "completed"
    extended = client.post(
        "/videos/extensions",
        body={"prompt": "it goes on", "seconds": "4", "video": {"id": drawn.id}},
        cast_to=dict[str, Any],
    )
    assert client.videos.poll(extended["id"]).status == "completed"
    edited = client.images.edit(
        image=[picture.getvalue()], prompt="p", n=3, output_format="webp", output_compression=80
    )
    assert [Image.open(io.BytesIO(base64.b64decode(item.b64_json))).format for item in edited.data] == ["WEBP"] * 3
    linked = client.images.generate(prompt="p", response_format="url")
    assert service.http.get(linked.data[0].url).headers["content-type"] == "image/png"

    _refusals(client, drawn.id, picture.getvalue())
    _ends(service, client)
    for video in client.videos.list(limit=20):
        assert client.videos.delete(video.id).deleted
    assert list(client.videos.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(ids[0])


def _refusals(client: openai.OpenAI, video_id: str, picture: bytes) -> None:
    for call, status in (
        (lambda: client.videos.create(prompt=""), 400),
        (lambda: client.videos.edit(prompt="p", video=b"12345678"), 400),
        (lambda: client.videos.extend(prompt="p", seconds="4", video=b"12345678"), 400),
        (lambda: client.videos.create_character(name="Bob", video=b"12345678"), 400),
        (lambda: client.videos.get_character("char_1"), 404),
        (lambda: client.videos.retrieve("video_none"), 404),
        (lambda: client.videos.download_content(video_id, variant="2"), 404),  # type: ignore[arg-type]
        (lambda: client.images.create_variation(image=picture), 410),
        (lambda: client.images.edit(image=[picture, picture], prompt="p"), 400),  # the model takes one
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            call()
        assert refused.value.status_code == status
        assert str(refused.value).startswith(f"Error code: {status} - "), "the SDK found no message"


def _ends(service: Service, client: openai.OpenAI) -> None:
    """Failure, deletion of what runs, and a client that does not wait to the end."""
    failed = client.videos.create_and_poll(prompt="p", extra_body={"extra": {"fake": "invalid"}})
    assert (failed.status, failed.error.code) == ("failed", "invalid_input")

    slow = {"num_inference_steps": 200, "extra": {"fake": "slow", "fake_step_s": 0.1}}
    running = client.videos.create(prompt="p", extra_body=slow)
    wait_until(lambda: client.videos.retrieve(running.id).status == "in_progress", 60, "it to run")
    assert client.videos.delete(running.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(running.id)

    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=5, max_retries=0).images.generate(prompt="left alone", extra_body=slow)

    def newest() -> bool:
        job = service.http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
        return job["spec"]["prompt"] == "left alone" and job["state"] == "cancelled"

    wait_until(newest, 60, "the job of a client that left to be cancelled")


def test_a_full_queue_makes_the_sdk_wait_and_try_again(start_service, sdk, monkeypatch):
    monkeypatch.setenv("ZOETROPE_QUEUE_LIMIT", "2")
    service = start_service(workers=1, gpus="cpu:1")
    slow = {"num_inference_steps": 10, "extra": {"fake": "slow", "fake_step_s": 0.05}}
    impatient = sdk(service, max_retries=0)

    def fill() -> openai.RateLimitError | None:
        try:
            impatient.videos.create(prompt="filler", extra_body=slow)
        except openai.RateLimitError as error:
            return error
        return None

    error = wait_until(fill, 60, "a full queue")
    assert 0 < float(error.response.headers["retry-after"]) <= 120
    patient = sdk(service, max_retries=8)
    before = service.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
    taken = patient.videos.create(prompt="patient", extra_body=slow)
    after = service.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
    assert len(after) == len(before) + 1, "a refused request left a job behind"
    assert patient.videos.poll(taken.id).status == "completed"
