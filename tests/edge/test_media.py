"""Media beside the image (last frame, further images, mask, control image, clips): from every API, checked before a job exists."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from broker.runtime import clips
from broker.wire.inputs import ROLES, StartFrames
from broker.wire.jobspec import JobSpec, decode_spec
from http_edge.media import clip_probe
from tests.edge.api_families import APIS, send
from tests.edge.conftest import World
from tests.edge.small_media import clip, picture
from tests.testing.fake_broker import PICTURE, VIDEO, worker

PNG = picture(size=(64, 64))
#: 33 frames at 8 a second, so 65 at 16.
CLIP = clip(frames=33, size=(64, 64))


def masked(size: tuple[int, int] = (64, 64)) -> bytes:
    """White in the left half."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, : size[0] // 2] = 255
    return saved(Image.fromarray(pixels))


def saved(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


FILES = {"picture": PNG, "mask": masked(), "clip": CLIP}

#: A role -> clips that it needs beside it; and roles that need an image beside them.
BESIDE = {"mask_video": ("video",), "background_video": ("mask_video",)}
NEED_AN_IMAGE = ("mask_image",)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def able(world: World) -> World:
    """A world whose only model takes everything and needs nothing."""
    everything = msgspec.structs.replace(VIDEO, takes_image=True, takes_inputs=tuple(ROLES))
    world.fake.workers = {"cpu-0": worker("cpu-0", everything)}
    return world


def spec(world: World) -> JobSpec:
    return decode_spec(list(world.fake.jobs.values())[-1].body)


def content(world: World, role: str) -> list[bytes]:
    return [Path(path).read_bytes() for path in spec(world).inputs[role]]


def refused(answer: Any, *words: str) -> None:
    assert answer.status_code in (400, 422), answer.text
    assert not [word for word in words if word not in answer.text.replace('\\"', '"')], answer.text


# ---------------------------------------------------------------- every role, every API


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_taken_everywhere(able: World, api: str, role: str) -> None:
    data = FILES[ROLES[role].kind]
    name = {"openai": "input_reference", "cloud": "input_image"}.get(api, "image")
    beside = {name: b64(PNG)} if role in NEED_AN_IMAGE else {}
    beside |= {other: b64(CLIP) for other in BESIDE.get(role, ())}
    answer = send(able, api, **beside, **{role: f"data:application/octet-stream;base64,{b64(data)}"})
    assert answer.status_code == 200, answer.text
    assert set(spec(able).inputs) == {role, *BESIDE.get(role, ())}
    (there,) = content(able, role)
    if ROLES[role].kind == "mask":
        assert np.array_equal(Image.open(io.BytesIO(there)), Image.open(io.BytesIO(data)))
    else:
        assert there == data


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("role", ROLES)
def test_what_a_model_does_not_take_is_refused_by_field_and_model(world: World, api: str, role: str) -> None:
    noun = ROLES[role].noun.removeprefix("a ")
    refused(send(world, api, **{role: "something"}), f'{role}: "something"', 'model "demo" takes no', noun)
    assert not world.fake.jobs


def test_forms_bring_files(able: World) -> None:
    files = [
        ("image", ("a.png", PNG)),
        ("mask", ("m.png", masked())),
        ("reference_images[]", ("b.png", picture((1, 2, 3)))),
        ("reference_images[]", ("c.png", picture((4, 5, 6)))),
        ("video_file", ("v.mp4", CLIP)),
    ]
    for path, fields in (("/v1/jobs", {}), ("/v1/videos", {}), ("/v1/tasks/video/form", {})):
        answer = able.http.post(path, data={"prompt": "a cat", **fields}, files=files)
        assert answer.status_code == 200, answer.text
        found = {role: len(paths) for role, paths in spec(able).inputs.items()}
        assert found == {"reference_images": 2, "mask_image": 1, "video": 1}
        assert content(able, "reference_images") == [picture((1, 2, 3)), picture((4, 5, 6))]
        assert content(able, "video") == [CLIP]
    shown = able.http.get("/v1/jobs").json()["data"][-1]["spec"]["inputs"]
    assert shown == {"reference_images": 2, "mask_image": 1, "video": 1}


def test_a_file_and_a_text_for_one_input_contradict(able: World) -> None:
    files = {"image": ("a.png", PNG), "mask": ("m.png", masked())}
    refused(able.http.post("/v1/jobs", data={"prompt": "p", "mask_image": "x.png"}, files=files), "mask_image")


@pytest.mark.parametrize(
    "value",
    [
        {"image_url": "DATA"},
        {"image_url": {"url": "DATA"}},
        '{"image_url": "DATA"}',
        ["DATA"],
        {"type": "base64", "data": "BASE64"},
    ],
    ids=str,
)
def test_an_input_in_the_forms_of_other_services(able: World, value: Any) -> None:
    text = msgspec.json.encode(value).decode()
    text = text.replace("DATA", f"data:image/png;base64,{b64(PNG)}").replace("BASE64", b64(PNG))
    answer = send(able, "native", image=b64(PNG), last_frame=msgspec.json.decode(text))
    assert answer.status_code == 200, answer.text
    assert content(able, "last_image") == [PNG]


def test_paths_and_ids_of_files_and_nothing_outside(able: World, tmp_path: Path) -> None:
    (able.start / "clip.mp4").write_bytes(CLIP)
    assert send(able, "native", video="clip.mp4").status_code == 200
    record = able.http.post("/v1/files", files={"file": ("x", CLIP)}).json()
    assert send(able, "openai", video_url=record["id"]).status_code == 200
    assert content(able, "video") == [CLIP]
    (tmp_path / "clip.mp4").write_bytes(CLIP)
    refused(send(able, "native", video="../clip.mp4"), "video", "leads out of")
    refused(send(able, "native", video="http://127.0.0.1/clip.mp4"), "does not fetch from")


# ---------------------------------------------------------------- which go together


def test_needed_inputs_are_asked_for(world: World) -> None:
    card = msgspec.structs.replace(
        VIDEO, takes_image=True, takes_inputs=("mask_image", "video"), needs_inputs=("video", "mask_image")
    )
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}
    refused(send(world, "native", image=b64(PNG)), 'video: model "demo" needs a video')
    refused(send(world, "native", video=b64(CLIP)), 'mask_image: model "demo" needs a mask')
    assert send(world, "native", video=b64(CLIP), mask=b64(masked())).status_code == 200


