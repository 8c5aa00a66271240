"""`POST /v1/recipe`, and who may have files that hold their recipe."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from broker.runtime.recipe_file import NoRecipe, recipe_text
from broker.wire.jobspec import JobSpec
from broker.wire.loras import LoraCard, LoraUse
from broker.wire.recipe import Recipe, encode_recipe, recipe_of
from broker.wire.sampling import Sampler
from http_edge.auth.keys import KeyRecord, hash_of, new_key, write_keys
from http_edge.media.thumbnails import Format, encoded
from tests.edge.api_families import drawn, use
from tests.edge.conftest import World
from tests.edge.levers import draws
from tests.edge.small_media import clip, picture
from tests.testing.fake_broker import ANIMATE, PICTURE

CARD = msgspec.structs.replace(
    PICTURE,
    presets={"fast": Sampler(kind="euler", sigmas=(1.0, 0.5), guidance=1.0, fixed=True)},
    loras={"pair": LoraCard(components=("transformer", "transformer_2")), "quick": LoraCard(preset="fast")},
)
SPEC = JobSpec(
    model=PICTURE.name, output="image", prompt="a cat ü", width=96, height=64, num_inference_steps=3, seed=7,
    guidance_scale=2.5, extra={"flow_shift": 3.0},
)  # fmt: skip


def png(text: str, *, chunk: str = "text") -> bytes:
    info, out = PngInfo(), io.BytesIO()
    if chunk == "text":
        info.add_text("zoetrope", text)
    else:
        info.add_itxt("zoetrope", text, zip=chunk == "packed")
    Image.new("RGB", (8, 8), (200, 30, 30)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def recipe_in(spec: JobSpec = SPEC, card: Any = CARD, index: int = 0, **versions: str) -> Recipe:
    return recipe_of(spec, card, index, used={"quantize": "transformer fp8"}, versions=versions)


def ask(world: World, data: bytes) -> Any:
    return world.http.post("/v1/recipe", files={"file": ("result", data)})


@pytest.mark.parametrize("chunk", ["text", "plain", "packed"])
def test_the_request_of_a_file_draws_the_same_job(world: World, chunk: str) -> None:
    use(world, CARD)
    uses = (LoraUse(name="pair", scale=0.5, components={"transformer_2": 0.25}),)
    spec = msgspec.structs.replace(SPEC, loras=uses, negative_prompt="dull")
    answer = ask(world, png(encode_recipe(recipe_in(spec)), chunk=chunk)).json()
    assert (answer["differences"], answer["repeatable"]) == ([], True)
    assert answer["used"] == {"quantize": "transformer fp8"}
    assert world.http.post("/v1/jobs", json=answer["request"]).status_code == 200
    again = drawn(world)
    scales = {part: again.loras[0].scale_of(part) for part in ("transformer", "transformer_2")}
    assert scales == {"transformer": 0.5, "transformer_2": 0.25}
    plain = msgspec.structs.replace
    assert plain(again, loras=(), traceparent="") == plain(spec, loras=(), fps=again.fps)


def test_a_preset_is_asked_for_by_its_name(world: World) -> None:
    use(world, CARD)
    world.http.post("/v1/jobs", json={"prompt": "a cat", "loras": "quick"})
    spec = drawn(world)
    answer = ask(world, png(encode_recipe(recipe_in(spec)))).json()
    assert answer["differences"] == []
    world.http.post("/v1/jobs", json=answer["request"])
    assert msgspec.structs.replace(drawn(world), traceparent=spec.traceparent) == spec


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"model": "gone"}, 'model: "gone" is not a model of this service; known: org/picture'),
        ({"loras": (LoraUse(name="lost"), LoraUse(name="pair"))}, 'loras: "lost" is not a LoRA of model "org/picture"'),
        ({"preset": "lost"}, 'preset: "lost" is not a preset of model "org/picture"; known: fast'),
        ({"width": 1024}, "width: 1024 must be 16 to 512"),
    ],
)
def test_what_stands_in_the_way_is_named(world: World, spec: dict[str, Any], text: str) -> None:
    use(world, CARD)
    answer = ask(world, png(encode_recipe(recipe_in(msgspec.structs.replace(SPEC, **spec))))).json()
    assert answer["repeatable"] is False
    assert text in answer["differences"]


def test_other_versions_another_sampler_and_inputs_are_differences(world: World) -> None:
    use(world, msgspec.structs.replace(ANIMATE, sampler=Sampler(kind="euler")))
    for name, view in world.fake.workers.items():
        world.fake.workers[name] = msgspec.structs.replace(view, versions={"torch": "2.13.0", "zoetrope": "9"})
    spec = msgspec.structs.replace(SPEC, model=ANIMATE.name, output="video", num_frames=17, image=f"/x/{'ab' * 32}.png")
    text = encode_recipe(recipe_in(spec, ANIMATE, torch="2.12.0", zoetrope="8"))
    answer = ask(world, png(text)).json()
    assert answer["inputs"] == {"image": ["ab" * 32]}
    assert answer["differences"] == [
        "image: it was drawn from a file, which a result does not hold; add image to the request",
        'model: "animate" takes its steps in another way now (its sampler or preset has changed)',
        "versions: it was drawn with torch 2.12.0, and would be with 2.13.0",
    ]


def test_pictures_in_other_formats_tell_the_same(world: World) -> None:
    text = encode_recipe(recipe_in())
    draws(world, image_png=png(text))
    formats: tuple[Format, ...] = ("jpeg", "webp", "png")
    for to in formats:
        form = {"prompt": "a cat", "model": PICTURE.name, "response_format": "file", "output_format": to}
        data = world.http.post("/v1/images/generations", json=form).content
        assert ask(world, data).json()["request"]["prompt"] == "a cat ü"


def test_a_jpeg_without_room_for_words_still_has_the_recipe_and_the_longest_are_left_out() -> None:
    with Image.open(io.BytesIO(png("x"))) as image:
        for length, there in ((40_000, True), (70_000, False)):
            image.info = {
                "zoetrope": '{"zoetrope":1,"request":{"prompt":"' + "a" * length + '"}}',
                "parameters": "a" * length,
            }
            data = io.BytesIO(encoded(image, "jpeg", None))
            if there:
                assert len(recipe_text(data, 10**6)) > length
            else:
                with pytest.raises(NoRecipe):
                    recipe_text(data, 10**6)


def test_a_jpeg_of_a_transparent_picture_lies_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    with Image.open(io.BytesIO(encoded(clear, "jpeg", None))) as image:
        assert image.getpixel((4, 4)) == (255, 255, 255)
    with Image.open(io.BytesIO(encoded(clear, "webp", None))) as image:
        assert image.convert("RGBA").getpixel((4, 4))[3] == 0


def cut(data: bytes) -> bytes:
    return data[: data.index(b"zoetrope") + 12]


def boxed(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data) + 8, name) + data


def chunked(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))


PNG_HEAD = b"\x89PNG\r\n\x1a\n"

BAD: list[tuple[bytes, str]] = [
    (b"", "file: the file is no PNG, JPEG, WebP or MP4"),
    (b"GIF89a" + bytes(64), "file: the file is no PNG, JPEG, WebP or MP4"),
    (picture(), "file: the file holds no recipe: it was drawn without one"),
    (picture(kind="JPEG"), "file: the file holds no recipe"),
    (picture(kind="WEBP"), "file: the file holds no recipe"),
    (clip(1), "file: the file holds no recipe"),
    (cut(png("x" * 400)), "file: the file is damaged where its recipe should stand"),
    (png("a text"), "file: the file holds a damaged recipe"),
    (png("[]"), "file: the file holds a damaged recipe"),
    (png("[" * 100_000), "file: the file holds a damaged recipe"),
    (png('{"zoetrope": 1}'), "file: the file holds a damaged recipe: Object missing required field `request`"),
    (png('{"zoetrope": 2, "recipe": "of another form"}'), "file: the file was written by a newer version of this service"),
    (png('{"prompt": "of ours?"}'), "it is none of this service"),
    (png("x" * 600_000), "file: the file holds a recipe of 600000 bytes, at most 524288 are read"),
    (PNG_HEAD + chunked(b"zTXt", b"zoetrope\0\0junk"), "file: the file is damaged where its recipe should stand"),
    (PNG_HEAD + chunked(b"tEXt", b"zoetrope\0\xff") + b"\xff\xff\xff\xffIDAT", "file: the file holds a damaged recipe"),
    (PNG_HEAD + b"\xff\xff\xff\xffIDAT", "file: the file is damaged where its recipe should stand"),
    (b"\xff\xd8\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff", "file: the file is damaged where its recipe should stand"),
    (b"RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\xff", "file: the file holds a recipe of 4294967295 bytes"),
    (boxed(b"ftyp", b"isom") + struct.pack(">I4s", 4, b"moov"), "file: the file is damaged where its recipe should stand"),
    (
        boxed(b"ftyp", b"isom")
        + boxed(b"moov", boxed(b"udta", boxed(b"meta", bytes(4) + boxed(b"keys", bytes(8)) + boxed(b"ilst", b"")))),
        "file: the file holds no recipe",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "text"), BAD, ids=range(len(BAD)))
def test_a_file_without_a_recipe_is_refused_with_the_reason(world: World, data: bytes, text: str) -> None:
    answer = ask(world, data)
    assert answer.status_code in (400, 422)
    assert text in answer.json()["detail"]


class Watched(io.BytesIO):
    """A file that notes the largest piece that was read of it."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.largest = max(self.largest, len(data))
        return data


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xe1\0\3Exif\0\0",
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 3, b"tEXt") + b"zoetrope\0",
        b"RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\xff",
    ],
    ids=["jpeg", "png", "webp"],
)
def test_a_part_of_an_impossible_size_does_not_have_the_whole_file_read(head: bytes) -> None:
    file = Watched(head + b"x" * 1_000_000)
    with pytest.raises(NoRecipe):
        recipe_text(file, 65_536)
    assert file.largest <= 65_536


