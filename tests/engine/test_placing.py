"""Placements: where weights lie while a job is drawn. A CPU stands in for the GPU, through the same hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker.wire.jobspec import JobSpec, ModelCard, Profile
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder
from workers.engine import encoders, placing
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import OutOfMemory
from workers.engine.memory import ProcessMemory
from workers.engine.overlap import shape_of
from workers.engine.peaks import Peaks, revision_of
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.model import ModelSetup
from workers.models.parallel import WHOLE
from workers.models.placement import ORDER, RESERVE, Need, Placement, PlacementSetting, peak
from workers.models.quantise import QuantizeMethod
from workers.models.speed import Speed

ALL = 2**40


class Meter(ProcessMemory):
    """The memory of a device of this many bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def limit_mb(self) -> float:
        return self.limit / 2**20


class PretendGpu(Device):
    """A "GPU" whose memory is the machine's, and as large as the test says."""

    def __init__(self, limit: int = ALL) -> None:
        super().__init__("cpu", "auto", threads=1)
        self.kind = "cuda"
        self.meter = Meter(limit)

    def synchronise(self) -> None:
        """Nothing runs behind."""

    def release(self) -> None:
        """Nothing is cached."""

    def free_bytes(self) -> int:
        return ALL


def engine_with(
    card: ModelCard, placement: PlacementSetting = "auto", limit: int = ALL, peaks: Peaks | None = None
) -> VideoEngine:
    return VideoEngine(Pipelines(PretendGpu(limit), {card.name: ModelSetup(placement=placement)}, peaks))


#: As a job is drawn at first, and once it ran out of memory.
PROFILES: tuple[Profile, ...] = ("normal", "offload")


@pytest.fixture
def engine(demo_card: ModelCard) -> VideoEngine:
    return engine_with(demo_card)


def job(card: ModelCard, **changes: Any) -> JobSpec:
    return spec_for(card, **{"num_frames": 5, "num_inference_steps": 3, **changes})


def _draw(
    engine: VideoEngine, card: ModelCard, slot: Slot, directory: Path, profile: Profile = "normal", **changes: Any
) -> Any:
    monitor = Monitor(slot, 1, 1, engine.pipelines.device.meter)
    return written(lambda: complete(engine.generate(card, job(card, **changes), directory, monitor, profile)))


def _used(engine: VideoEngine, card: ModelCard) -> str:
    return engine.pipelines.loaded(card.name).used["placement"]