def test_the_model_that_takes_what_came_is_chosen(world: World) -> None:
    over = msgspec.structs.replace(VIDEO, name="over", takes_inputs=("video",), needs_inputs=("video",))
    world.fake.workers = {"cpu-0": worker("cpu-0", over, VIDEO)}
    assert send(world, "native", video=b64(CLIP)).json()["model"] == "over"
    assert send(world, "openai", video=b64(CLIP)).json()["model"] == "over"
    assert send(world, "native").json()["model"] == "demo"


def test_a_mask_is_of_something_and_of_its_shape(able: World) -> None:
    refused(send(able, "native", mask=b64(masked())), "image", "mask needs an image beside it")
    refused(send(able, "native", image=b64(PNG), mask=b64(masked((64, 32)))), "mask", "64x32", "64x64", "one shape")


def test_a_mask_of_every_frame_is_of_a_clip_and_of_its_shape_and_length(able: World) -> None:
    over = {"video": b64(CLIP), "video_mask": b64(CLIP)}
    refused(send(able, "native", video_mask=b64(CLIP)), "video", "video_mask needs a video beside it")
    refused(send(able, "native", background_video=b64(CLIP)), "background_video needs a mask of every frame beside it")
    refused(send(able, "native", **over, mask=b64(masked())), "mask: video_mask is there already")
    wide = b64(clip(frames=33, size=(64, 32)))
    refused(send(able, "native", **{**over, "video_mask": wide}), "video_mask", "64x32", "64x64", "one shape")
    short = b64(clip(frames=5, size=(64, 64)))
    refused(send(able, "native", **{**over, "video_mask": short}, num_frames=17), "video_mask", "it has 5 frames at 8")
    refused(send(able, "native", **{**over, "video_mask": b64(PNG)}), "video_mask", "is not a video")
    assert not able.fake.jobs
    assert send(able, "native", **over, num_frames=17).status_code == 200
    assert content(able, "mask_video") == [CLIP]


