"""Engine name -> engine. The one place that imports inside functions: a process loads torch only when a job needs it."""

from __future__ import annotations

from collections.abc import Iterable
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
from workers.ipc.messages import Setup
from workers.models.versions import installed

if TYPE_CHECKING:
    from workers.engine.pipelines import Pipelines

ENGINES = ("video", "image", "fake")


def import_engines(wanted: Iterable[str]) -> None:
    """Import what engines of these kinds need, each "engine:pipeline class" as in a card. Of a kind or class that there is not, nothing."""
    for engine, _, pipeline in (one.partition(":") for one in wanted):
        if engine not in ("video", "image"):
            continue
        import_module(f"workers.engine.{engine}")
        # Classes of diffusers are imported when they are first asked for, and bring the text encoders' along.
        getattr(import_module("diffusers"), pipeline, None)


class Registry:
    """The engines of one process, each made when first asked for; those that use torch share one set of pipelines."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
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

                return VideoEngine(self._shared_pipelines())
            case "image":
                from workers.engine.image import ImageEngine

                return ImageEngine(self._shared_pipelines())
        raise LoadError(f"model {card.name!r}: engine {card.engine!r} is not one of {', '.join(ENGINES)}")

    def _shared_pipelines(self) -> Pipelines:
        if self._pipelines is None:
            from workers.engine.device import Device
            from workers.engine.pipelines import Pipelines

            device = Device(self._setup.device, self._setup.dtype, self._setup.threads)
            self._meter = device.meter
            self._pipelines = Pipelines(device, self._setup.setups, self.peaks, self._setup.lora_memory)
        return self._pipelines
