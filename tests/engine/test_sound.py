"""Sound beside the frames: out of what a pipeline gives, and into the file, read back with PyAV."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import Cosmos3OmniPipelineOutput
from diffusers.pipelines.kandinsky6.pipeline_output import Kandinsky6TI2VAPipelineOutput
from diffusers.pipelines.ltx2.pipeline_output import LTX2PipelineOutput

from tests.engine.media import read_sound
from workers.engine.artefacts import Mp4Writer
from workers.engine.errors import EngineError
from workers.engine.progress import Monitor
from workers.engine.sound import sound_for
from workers.engine.soundtrack import Sound

_FRAMES = np.full((17, 32, 48, 3), 90, np.uint8)


def _tone(rate: int, seconds: float, *pitches: float) -> Sound:
    """A tone in each channel, at half volume."""
    at = np.arange(round(rate * seconds)) / rate
    waves = [0.5 * np.sin(2 * math.pi * pitch * at) for pitch in pitches]
    return Sound(np.stack(waves).astype(np.float32), rate)


def _write(directory: Path, sound: Sound | None, fps: float = 8.0, frames: Any = _FRAMES) -> Path:
    with Mp4Writer(directory, "video.mp4", fps, sound) as writer:
        writer.write(frames)
        writer.finish()
    return directory / "video.mp4"


def _pitch(samples: Any, rate: int) -> float:
    """The loudest frequency, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


def _loudness(samples: Any) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0


