"""Diffusers pipelines in memory: load, place on the device, keep several, drop the least recently used when room is short.

Where a pipeline's weights lie is planned before each job (`workers.models.placement`) by what they and the job take and what there is;
they are moved (`placing`) only when the plan requests it. On a CPU there is nothing to place.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
import transformers
from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard, Profile
from broker.wire.loras import LoraMemory, LoraUse
from workers.engine import placing
from workers.engine.compiling import warm_up
from workers.engine.device import Device
from workers.engine.errors import EngineError, InvalidInput, OutOfMemory
from workers.engine.execution_device import keep_execution_device
from workers.engine.failures import is_out_of_memory
from workers.engine.load_errors import load_error
from workers.engine.loading import HEADROOM, dtype_of, goes_straight
from workers.engine.loras import Adapters, LoraFiles
from workers.engine.peaks import Peaks, Shape, revision_of
from workers.engine.peaks import shape as shape_with
from workers.engine.progress import Monitor
from workers.engine.ready import make_ready
from workers.models.model import ModelSetup
from workers.models.placement import (
    AUTO,
    ORDER,
    DoesNotFit,
    Need,
    Placement,
    PlacementSetting,
    Settled,
    choose,
    cures,
    fits,
    peak,
    room,
)
from workers.models.quantise import COMPONENTS
from workers.models.sources import find
from workers.models.weights import loaded_bytes

logger = logging.getLogger(__name__)

_MB = 2**20

#: Placements in which a model is where a job finds it and its VAE stays, so that the decoding of one job may run beside the next.
_RESIDENT: frozenset[Placement | None] = frozenset(ORDER) - {"model"}


class Loaded:
    """A pipeline in memory and where it is."""

    def __init__(
        self,
        pipe: Any,
        source: str,
        used: dict[str, str],
        configured: PlacementSetting,
        revision: str,
        adapters: Adapters,
        placements: Sequence[Placement] = ORDER,
    ) -> None:
        self.pipe = pipe
        self.adapters = adapters
        self.source = source
        #: What each of its jobs is drawn with, as in `Result.used`.
        self.used = used
        self.configured = configured
        #: Names it in what is learned of it.
        self.revision = revision
        self.components = placing.components(pipe)
        self._possible = tuple(one for one in placing.possible(pipe) if one in placements)
        self.settled = Settled()
        #: As carried out; None: in host memory.
        self.placement: Placement | None = None
        #: Has been called in the sizes of its setup.
        self.warm = False

    def allowed(self, profile: Profile) -> tuple[Placement, ...]:
        """The placements it may have in a job of this profile; the table's setting takes precedence over the profile."""
        slow = profile == "offload" and self.configured == AUTO
        aside = tuple(one for one in self._possible if not slow or ORDER.index(one) >= ORDER.index("model"))
        # A group's keep the denoiser whole: of these the one that takes most was what ran out.
        return aside or self._possible[1:] or self._possible

    def bring(self, loras: Sequence[LoraUse]) -> None:
        """Load these LoRAs beside the weights. Raises `InvalidInput`, `OutOfMemory`."""
        lacks = self.adapters.lacks(loras)
        if lacks and self.placement not in (None, "resident"):
            # Diffusers would take the hooks off for a load, and put others of its own choice back.
            placing.release(self.pipe)
            self.placement = None
            self.pipe.to("cpu")
        self.adapters.load(loras)
        if lacks:
            self.components = placing.components(self.pipe)

    def at_rest(self) -> int:
        """Bytes that its weights take on the device at most."""
        return peak(self.placement, self.components, Need()) if self.placement is not None else 0


