"""A job's media become arguments: sizes, rates, order, and the parameter that each pipeline has for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.runtime.clips import facts_of, frames_at
from broker.wire.jobspec import JobSpec
from workers.engine.arguments import call_arguments
from workers.engine.artefacts import Mp4Writer
from workers.engine.errors import InvalidInput


class StableDiffusionInpaintPipeline:
    def __call__(self, prompt: Any, image: Any, mask_image: Any = None) -> None: ...


class QwenImageEditInpaintPipeline(StableDiffusionInpaintPipeline):
    """Gets its image whole."""


class StableDiffusionControlNetPipeline:
    def __call__(self, prompt: Any, image: Any) -> None: ...


class Flux2Pipeline:
    def __call__(self, image: Any, prompt: Any) -> None: ...


class JoyImageEditPlusPipeline:
    def __call__(self, images: Any, prompt: Any) -> None: ...


class WanVACEPipeline:
    def __call__(
        self, prompt: Any, video: Any = None, mask: Any = None, reference_images: Any = None, num_frames: int = 1
    ) -> None: ...


class WanAnimatePipeline:
    transformer = SimpleNamespace(config=SimpleNamespace(motion_encoder_size=8))

    def __call__(
        self, image: Any, pose_video: Any, face_video: Any, background_video: Any = None, mask_video: Any = None,
        mode: str = "animate",
    ) -> None: ...  # fmt: skip


class Cosmos3OmniPipeline:
    def __call__(self, prompt: Any, image: Any = None, video: Any = None, num_frames: int = 1) -> None: ...


class HeliosPipeline(Cosmos3OmniPipeline):
    """Sees more frames, which are not drawn."""


class WanVideoToVideoPipeline:
    def __call__(self, video: Any, prompt: Any) -> None: ...


class CogVideoXFunControlPipeline:
    def __call__(self, prompt: Any, control_video: Any = None) -> None: ...


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Pictures of one grey, a mask with its left half white, and a clip at 24 frames a second that brightens by 10 a frame."""
    found = {}
    for name, grey, size in (("a", 40, (64, 32)), ("b", 80, (32, 64)), ("c", 120, (48, 48))):
        found[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", size, (grey,) * 3).save(found[name])
    marked = np.zeros((32, 64), np.uint8)
    marked[:, :32] = 255
    found["mask"] = str(tmp_path / "mask.png")
    Image.fromarray(marked).save(found["mask"])
    found["clip"] = str(tmp_path / "clip.mp4")
    with Mp4Writer(tmp_path, "clip.mp4", 24.0) as writer:
        for number in range(25):
            writer.write(np.full((1, 64, 128, 3), 10 * number, np.uint8))
        writer.finish()
    return found


class Stopped(Exception):
    pass


def arguments(
    kind: type, image: str = "", frames: int = 1, fps: float = 24.0, **inputs: str | list[str]
) -> dict[str, Any]:
    spec = JobSpec(
        model="m", output="video", prompt="p", width=32, height=16, num_frames=frames, fps=fps, num_inference_steps=1, seed=1,
        image=image, inputs={role: tuple([one] if isinstance(one, str) else one) for role, one in inputs.items()},
    )  # fmt: skip
    return call_arguments(kind(), spec, 1)


def greys(pictures: Any) -> list[int]:
    return [round(float(np.asarray(picture).mean())) for picture in pictures]


def test_image_and_mask_are_cut_alike(files: dict[str, str]) -> None:
    given = arguments(StableDiffusionInpaintPipeline, files["a"], mask_image=files["mask"])
    assert (given["image"].size, given["mask_image"].size, given["mask_image"].mode) == ((32, 16), (32, 16), "L")
    assert np.asarray(given["mask_image"]).tolist() == [[255] * 16 + [0] * 16] * 16


def test_a_mask_goes_with_an_image_that_is_kept_whole(files: dict[str, str]) -> None:
    given = arguments(QwenImageEditInpaintPipeline, files["a"], mask_image=files["mask"])
    assert given["image"].size == given["mask_image"].size == (64, 32)


def test_a_control_image_is_what_such_a_pipeline_calls_its_image(files: dict[str, str]) -> None:
    given = arguments(StableDiffusionControlNetPipeline, control_image=files["b"])
    assert (given["image"].size, greys([given["image"]])) == ((32, 16), [80])


def test_further_images_follow_the_first_and_keep_their_shape(files: dict[str, str]) -> None:
    for kind, name in ((Flux2Pipeline, "image"), (JoyImageEditPlusPipeline, "images")):
        given = arguments(kind, files["a"], reference_images=[files["b"], files["c"]])[name]
        assert greys(given) == [40, 80, 120]
        assert [picture.size for picture in given[1:]] == [(32, 64), (48, 48)]
    assert arguments(Flux2Pipeline, files["a"])["image"].size == (64, 32)
    assert greys(arguments(JoyImageEditPlusPipeline, files["a"])["images"]) == [40]


def test_a_clip_is_seen_at_the_jobs_rate_and_size(files: dict[str, str]) -> None:
    frames = arguments(WanVideoToVideoPipeline, frames=5, fps=12.0, video=files["clip"])["video"]
    assert {picture.size for picture in frames} == {(32, 16)}
    assert greys(frames) == pytest.approx([0, 20, 40, 60, 80], abs=2)
    (batch,) = arguments(CogVideoXFunControlPipeline, frames=3, control_video=files["clip"])["control_video"]
    assert greys(batch) == pytest.approx([0, 10, 20], abs=2)


def test_a_mask_of_a_clip_is_that_of_every_frame(files: dict[str, str]) -> None:
    given = arguments(
        WanVACEPipeline, frames=5, video=files["clip"], mask_image=files["mask"], reference_images=files["b"]
    )
    assert (len(given["video"]), len(given["mask"]), len(given["reference_images"])) == (5, 5, 1)
    assert given["mask"][0].size == given["video"][0].size


def test_a_mask_of_every_frame_is_black_or_white(files: dict[str, str]) -> None:
    # The clip brightens by 10 a frame, so that its 14th frame is the first that is more white than black.
    given = arguments(WanVACEPipeline, frames=25, video=files["clip"], mask_video=files["clip"])
    assert greys(given["mask"]) == [0] * 13 + [255] * 12
    assert {(mask.size, mask.mode) for mask in given["mask"]} == {((32, 16), "L")}


def test_a_background_is_where_the_one_in_the_picture_is_put(files: dict[str, str]) -> None:
    moved = {"pose_video": files["clip"], "face_video": files["clip"]}
    assert "mode" not in arguments(WanAnimatePipeline, files["a"], frames=5, **moved)
    given = arguments(
        WanAnimatePipeline, files["a"], frames=5, **moved, background_video=files["clip"], mask_video=files["clip"]
    )
    assert (given["mode"], len(given["background_video"]), len(given["mask_video"])) == ("replace", 5, 5)


def test_a_clip_to_go_on_from_is_seen_at_its_end(files: dict[str, str]) -> None:
    frames = arguments(Cosmos3OmniPipeline, frames=21, start_video=files["clip"])["video"]
    assert greys(frames) == pytest.approx([200, 210, 220, 230, 240], abs=2)
    # At half the rate every other frame is seen; and no more than half of what is drawn.
    frames = arguments(Cosmos3OmniPipeline, frames=21, fps=12.0, start_video=files["clip"])["video"]
    assert greys(frames) == pytest.approx([160, 180, 200, 220, 240], abs=2)
    assert len(arguments(Cosmos3OmniPipeline, frames=5, start_video=files["clip"])["video"]) == 1
    assert len(arguments(HeliosPipeline, frames=33, fps=48.0, start_video=files["clip"])["video"]) == 33
    with pytest.raises(InvalidInput, match=r"start_video: 'clip.mp4' has 25 frames .* and 33 are needed"):
        arguments(HeliosPipeline, frames=33, start_video=files["clip"])


def test_a_clip_that_ends_too_soon_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(
        InvalidInput, match=r"video: 'clip.mp4' has 25 frames at 24 frames per second, and the job draws 26"
    ):
        arguments(WanVideoToVideoPipeline, frames=26, video=files["clip"])


@pytest.mark.parametrize("role", ["video", "mask_image", "reference_images"])
def test_what_cannot_be_read_is_named(files: dict[str, str], tmp_path: Path, role: str) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no picture and no clip")
    for name in ("bad.mp4", "none.mp4"):
        with pytest.raises(InvalidInput, match=rf"^{role}: '{name}'"):
            arguments(WanVACEPipeline, frames=1, **{role: str(tmp_path / name)})


def test_a_cancel_is_heard_between_frames(files: dict[str, str]) -> None:
    spec = JobSpec(
        model="m", output="video", prompt="p", width=32, height=16, num_frames=5, num_inference_steps=1, seed=1,
        inputs={"video": (files["clip"],)},
    )  # fmt: skip

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        call_arguments(WanVideoToVideoPipeline(), spec, 1, stop)


@pytest.mark.parametrize("fps", [8.0, 16.0, 23.976, 24.0, 30.0, 60.0])
def test_as_many_frames_come_as_are_promised(files: dict[str, str], fps: float) -> None:
    with open(files["clip"], "rb") as file:
        promised = facts_of(file).frames_at(fps)
    with open(files["clip"], "rb") as file:
        assert len(list(frames_at(file, fps, 1000))) == promised


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx-vp9", "webm"), ("libx265", "mov"), ("mpeg4", "mkv")])
def test_other_codecs_and_containers_are_read(tmp_path: Path, codec: str, suffix: str) -> None:
    import av

    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with path.open("rb") as file:
        facts = facts_of(file)
    assert (facts.shape, facts.frames, round(facts.rate, 1)) == ((64, 48), 10, 25.0)
    with path.open("rb") as file:
        assert greys(frames_at(file, 25.0, 20)) == pytest.approx([20 * number for number in range(10)], abs=6)