# ---------------------------------------------------------------- into the file


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("fps", [8.0, 23.976])
def test_each_channel_is_heard_at_its_rate_for_as_long_as_the_clip(tmp_path: Path, rate: int, fps: float) -> None:
    heard = read_sound(_write(tmp_path, _tone(rate, 3.0, 440.0, 1200.0), fps))

    assert (heard.codec, heard.rate, len(heard.samples)) == ("aac", rate, 2)
    assert heard.seconds == pytest.approx(heard.clip_s, abs=0.002)
    middle = heard.samples[:, rate // 8 : rate // 2]
    assert [_pitch(channel, rate) for channel in middle] == [pytest.approx(440, abs=4), pytest.approx(1200, abs=4)]
    assert [_loudness(channel) for channel in middle] == [pytest.approx(0.35, abs=0.03)] * 2


def test_a_single_channel_is_heard_on_both_sides(tmp_path: Path) -> None:
    heard = read_sound(_write(tmp_path, _tone(24_000, 3.0, 440.0)))

    assert [_pitch(channel, 24_000) for channel in heard.samples] == [pytest.approx(440, abs=4)] * 2


def test_sound_that_is_shorter_is_followed_by_silence(tmp_path: Path) -> None:
    heard = read_sound(_write(tmp_path, _tone(24_000, 1.0, 440.0)))

    assert heard.seconds == pytest.approx(17 / 8, abs=0.002)
    assert _loudness(heard.samples[0, 4_000:20_000]) == pytest.approx(0.35, abs=0.03)
    assert _loudness(heard.samples[0, 28_000:50_000]) < 0.001


def test_a_rate_that_aac_lacks_is_resampled(tmp_path: Path) -> None:
    heard = read_sound(_write(tmp_path, _tone(20_000, 3.0, 440.0)))

    assert heard.rate == 48_000
    assert heard.seconds == pytest.approx(17 / 8, abs=0.002)
    assert _pitch(heard.samples[0, 4_800:48_000], 48_000) == pytest.approx(440, abs=4)


def test_one_picture_may_stand_for_minutes(tmp_path: Path) -> None:
    heard = read_sound(_write(tmp_path, _tone(16_000, 1.0, 440.0), fps=0.02, frames=_FRAMES[:2]))

    assert heard.seconds == pytest.approx(100, abs=0.01)


def test_the_record_says_how_long_the_sound_is(tmp_path: Path) -> None:
    lengths = []
    for sound in (None, _tone(24_000, 1.0, 440.0)):
        with Mp4Writer(tmp_path, "video.mp4", 8.0, sound) as writer:
            writer.write(_FRAMES)
            lengths.append(writer.finish().sound_s)

    assert lengths == [0.0, pytest.approx(17 / 8, abs=0.002)]


def test_pictures_are_the_same_with_sound(tmp_path: Path) -> None:
    shown = []
    for sound in (None, _tone(24_000, 1.0, 440.0)):
        with av.open(str(_write(tmp_path, sound))) as container:
            shown.append([bytes(packet) for packet in container.demux(video=0) if packet.size])

    assert shown[0] == shown[1]


# ---------------------------------------------------------------- out of the pipeline


def _pipe(**components: dict[str, int]) -> Any:
    return SimpleNamespace(**{name: SimpleNamespace(config=SimpleNamespace(**c)) for name, c in components.items()})


_LTX2 = _pipe(vocoder={"output_sampling_rate": 24_000}, audio_vae={"sample_rate": 16_000})
_KANDINSKY = _pipe(vocoder={"upsample_initial_channel": 8}, audio_vae={"sample_rate": 44_100})
_COSMOS = _pipe(sound_tokenizer={"sampling_rate": 48_000})
_NO_FRAMES: Any = None


@pytest.mark.parametrize(
    ("pipe", "output", "shape", "rate"),
    [
        (_LTX2, LTX2PipelineOutput(_NO_FRAMES, torch.full((1, 2, 50), 3.0, dtype=torch.bfloat16)), (2, 50), 24_000),
        (_KANDINSKY, Kandinsky6TI2VAPipelineOutput(_NO_FRAMES, np.full((1, 50), 3.0, np.float32)), (1, 50), 44_100),
        (_COSMOS, Cosmos3OmniPipelineOutput(None, torch.full((2, 50), 3.0)), (2, 50), 48_000),
    ],
    ids=["LTX-2", "Kandinsky 6", "Cosmos 3"],
)
def test_sound_is_found_with_its_rate(pipe: Any, output: Any, shape: Any, rate: int, monitor: Monitor) -> None:
    sound = sound_for(pipe, output, "video", monitor)

    assert sound is not None
    assert (sound.samples.shape, sound.samples.dtype, sound.rate) == (shape, np.float32, rate)
    assert np.all(sound.samples == 1.0)  # what is louder than full is clipped
    assert monitor.warnings == ()


@pytest.mark.parametrize("output", [LTX2PipelineOutput(_NO_FRAMES, _NO_FRAMES), SimpleNamespace(frames=[])])
def test_a_pipeline_without_sound_gives_none(output: Any, monitor: Monitor) -> None:
    assert sound_for(_LTX2, output, "video", monitor) is None
    assert monitor.warnings == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_no_sound(value: float, monitor: Monitor) -> None:
    samples = torch.zeros(1, 2, 50)
    samples[0, 1, 7] = value

    with pytest.raises(EngineError, match="1 of the 100 values of the sound are no numbers"):
        sound_for(_LTX2, LTX2PipelineOutput(_NO_FRAMES, samples), "video", monitor)


def test_a_picture_holds_no_sound(monitor: Monitor) -> None:
    output = LTX2PipelineOutput(_NO_FRAMES, torch.full((1, 2, 50), math.nan))

    assert sound_for(_LTX2, output, "image", monitor) is None
    assert monitor.warnings == ("sound: the model made some, and a picture holds none; it was left out",)


def test_sound_of_no_known_rate_is_left_out(monitor: Monitor) -> None:
    assert sound_for(_pipe(), LTX2PipelineOutput(_NO_FRAMES, torch.zeros(1, 2, 50)), "video", monitor) is None
    assert "at which rate" in monitor.warnings[0]


def test_more_channels_than_two_are_refused(monitor: Monitor) -> None:
    with pytest.raises(EngineError, match=r"shape \(1, 6, 50\)"):
        sound_for(_LTX2, LTX2PipelineOutput(_NO_FRAMES, torch.zeros(1, 6, 50)), "video", monitor)


def test_rates_of_broadcast_video_add_up(tmp_path: Path) -> None:
    """30000/1001: samples of a frame are no whole number, and the rounding of each must not add up."""
    heard = read_sound(_write(tmp_path, _tone(44_100, 5.0, 440.0), fps=29.97, frames=np.repeat(_FRAMES, 6, axis=0)))

    assert heard.clip_s == pytest.approx(float(102 * Fraction(1001, 30000)), abs=0.001)
    assert heard.seconds == pytest.approx(heard.clip_s, abs=0.002)
