"""A model of a worker: the card for clients, and the setup by which its engine makes it ready."""

from __future__ import annotations

from msgspec import Struct, field
from msgspec.structs import replace

from broker.wire.jobspec import ModelCard
from workers.models.loras import Loras
from workers.models.parallel import Parallel
from workers.models.parts import Parts
from workers.models.placement import AUTO, PlacementSetting
from workers.models.speed import Size, Speed
from workers.models.video_file import VideoFile


class ModelSetup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Setup of a model in an engine, checked; files are absolute. Not shown to clients: it has paths."""

    #: How an error calls the model: by its table, where it has one.
    where: str = ""
    parts: Parts = field(default_factory=dict)
    #: Which of the weights in the directory are taken; "": those without, else the one that there is.
    variant: str = ""
    #: Directory of the configs of a model that is one file.
    config: str = ""
    trust_remote_code: bool = False
    loras: Loras = field(default_factory=dict)
    speed: Speed = Speed()
    #: Sizes in which it is called once when it is loaded.
    warm_up: tuple[Size, ...] = ()
    #: Directory of compiled code that outlives the process.
    compiled: str = ""
    placement: PlacementSetting = AUTO
    video_file: VideoFile = VideoFile()
    #: How several GPUs share a job of it.
    parallel: Parallel = Parallel()

    def without_files(self) -> ModelSetup:
        """Copy of it without what is another on another machine, or no part of what is drawn."""
        return replace(self, where="", parts={}, config="", loras={}, compiled="", warm_up=(), parallel=Parallel())


class Model(Struct, frozen=True, kw_only=True):
    """Model of a worker."""

    card: ModelCard
    setup: ModelSetup = ModelSetup()
