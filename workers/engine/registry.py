"""Engine name -> engine. The one place that imports inside functions: a process loads torch only when a job needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from broker.runtime.content_credentials import Signer
from broker.runtime.settings import SettingsError
from broker.wire.jobspec import ModelCard
from workers.engine.base import Engine
from workers.engine.errors import LoadError
from workers.engine.memory import MemoryMeter, ProcessMemory
from workers.engine.peaks import Peaks
from workers.engine.rank import Rank
from workers.ipc.messages import JobFailed, Setup
from workers.ipc.shared import Slot
from workers.models.parallel import WHOLE
from workers.models.placement import ORDER
from workers.models.versions import installed

if TYPE_CHECKING:
    from workers.engine.group_engine import GroupRanks
    from workers.engine.image import ImageEngine
    from workers.engine.pipelines import Pipelines
    from workers.engine.video import VideoEngine

ENGINES = ("video", "image", "fake")


def import_engines(names: Iterable[str]) -> None:
    """Import what engines of these kinds need, each "engine:pipeline class" as in a card. Of a kind or class that there is not, nothing."""
    for engine, _, pipeline in (one.partition(":") for one in names):
        if engine not in ("video", "image"):
            continue
        import_module(f"workers.engine.{engine}")
        # Classes of diffusers are imported when they are first requested, and bring the text encoders' along.
        getattr(import_module("diffusers"), pipeline, None)


class Registry:
    """The engines of one process, each made when first requested; those that use torch share one set of pipelines."""

    def __init__(self, setup: Setup, rank: Rank | None = None) -> None:
        self._setup = setup
        self._rank = rank
        self._ranks: GroupRanks | None = None
        self._engines: dict[str, Engine] = {}
        self._pipelines: Pipelines | None = None
        self._meter: MemoryMeter = ProcessMemory()
        #: What jobs of its models were seen to take.
        self.peaks = Peaks(Path(setup.peaks) if setup.peaks else None)
        #: Signs the files of jobs; None: they are not signed.
        self.signer: Signer | None = None

    def load_signer(self) -> None:
        """Read what the files of jobs are to be signed with. Raises `LoadError`."""
        if self._setup.credentials is None:
            return
        try:
            self.signer = Signer(self._setup.credentials, installed().get("zoetrope", ""))
        except (SettingsError, ImportError) as error:
            raise LoadError(str(error)) from None

    @property
    def meter(self) -> MemoryMeter:
        """Reads the memory of the device, once torch is in use; the process's before."""
        return self._meter

    def engine(self, card: ModelCard) -> Engine:
        """The engine that runs this model. Raises `LoadError` for a name that is none."""
        if card.engine not in self._engines:
            self._engines[card.engine] = self._make(card)
        return self._engines[card.engine]

    def _make(self, card: ModelCard) -> Engine:
        match card.engine:
            case "fake":
                from workers.engine.fake import FakeEngine

                return FakeEngine()
            case "video":
                from workers.engine.video import VideoEngine

                return self._shared(VideoEngine(self._shared_pipelines(), self._ranks))
            case "image":
                from workers.engine.image import ImageEngine

                return self._shared(ImageEngine(self._shared_pipelines(), self._ranks))
        raise LoadError(f"model {card.name!r}: engine {card.engine!r} is not one of {', '.join(ENGINES)}")

    def meet(self) -> None:
        """Wait for the other ranks, if there are any and a model that they draw together. Raises `GroupLost`."""
        if self._rank is not None and any(card.engine != "fake" for card in self._setup.models):
            from workers.engine.group import Group
            from workers.engine.group_engine import GroupRanks

            self._ranks = GroupRanks(Group(self._rank, self._setup.device))

    def follow(self, slot: Slot, report: Callable[[JobFailed], None]) -> None:
        """Draw along what rank 0 gives; returns at once where there is nothing to follow. Raises `GroupLost`."""
        if self._ranks is not None:
            from workers.engine.group_engine import follow

            cards = {card.name: card for card in self._setup.models}
            follow(self._ranks, self.engine, cards, slot, lambda: self._meter, report)

    def _shared(self, engine: VideoEngine | ImageEngine) -> Engine:
        """The engine itself, or that of a group."""
        if self._ranks is None:
            return engine
        from workers.engine.group_engine import GroupEngine

        return GroupEngine(engine, self._ranks)

    def _shared_pipelines(self) -> Pipelines:
        if self._pipelines is None:
            from workers.engine.device import Device
            from workers.engine.pipelines import Pipelines

            device = Device(self._setup.device, self._setup.dtype, self._setup.threads)
            self._meter = device.meter
            placements = WHOLE if self._ranks is not None else ORDER
            self._pipelines = Pipelines(device, self._setup.setups, self.peaks, self._setup.lora_memory, placements)
        return self._pipelines