def test_a_recipe_packed_beyond_its_size_is_not_unpacked(world: World) -> None:
    bomb = zlib.compress(b"x" * 2_000_000)
    data = PNG_HEAD + chunked(b"zTXt", b"zoetrope\0\0" + bomb)
    assert "damaged recipe" in ask(world, data).json()["detail"]


def test_a_recipe_of_another_hand_is_read_as_a_request_is(world: World) -> None:
    use(world, CARD)
    text = encode_recipe(Recipe(request={"prompt": "a cat", "model": PICTURE.name, "wings": 2}))
    answer = ask(world, png(text)).json()
    assert answer["differences"] == ["wings: unknown field; its value: 2"]


def test_what_is_no_file_is_refused(world: World) -> None:
    assert "is not a file" in world.http.post("/v1/recipe", data={"file": "x"}).json()["detail"]
    assert "file" in world.http.post("/v1/recipe", json={}).json()["detail"]


# ---------------------------------------------------------------- who may


def test_a_request_can_do_without(world: World) -> None:
    world.submit()
    assert drawn(world).recipe is True
    world.submit(recipe=False)
    assert drawn(world).recipe is False
    assert world.http.post("/v1/videos", data={"prompt": "a cat", "recipe": "false"}).status_code == 200
    assert drawn(world).recipe is False
    bad = world.http.post("/v1/jobs", json={"prompt": "a cat", "recipe": "perhaps"})
    assert bad.json()["detail"].startswith('recipe: "perhaps" is not true or false')


def test_the_service_can_do_without(open_edge: Callable[..., World]) -> None:
    world = open_edge(recipe=False)
    world.submit()
    assert drawn(world).recipe is False
    world.submit(recipe=False)
    refused = world.http.post("/v1/jobs", json={"prompt": "a cat", "recipe": True})
    assert refused.status_code == 403
    assert refused.json()["detail"] == "recipe: results of this service do not hold their recipe"


def test_a_key_can_do_without(open_edge: Callable[..., World], tmp_path: Path) -> None:
    key = new_key()
    write_keys(tmp_path / "keys", [KeyRecord(name="red", hash=hash_of(key), tenant="red", recipe=False)])
    world = open_edge(keys_file=str(tmp_path / "keys"))
    headers = {"Authorization": f"Bearer {key}"}
    assert world.http.post("/v1/jobs", json={"prompt": "a cat"}, headers=headers).status_code == 200
    assert drawn(world).recipe is False
    refused = world.http.post("/v1/jobs", json={"prompt": "a cat", "recipe": True}, headers=headers)
    assert refused.status_code == 403
    assert "this key's results do not hold" in refused.json()["detail"]
