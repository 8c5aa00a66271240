"""Files that tell what they were drawn with: they draw the same pixels again, and have the pixels of files that tell nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from broker.runtime.recipe_file import NoRecipe, recipe_text
from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.loras import LoraUse
from broker.wire.messages import WorkerView
from broker.wire.recipe import MAX_RECIPE_BYTES, Recipe, decode_recipe
from http_edge.jobs.generation_reader import Policy, read_generation
from http_edge.jobs.recipes import obstacles
from http_edge.jobs.specs import build_spec
from http_edge.media.thumbnails import Format, encoded
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import tapped
from tests.engine.scripted import Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.fake import FakeEngine
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.models.catalogue import default_model, model_for
from workers.models.versions import installed

STRICT = Policy(refuses_unknown=True, refuses_unsupported=True)
PROMPT = "a yellow square growing on a navy background"
FAKE = ModelCard(name="fake", engine="fake", output="image", takes_image=True, also_image=True)


@pytest.fixture(scope="module")
def demo(device: Device) -> tuple[VideoEngine, ModelCard]:
    model = model_for(str(default_model()))
    return VideoEngine(Pipelines(device, {model.card.name: model.setup})), model.card


def draw(engine: Any, card: ModelCard, spec: JobSpec, place: Path) -> None:
    monitor = Monitor(Recorder.recording(), 1, spec.num_outputs, Device("cpu", "auto", threads=1).meter)
    complete(engine.generate(card, spec, place, monitor, "normal"))


def frames_of(engine: Any, card: ModelCard, spec: JobSpec, place: Path) -> list[npt.NDArray[np.uint8]]:
    """Raw frames of each clip of a job, the first output first."""
    with tapped() as kept:
        draw(engine, card, spec, place)
    return [np.concatenate(kept[path]) for path in kept]


def read(path: Path) -> Recipe:
    with open(path, "rb") as file:
        return decode_recipe(recipe_text(file, MAX_RECIPE_BYTES))


def asked_again(recipe: Recipe, card: ModelCard) -> JobSpec:
    """The job that the recipe's request becomes."""
    return build_spec(read_generation(recipe.request, STRICT).generation, card, seed=99)


def test_clips_draw_themselves_again(demo: tuple[VideoEngine, ModelCard], tmp_path: Path) -> None:
    engine, card = demo
    loras = (LoraUse(name="boomerang", scale=0.5),)
    spec = spec_for(card, prompt=PROMPT, negative_prompt="dull", seed=3, num_outputs=2, guidance_scale=3.5, loras=loras)
    clips = frames_of(engine, card, spec, tmp_path)
    assert not np.array_equal(*clips)
    for number, name in enumerate(("video.mp4", "video-2.mp4")):
        recipe = read(tmp_path / name)
        assert recipe.request["seed"] == 3 + number
        assert recipe.versions["torch"]
        workers = [WorkerView(name="cpu-0", state="idle", models=(card,), versions=dict(installed()))]
        assert list(obstacles(recipe, workers, STRICT)) == []
        again = tmp_path / f"again-{number}"
        again.mkdir()
        (same,) = frames_of(engine, card, asked_again(recipe, card), again)
        assert np.array_equal(same, clips[number])
        assert read(again / "video.mp4") == recipe


def test_a_picture_draws_itself_again_in_every_format(demo: tuple[VideoEngine, ModelCard], tmp_path: Path) -> None:
    engine, card = demo
    spec = spec_for(card, output="image", num_frames=1, seed=5, prompt="a café, 猫 😀\nsecond line", fps=16.0)
    draw(engine, card, spec, tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "image.png"))
    recipe = read(tmp_path / "image.png")
    again = tmp_path / "again"
    again.mkdir()
    draw(engine, card, asked_again(recipe, card), again)
    assert np.array_equal(np.asarray(Image.open(again / "image.png")), drawn)
    formats: tuple[Format, ...] = ("jpeg", "webp")
    for to in formats:
        with Image.open(tmp_path / "image.png") as picture:
            data = encoded(picture, to, None)
        assert decode_recipe(recipe_text(io.BytesIO(data), MAX_RECIPE_BYTES)) == recipe
        with Image.open(io.BytesIO(data)) as picture:
            words = picture.getexif().get_ifd(0x8769)[0x9286]
        assert words.startswith(b"UNICODE\0")
        assert words[8:].decode("utf-16-be").startswith("a café, 猫 😀\nsecond line\nSteps: ")


def test_what_people_and_other_programs_read(demo: tuple[VideoEngine, ModelCard], tmp_path: Path) -> None:
    engine, card = demo
    spec = spec_for(card, prompt="a cat", negative_prompt="dull", seed=5, guidance_scale=2.5)
    draw(engine, card, spec, tmp_path)
    with av.open(str(tmp_path / "video.mp4")) as clip:
        words = clip.metadata["comment"]
        assert decode_recipe(clip.metadata["zoetrope"]).request["prompt"] == "a cat"
    steps, size = card.defaults.num_inference_steps, f"{card.defaults.width}x{card.defaults.height}"
    expected = (
        f"a cat\nNegative prompt: dull\nSteps: {steps}, CFG scale: 2.5, Seed: 5, Size: {size}, Model: {card.name}"
    )
    assert words.startswith(expected)
    draw(engine, card, msgspec.structs.replace(spec, output="image", num_frames=1), tmp_path)
    with Image.open(tmp_path / "image.png") as picture:
        assert picture.info["parameters"].startswith(expected)


def test_the_pixels_are_those_of_a_file_that_tells_nothing(tmp_path: Path) -> None:
    for output, name, frames in (("image", "image.png", 1), ("video", "video.mp4", 5)):
        decoded = []
        for recipe in (True, False):
            place = tmp_path / f"{output}-{recipe}"
            place.mkdir()
            spec = spec_for(FAKE, output=output, num_frames=frames, recipe=recipe, width=64, height=48, seed=2)
            draw(FakeEngine(), FAKE, spec, place)
            if output == "image":
                decoded.append(np.asarray(Image.open(place / name)))
            else:
                with av.open(str(place / name)) as clip:
                    decoded.append(np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]))
        assert np.array_equal(*decoded)
        with open(place / name, "rb") as file, pytest.raises(NoRecipe, match="holds no recipe"):
            recipe_text(file, MAX_RECIPE_BYTES)
        assert spec.prompt.encode() not in (place / name).read_bytes()


def test_what_it_was_drawn_from_is_named_by_its_hash(tmp_path: Path) -> None:
    kept = tmp_path / f"{'ab' * 32}.png"
    Image.new("RGB", (8, 8)).save(kept)
    draw(FakeEngine(), FAKE, spec_for(FAKE, num_frames=1, image=str(kept), width=64, height=48), tmp_path)
    recipe = read(tmp_path / "image.png")
    assert recipe.inputs == {"image": ("ab" * 32,)}
    assert str(tmp_path) not in (tmp_path / "image.png").read_bytes().decode("latin-1")