def test_a_clip_to_go_on_from_is_seen_at_its_end(world: World) -> None:
    seen = StartFrames(least=9, step=8, most=25)
    card = msgspec.structs.replace(VIDEO, takes_image=True, takes_inputs=("start_video",), start_frames=seen)
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}

    refused(send(world, "native", start_video=b64(CLIP), image=b64(PNG)), "image: start_video is there already")
    refused(
        send(world, "native", start_video=b64(clip(frames=4, size=(64, 64)))), "it has 4 frames at 8", "9 are needed"
    )
    refused(send(world, "native", video=b64(CLIP)), "takes no video; it takes a video to go on from, start_video")
    assert not world.fake.jobs
    for frames, used in ((81, 25), (33, 9), (17, 9)):
        answer = send(world, "native", start_video=b64(CLIP), num_frames=frames)
        assert answer.status_code == 200, answer.text
        assert spec(world).num_frames == frames
        expected = f"start_video: it has 33 frames at 8 frames per second, and the last {used} were used"
        assert expected in spec(world).warnings


@pytest.mark.parametrize("how", ["transparent", "palette", "white", "opaque"])
def test_a_mask_is_white_where_it_is_drawn_anew(able: World, how: str) -> None:
    """The left half is marked, whichever way its owner has."""
    white = Image.open(io.BytesIO(masked()))
    mask = white
    if how in ("transparent", "palette"):
        mask = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
        mask.putalpha(white.point(lambda value: 255 - value))
        mask = mask.quantize() if how == "palette" else mask
    elif how == "opaque":
        mask = white.convert("RGBA")
    answer = send(able, "native", image=b64(PNG), mask=b64(saved(mask)))
    assert answer.status_code == 200, answer.text
    kept = Image.open(io.BytesIO(content(able, "mask_image")[0]))
    assert (kept.mode, np.array_equal(kept, white)) == ("L", True)


def test_a_mask_that_marks_nothing_is_refused(able: World) -> None:
    black = saved(Image.new("L", (64, 64)))
    refused(send(able, "native", image=b64(PNG), mask=b64(black)), "marks nothing")


# ---------------------------------------------------------------- further images


def test_several_images_of_an_edit_are_drawn_from_together(world: World) -> None:
    card = msgspec.structs.replace(PICTURE, takes_image=True, takes_inputs=("reference_images",))
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}
    sent = [picture((number, 0, 0)) for number in range(3)]
    files = [("image[]", (f"{number}.png", data)) for number, data in enumerate(sent)]
    answer = world.http.post("/v1/images/edits", data={"prompt": "p"}, files=files, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    assert Path(spec(world).image).read_bytes() == sent[0]
    assert content(world, "reference_images") == sent[1:]


def test_images_are_bounded_in_number_and_in_pixels(able: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = send(able, "native", image=b64(PNG), images=[b64(PNG)] * 16)
    refused(answer, "images", "16 came, at most 15")
    monkeypatch.setattr("http_edge.jobs.media_checks._MOST_PIXELS", 3 * 64 * 64)
    assert send(able, "native", image=b64(PNG), images=[b64(PNG)] * 2).status_code == 200
    refused(send(able, "native", image=b64(PNG), images=[b64(PNG)] * 3), "the images have 16384 pixels")


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize(
    ("fields", "drawn"),
    [
        ({}, 17),  # the model's own number
        ({"fps": 16, "num_frames": 65}, 65),
        ({"num_frames": 33}, 33),
        ({"seconds": 4}, 33),
    ],
)
def test_a_clip_is_as_long_as_what_is_drawn(able: World, fields: dict[str, Any], drawn: int) -> None:
    answer = send(able, "native", video=b64(CLIP), **fields)
    assert answer.status_code == 200, answer.text
    assert spec(able).num_frames == drawn
    used = [text for text in answer.json()["warnings"] if text.startswith("video: ")]
    assert bool(used) == (drawn < 33)


def test_a_clip_that_is_shorter_than_usual_makes_a_shorter_one(able: World) -> None:
    assert send(able, "native", video=b64(clip(frames=11, size=(64, 64)))).status_code == 200
    assert spec(able).num_frames == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_frames": 37}, ("video: it has 33 frames at 8 frames per second", "37")),
        ({"seconds": 6}, ("video: it has 33 frames", "49")),
        ({"fps": 4, "num_frames": 33}, ("video: it has 17 frames at 4 frames per second",)),
    ],
)
def test_a_clip_that_is_too_short_is_refused(able: World, fields: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(send(able, "native", video=b64(CLIP), **fields), *words)
    assert not able.fake.jobs


def test_a_clips_shape_is_drawn(able: World) -> None:
    assert send(able, "native", video=b64(clip(size=(96, 48)))).status_code == 200
    assert spec(able).width > spec(able).height


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a video"),
        (PNG, "is not a video: MP4, QuickTime, WebM or Matroska is expected"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a video"),
        (CLIP[:200], "holds no video"),
        (CLIP[: len(CLIP) - 40], "is cut short"),
        (b"\x1aE\xdf\xa3" + os.urandom(400), "is a damaged video"),
        (CLIP[:4] + b"ftypisom" + bytes(500), "is a damaged video"),
    ],
    ids=["empty", "picture", "playlist", "list of files", "no index", "cut", "noise", "zeros"],
)
def test_what_is_no_clip_is_refused(able: World, data: bytes, words: str) -> None:
    answer = able.http.post("/v1/jobs", data={"prompt": "p"}, files={"video": ("v.mp4", data)})
    if data:
        refused(answer, "video", words)
    else:  # a form's empty file is one with a name
        assert answer.status_code in (400, 422)
    assert not able.fake.jobs