class Pipelines:
    """All pipelines of this process, by model name, the most recently used last."""

    def __init__(
        self,
        device: Device,
        setups: Mapping[str, ModelSetup] | None = None,
        peaks: Peaks | None = None,
        lora_memory: LoraMemory | None = None,
        placements: Sequence[Placement] = ORDER,
    ) -> None:
        self.device = device
        self._placements = placements
        self._setups = setups or {}
        self._peaks = peaks or Peaks()
        self._lora_memory = lora_memory or LoraMemory()
        self._lora_files = LoraFiles(self._lora_memory.host_mb * _MB)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()

    def names(self) -> tuple[str, ...]:
        """Models in memory, the most recently used last."""
        return tuple(self._loaded)

    def get(
        self, card: ModelCard, profile: Profile = "normal", shape: Shape | None = None, loras: Sequence[LoraUse] = ()
    ) -> Any:
        """The pipeline of this model, placed for a job of this shape; without one, for a job of the model's usual size.

        `loras` are beside its weights then, and act inside `loaded(card.name).adapters.active`.

        Raises `LoadError`, `InvalidInput` for a LoRA, or `OutOfMemory` when it does not fit even alone.
        """
        shape = shape or usual_shape(card)
        loaded = self._loaded.get(card.name)
        if loaded is not None and self.resident(card, profile, shape) and not loaded.adapters.lacks(loras):
            # Another thread may be looking for it meanwhile.
            loaded.bring(loras)
            self._place(card, loaded, profile, shape)
            self._loaded.move_to_end(card.name)
            return loaded.pipe
        loaded = self._loaded.pop(card.name, None)
        if loaded is None or loaded.source != card.source:
            loaded = self._load(card)
        try:
            loaded.bring(loras)
            self._place(card, loaded, profile, shape)
        except EngineError as error:
            # Too much for one job, or a LoRA that is none, is no reason to lose a model that others are drawn with.
            if loaded.placement is not None or isinstance(error, InvalidInput):
                self._loaded[card.name] = loaded
            raise
        self._loaded[card.name] = loaded
        return loaded.pipe

    def setup(self, card: ModelCard) -> ModelSetup:
        """Setup of this model: how it is loaded, and its clips encoded."""
        return self._setups.get(card.name, ModelSetup())

    def warm(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Call a model in memory once in each size of its setup, if that was not done. `monitor`: of the job that waits for it."""
        loaded = self._loaded[card.name]
        if loaded.warm:
            return
        sizes = self.setup(card).warm_up
        if sizes and monitor is not None:
            monitor.enter("warm_up", len(sizes))
        for number, size in enumerate(sizes, start=1):
            detail = f"{'x'.join(map(str, size))}, {number} of {len(sizes)}"
            logger.info("warming up a model", extra={"action": Action.WARM_UP, "model": card.name, "detail": detail})
            warm_up(loaded.pipe, card, size, self.device, monitor)
            if number == 1:
                with loaded.adapters.rehearsed() as has_slots:
                    if has_slots:
                        warm_up(loaded.pipe, card, size, self.device, monitor)
            if monitor is not None:
                monitor.step(number, len(sizes))
        loaded.warm = True

    def loaded(self, name: str) -> Loaded:
        """A model in memory."""
        return self._loaded[name]

    def has(self, card: ModelCard) -> bool:
        """Whether the model is in memory."""
        loaded = self._loaded.get(card.name)
        return loaded is not None and loaded.source == card.source

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """Whether `get` would move no weights, and the job would find all where it needs it."""
        loaded = self._loaded.get(card.name)
        if loaded is None or loaded.source != card.source:
            return False
        if self.device.kind == "cpu":
            return True
        if loaded.placement not in _RESIDENT:
            return False
        try:
            best, still_fits = self._plan(loaded, profile, shape)
        except DoesNotFit:
            return False
        return replace(loaded.settled).settle(best, still_fits) == loaded.placement

    def keeps_vae(self, card: ModelCard) -> bool:
        """Whether the VAE of a model in memory stays on the device, beside the next job."""
        return self.device.kind == "cpu" or self._loaded[card.name].placement in _RESIDENT

    def ran_out(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """A job of this shape ran out of memory with nothing beside it. Whether `get` would place the model so that it takes less."""
        loaded = self._loaded.get(card.name)
        if loaded is None or loaded.placement is None:
            return False
        self.keep_only(card.name)
        had = room(loaded.placement, loaded.components, self._limit())
        self._peaks.ran_out(loaded.revision, shape, max(0, had) / _MB + 1)
        try:
            best, still_fits = self._plan(loaded, profile, shape)
        except DoesNotFit:
            return False
        return not still_fits and best != loaded.placement

    def keep_only(self, name: str) -> None:
        """Drop every other model."""
        for other in [known for known in self._loaded if known != name]:
            self._drop(other)
        self.device.release()

    def _load(self, card: ModelCard) -> Loaded:
        self._make_room(card)
        try:
            return self._read(card)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._loaded:
                raise load_error(card, self.setup(card), error) from error
        self.keep_only("")
        try:
            return self._read(card)
        except (RuntimeError, MemoryError) as error:
            raise load_error(card, self.setup(card), error) from error

    def _read(self, card: ModelCard) -> Loaded:
        setup = self.setup(card)
        needed = _needed_bytes(card, setup, self.device.dtype)
        straight = goes_straight(self.device.kind, setup.placement, needed, self.device.free_bytes())
        model = make_ready(card, setup, self.device, straight=straight)
        revision = revision_of(card, setup, self.device.kind, str(self.device.dtype))
        if self.device.kind == "cpu":
            # There is nothing to place.
            keep_execution_device(model.pipe)
        adapters = Adapters(model.pipe, setup.loras, self._lora_files, self._lora_memory.device_mb * _MB)
        loaded = Loaded(model.pipe, card.source, model.used, setup.placement, revision, adapters, self._placements)
        self._peaks.placed(card.name, revision, "cpu")
        return loaded

    def _make_room(self, card: ModelCard) -> None:
        if not self._loaded:
            return
        setup = self.setup(card)
        needed = int(_needed_bytes(card, setup, self.device.dtype) * HEADROOM)
        self.device.release()
        for name in tuple(self._loaded):
            if self.device.free_bytes() >= needed:
                return
            self._drop(name)
            self.device.release()

    def _drop(self, name: str) -> None:
        logger.info("dropping a model", extra={"action": Action.DROP_MODEL, "model": name})
        loaded = self._loaded.pop(name)
        loaded.pipe.remove_all_hooks()
        del loaded

    # ------------------------------------------------------------ placement

    def _plan(self, loaded: Loaded, profile: Profile, shape: Shape) -> tuple[Placement, bool]:
        """(the best placement for a job, whether the present one would do). Raises `DoesNotFit`."""
        need = self._peaks.need(loaded.revision, shape)
        limit = self._limit()
        allowed = loaded.allowed(profile)
        try:
            best = choose(loaded.components, need, limit, loaded.configured, allowed)
        except DoesNotFit:
            certain = self._peaks.need(loaded.revision, shape, certain=True)
            choose(loaded.components, certain, limit, loaded.configured, allowed)
            # An estimate refuses no job: it is tried where it takes least.
            best = next(
                one
                for one in reversed(allowed)
                if loaded.configured in (AUTO, one) and fits(one, loaded.components, certain, limit)
            )
        now = loaded.settled.now
        return best, now is not None and now in allowed and fits(now, loaded.components, need, limit)

    def _limit(self) -> int:
        """Bytes that this process could hold on the device if it held nothing else."""
        return int(self.device.meter.limit_mb() * _MB)

    def _place(self, card: ModelCard, loaded: Loaded, profile: Profile, shape: Shape) -> None:
        if self.device.kind == "cpu":
            return
        try:
            target = loaded.settled.settle(*self._plan(loaded, profile, shape))
        except DoesNotFit as error:
            raise OutOfMemory(
                f"model {card.name!r} does not fit in memory for {shape.key}: {error}; "
                + _cure(
                    card, self.setup(card), loaded, self._peaks.need(loaded.revision, shape), self._limit(), profile
                )
            ) from None
        self._drop_for(loaded, target, self._peaks.need(loaded.revision, shape))
        while loaded.placement != target:
            if self._carried_out(card, loaded, target):
                break
            # The estimate was wrong: what a placement really takes shows here at the latest, before the job begins.
            slower = [one for one in loaded.allowed(profile) if ORDER.index(one) > ORDER.index(target)]
            if not slower or loaded.configured != AUTO:
                raise OutOfMemory(
                    f"model {card.name!r} does not fit in memory with placement {target}: its weights took more than was reckoned; "
                    + _cure(
                        card, self.setup(card), loaded, self._peaks.need(loaded.revision, shape), self._limit(), profile
                    )
                )
            target = loaded.settled.now = slower[0]
        loaded.used["placement"] = target

    def _drop_for(self, loaded: Loaded, target: Placement, need: Need) -> None:
        """Drop other models, the least recently used first, until this one has room beside those that are left."""
        for name in tuple(self._loaded):
            others = sum(other.at_rest() for other in self._loaded.values() if other is not loaded)
            if fits(target, loaded.components, need, self._limit() - others):
                return
            if self._loaded[name] is loaded:
                continue
            self._drop(name)
            self.device.release()

    def _carried_out(self, card: ModelCard, loaded: Loaded, target: Placement) -> bool:
        """Place it, if need be instead of all other models; False when not even that leaves enough room."""
        logger.info("placing a model", extra={"action": Action.PLACE_MODEL, "model": card.name, "placement": target})
        while True:
            try:
                placing.place(loaded.pipe, target, self.device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                loaded.placement = target
                self._peaks.placed(card.name, loaded.revision, target)
                return True
            loaded.placement = None
            placing.release(loaded.pipe)
            loaded.pipe.to("cpu")
            alone = not self._loaded
            self.keep_only("")
            if alone:
                return False


def usual_shape(card: ModelCard) -> Shape:
    """The shape of a job that requests nothing."""
    usual = card.defaults
    return shape_with(card.name, usual.width, usual.height, usual.num_frames)


def _needed_bytes(card: ModelCard, setup: ModelSetup, dtype: torch.dtype) -> int:
    """Return the bytes that the weights will take in memory; 0 when not known."""
    directory = find(card.source)
    return (
        loaded_bytes(directory, dtype_of(card, dtype).itemsize, setup.parts, setup.variant)
        if directory is not None
        else 0
    )


def _cure(card: ModelCard, setup: ModelSetup, loaded: Loaded, need: Need, limit: int, profile: Profile) -> str:
    """Changes by which a job that takes so much would fit."""
    full = [
        part.name
        for part in loaded.components
        if COMPONENTS.fullmatch(part.name)
        and part.name not in setup.speed.quantize
        and getattr(getattr(loaded.pipe, part.name), "hf_quantizer", None) is None
    ]
    found = cures(loaded.components, need, limit, loaded.configured, loaded.allowed(profile), full)
    if not found:
        return "no placement makes it fit: take smaller weights (parts) or a device with more memory"
    return f"what would do, in [models.{card.name}]: {'; or '.join(found)}"