@pytest.fixture(scope="module")
def frames(demo_card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the demo model draws with nothing placed anywhere."""
    plain = VideoEngine(Pipelines(Device("cpu", "auto", threads=1)))
    return _draw(plain, demo_card, Recorder.recording(), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("placement", ORDER)
def test_every_placement_draws_the_same(
    placement: Placement, demo_card: ModelCard, tmp_path: Path, frames: Any
) -> None:
    engine = engine_with(demo_card, placement)
    assert np.array_equal(_draw(engine, demo_card, Recorder.recording(), tmp_path), frames)
    assert _used(engine, demo_card) == placement
    assert np.array_equal(_draw(engine, demo_card, Recorder.recording(), tmp_path), frames), "a second time, too"


@pytest.mark.parametrize("placement", ["text_encoder_aside", "text_encoder_streamed", "model", "group", "leaf"])
@pytest.mark.parametrize(("phase", "step", "hits"), [("encode", 0, 2), ("denoise", 1, 4), ("decode", 1, 3)])
def test_cancelled_job_leaves_the_placement_in_order(
    placement: PlacementSetting, phase: str, step: int, hits: int, demo_card: ModelCard, tmp_path: Path, frames: Any
) -> None:
    engine = engine_with(demo_card, placement)
    with pytest.raises(Cancelled):
        _draw(engine, demo_card, CancelAt.at(phase, step, hits), tmp_path)
    assert np.array_equal(_draw(engine, demo_card, Recorder.recording(), tmp_path), frames)


def test_weights_go_from_one_placement_to_another(demo_card: ModelCard, tmp_path: Path, frames: Any) -> None:
    engine = engine_with(demo_card)
    pipe = engine.pipelines.get(demo_card)
    for placement in ("leaf", "text_encoder_aside", "group", "text_encoder_streamed", "model", "resident"):
        placing.place(pipe, placement, engine.pipelines.device)  # type: ignore[arg-type]
        drawn = _draw(engine, demo_card, Recorder.recording(), tmp_path)
        assert np.array_equal(drawn, frames), placement
        assert _used(engine, demo_card) == "resident", "the test moved it, not the engine"


class Seen:
    """How many of the text encoder's weights are copies, at each call of one of its linear layers."""

    def __init__(self, pipe: Any, patch: pytest.MonkeyPatch) -> None:
        self.encoder = pipe.text_encoder
        self.waiting = dict(self.encoder.named_parameters())
        self.copies: list[int] = []
        linear, own = torch.nn.functional.linear, {id(weight) for weight in self.waiting.values()}

        def look(taken: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            assert id(weight) not in own, "computed with what waits"
            there = dict(self.encoder.named_parameters())
            self.copies.append(sum(there[name] is not waits for name, waits in self.waiting.items()))
            return linear(taken, weight, bias)

        patch.setattr(torch.nn.functional, "linear", look)

    def all_wait(self) -> bool:
        there = dict(self.encoder.named_parameters())
        return there.keys() == self.waiting.keys() and all(there[name] is self.waiting[name] for name in there)


@pytest.mark.parametrize(("placement", "at_once"), [("text_encoder_aside", None), ("text_encoder_streamed", 1)])
def test_copies_of_encoders_are_on_the_device_while_they_encode_and_nothing_comes_back(
    placement: PlacementSetting, at_once: int | None, demo_card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(demo_card, placement)
    pipe = engine.pipelines.get(demo_card)
    seen = Seen(pipe, monkeypatch)
    pipe.encode_prompt("a red circle", do_classifier_free_guidance=False)
    assert seen.copies
    assert max(seen.copies) == (at_once or len(seen.waiting))
    assert seen.all_wait()
    assert not hasattr(pipe.transformer, "_hf_hook")
    assert not hasattr(pipe.vae, "_hf_hook")

    seen.copies.clear()
    pipe.encode_prompt("a red circle", do_classifier_free_guidance=False)
    assert not seen.copies, "a prompt that is known moves nothing"


@pytest.mark.parametrize("method", ["int8", "nf4", "layerwise_fp8"])
def test_encoders_of_fewer_bits_encode_the_same_wherever_they_wait(
    method: QuantizeMethod, demo_card: ModelCard
) -> None:
    setup = ModelSetup(speed=Speed(quantize={"text_encoder": method}))
    pipe = Pipelines(Device("cpu", "auto", threads=1), {demo_card.name: setup}).get(demo_card)
    placements: tuple[Placement, ...] = ("resident", "text_encoder_aside", "text_encoder_streamed")
    encoded = []
    for placement in placements:
        placing.place(pipe, placement, PretendGpu())
        with torch.no_grad():  # not through the cache of prompts
            encoded.append(pipe._get_t5_prompt_embeds("a red circle"))
    assert torch.equal(encoded[1], encoded[0])
    assert torch.equal(encoded[2], encoded[0])


@pytest.mark.parametrize("placement", ["text_encoder_aside", "text_encoder_streamed"])
def test_encoders_wait_again_after_a_failure_and_where_memory_runs_out_half_way(
    placement: PlacementSetting, demo_card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(demo_card, placement)
    pipe = engine.pipelines.get(demo_card)
    seen = Seen(pipe, monkeypatch)
    copy, left = encoders._copy, iter([True] * 7)

    def short(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if not next(left, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return copy(tensor, device)

    monkeypatch.setattr(encoders, "_copy", short)
    with pytest.raises(torch.OutOfMemoryError):
        pipe.encode_prompt("a blue circle", do_classifier_free_guidance=False)
    assert seen.all_wait()


# ------------------------------------------------------------------ the choice


def sizes(card: ModelCard) -> Any:
    return placing.components(VideoEngine(Pipelines(Device("cpu", "auto", threads=1))).pipelines.get(card))


def test_sizes_are_those_of_the_weights(demo_card: ModelCard) -> None:
    by_name = {part.name: part for part in sizes(demo_card)}
    pipe = VideoEngine(Pipelines(Device("cpu", "auto", threads=1))).pipelines.get(demo_card)
    assert set(by_name) == {"text_encoder", "transformer", "vae"}
    transformer = by_name["transformer"]
    assert transformer.size == sum(p.nbytes for p in (*pipe.transformer.parameters(), *pipe.transformer.buffers()))
    blocks = [sum(p.nbytes for p in block.parameters()) for block in pipe.transformer.blocks]
    assert (transformer.block, transformer.unblocked) == (max(blocks), transformer.size - sum(blocks))
    assert 0 < transformer.leaf < transformer.block


@pytest.mark.parametrize("placement", ["resident", "model", "leaf"])
def test_the_fastest_that_the_device_has_room_for_is_taken(placement: Placement, demo_card: ModelCard) -> None:
    room = peak(placement, sizes(demo_card), Need()) + RESERVE
    engine = engine_with(demo_card, limit=room + 2**20)
    engine.pipelines.get(demo_card)
    assert _used(engine, demo_card) == placement


def test_a_device_too_small_for_any_refuses_with_the_numbers(demo_card: ModelCard) -> None:
    engine = engine_with(demo_card, limit=RESERVE)
    with pytest.raises(
        OutOfMemory,
        match=r"does not fit in memory for 64x64x17: its weights take .* there are 1\.5 GiB; no placement makes it fit",
    ):
        engine.load(demo_card)


def test_a_job_too_large_is_refused_before_it_begins_and_the_model_stays(demo_card: ModelCard, tmp_path: Path) -> None:
    peaks = Peaks()
    engine = engine_with(demo_card, limit=RESERVE + 2**30, peaks=peaks)
    engine.load(demo_card)
    pipe = engine.pipelines.get(demo_card)
    revision = revision_of(demo_card, ModelSetup(), "cuda", str(engine.pipelines.device.dtype))
    peaks.placed(demo_card.name, revision, "resident")
    peaks.denoise_took(shape_of(job(demo_card, num_frames=17)), 5000.0)
    with pytest.raises(OutOfMemory, match=r"for 64x64x17: .* a job of this size 4\.9 GiB on top"):
        _draw(engine, demo_card, Recorder.recording(), tmp_path, num_frames=17)
    assert engine.pipelines.names() == (demo_card.name,)
    assert engine.pipelines.get(demo_card, shape=shape_of(job(demo_card, num_frames=1))) is pipe


def test_an_estimate_refuses_nobody_and_a_job_is_tried_where_it_takes_least(demo_card: ModelCard) -> None:
    peaks = Peaks()
    engine = engine_with(demo_card, limit=RESERVE + 2**30, peaks=peaks)
    revision = revision_of(demo_card, ModelSetup(), "cuda", str(engine.pipelines.device.dtype))
    peaks.placed(demo_card.name, revision, "resident")
    peaks.denoise_took(shape_of(job(demo_card, num_frames=1)), 500.0)
    engine.pipelines.get(demo_card, shape=shape_of(job(demo_card, num_frames=17)))
    assert _used(engine, demo_card) == "leaf"


def test_a_job_that_ran_out_is_drawn_in_less_and_the_next_like_it_begins_there(demo_card: ModelCard) -> None:
    engine = engine_with(demo_card, limit=RESERVE + 2**30)
    spec = job(demo_card)
    engine.pipelines.get(demo_card, shape=shape_of(spec))
    assert _used(engine, demo_card) == "resident"
    assert engine.resident(demo_card, "normal", shape_of(spec))

    assert engine.ran_out(demo_card, spec, "normal")

    assert not engine.resident(demo_card, "normal", shape_of(spec))
    engine.pipelines.get(demo_card, shape=shape_of(spec))
    slower = _used(engine, demo_card)
    assert ORDER.index(slower) > 0  # type: ignore[arg-type]
    assert engine.resident(demo_card, "normal", shape_of(spec)) is (slower != "model")


def test_running_out_ends_where_there_is_no_slower_placement(demo_card: ModelCard) -> None:
    engine = engine_with(demo_card, limit=RESERVE + 2**30)
    spec = job(demo_card)
    tried = []
    while True:
        engine.pipelines.get(demo_card, shape=shape_of(spec))
        tried.append(_used(engine, demo_card))
        if not engine.ran_out(demo_card, spec, "normal"):
            break
    assert tried == sorted(tried, key=ORDER.index)  # type: ignore[arg-type]
    assert len(set(tried)) == len(tried)
    with pytest.raises(OutOfMemory):
        engine.pipelines.get(demo_card, shape=shape_of(spec))


def test_the_decoder_stays_beside_the_next_job_but_where_components_take_turns(demo_card: ModelCard) -> None:
    kept = {}
    for placement in ORDER:
        engine = engine_with(demo_card, placement)
        engine.load(demo_card)
        kept[placement] = engine.pipelines.keeps_vae(demo_card)
    assert kept == {placement: placement != "model" for placement in ORDER}


def test_a_profile_that_trades_speed_for_memory_starts_at_one_component_at_a_time(demo_card: ModelCard) -> None:
    used = []
    for wanted in ("auto", "resident"):
        engine = engine_with(demo_card, wanted)  # type: ignore[arg-type]
        engine.pipelines.get(demo_card, "offload")
        used.append(_used(engine, demo_card))
    assert used == ["model", "resident"], "the table's word stands"


def test_where_no_component_may_move_the_profile_takes_what_comes_after_all_on_the_device(demo_card: ModelCard) -> None:
    pipelines = Pipelines(PretendGpu(ALL), {}, placements=WHOLE)
    engine = VideoEngine(pipelines)
    used = []
    for profile in PROFILES:
        pipelines.get(demo_card, profile)
        used.append(_used(engine, demo_card))
    assert used == ["resident", "text_encoder_aside"]


def test_others_are_dropped_only_where_a_model_has_no_room_beside_them(
    demo_card: ModelCard, image_card: ModelCard
) -> None:
    demo, image = (peak("resident", sizes(card), Need()) for card in (demo_card, image_card))
    for limit, left in ((demo + image, 2), (max(demo, image), 1)):
        engine = engine_with(demo_card, limit=RESERVE + limit + 2**16)
        engine.pipelines.get(image_card)
        engine.pipelines.get(demo_card)
        assert len(engine.pipelines.names()) == left
        assert _used(engine, demo_card) == "resident"


def test_an_estimate_that_was_wrong_is_put_right_before_the_job(
    engine: VideoEngine, demo_card: ModelCard, image_card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go first, then the next placement is tried; what did not fit is not tried again for the next job."""
    engine.pipelines.get(image_card)
    place, tries = placing.place, []

    def full(pipe: Any, placement: Placement, device: Device) -> None:
        tries.append((placement, len(engine.pipelines.names())))
        if placement == "resident":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        place(pipe, placement, device)

    monkeypatch.setattr(placing, "place", full)
    engine.pipelines.get(demo_card)
    assert tries == [("resident", 1), ("resident", 0), ("text_encoder_aside", 0)]
    engine.pipelines.get(demo_card)
    assert len(tries) == 3
    assert _used(engine, demo_card) == "text_encoder_aside"