def test_bounds_of_a_clip(able: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as bounds:
        bounds.setattr("http_edge.media.input_store.MAX_CLIP_BYTES", 900)
        refused(send(able, "native", video=b64(CLIP)), "video", "at most 900")
    for name, value, words in (
        ("MAX_FRAMES", 20, "has more than 20 frames"),
        ("MAX_FRAME_PIXELS", 4000, "has frames of 64x64 pixels; at most 4000 pixels"),
    ):
        with monkeypatch.context() as bounds:
            bounds.setattr(clips, name, value)
            with pytest.raises(clips.BadClip, match=words):
                clips.facts_of(io.BytesIO(CLIP))


def test_a_clip_that_takes_too_much_memory_is_refused(able: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_probe, "_MEMORY_BYTES", 64 * 1024**2)
    refused(send(able, "native", video=b64(CLIP)), "video", "within the memory and the time")
    assert not able.fake.jobs


# ---------------------------------------------------------------- later


def test_a_remix_draws_from_the_same_inputs(able: World) -> None:
    job = send(able, "openai", video=b64(CLIP), seed=3).json()
    first = spec(able)
    able.do(able.fake.run, job["id"])
    able.do(able.fake.succeed, job["id"], video_mp4=CLIP)
    assert able.http.post(f"/v1/videos/{job['id']}/remix", json={"prompt": "a dog"}).status_code == 200
    assert (spec(able).prompt, spec(able).inputs, spec(able).num_frames) == ("a dog", first.inputs, first.num_frames)


def test_the_model_list_says_what_is_taken(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    card = msgspec.structs.replace(VIDEO, takes_inputs=("mask_image", "video"), needs_inputs=("video",))
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}
    (model,) = world.http.get("/v1/models").json()["data"]
    assert (model["takes_inputs"], model["needs_inputs"]) == (["mask_image", "video"], ["video"])


def test_the_model_list_says_which_fields_have_an_effect(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    card = msgspec.structs.replace(
        VIDEO, takes_negative_prompt=False, takes_size=False, extra_parameters=("strength",), default_strength=0.75
    )
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}

    (model,) = world.http.get("/v1/models").json()["data"]

    assert {name: model[name] for name in model if name.startswith("takes_") and name != "takes_inputs"} == {
        "takes_image": card.takes_image,
        "takes_negative_prompt": False,
        "takes_guidance": card.takes_guidance,
        "takes_guidance_2": card.takes_guidance_2,
        "takes_size": False,
    }
    assert (model["extra_parameters"], model["default_strength"]) == (["strength"], 0.75)
