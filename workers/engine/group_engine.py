"""An engine whose jobs are drawn by all ranks of a group: rank 0 gives them out, and the others draw along up to the last latents.

What rank 0 gives are bytes (msgpack): the job, and where it goes on from. Nothing is given while another job is drawn. Of a job's files the
other ranks write none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec import Struct

from broker.runtime.log_actions import Action
from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, ModelCard, Profile, decode_spec, encode_spec
from workers.engine.base import Engine, Outcome
from workers.engine.checkpoints import Binding, Checkpoints, State, sealed, unsealed
from workers.engine.errors import InvalidInput, LoadError
from workers.engine.failures import classify, forget_frames
from workers.engine.group import MAX_ORDER, Group, GroupLost
from workers.engine.group_inputs import contents, placed
from workers.engine.guidance import is_guided
from workers.engine.instrumentation import call_parameters
from workers.engine.load_errors import where_of
from workers.engine.memory import MemoryMeter
from workers.engine.peaks import Shape
from workers.engine.pipeline_variants import fitting
from workers.engine.progress import Cancelled, DraftKept, Monitor, Parked
from workers.engine.resuming import UnknownState
from workers.engine.splitting import Answers, split
from workers.engine.votes import Votes, lost
from workers.ipc.messages import JobFailed
from workers.ipc.shared import Slot
from workers.models.model import ModelSetup
from workers.models.parallel import WHOLE, Indivisible, Parallel, layout_for
from workers.models.placement import AUTO

if TYPE_CHECKING:
    from workers.engine.image import ImageEngine
    from workers.engine.video import VideoEngine

logger = logging.getLogger(__name__)


class Order(Struct, frozen=True, kw_only=True):
    """A job as rank 0 gives it to the others."""

    fence: int
    #: The job spec's bytes.
    body: bytes
    profile: Profile
    #: The job's inputs by path, where some of the others are on other machines.
    files: dict[str, bytes] = {}


class GroupRanks:
    """Group of a process, for its engines (`rank.Ranks`): jobs are drawn between `job` and its end, one at a time."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._votes: Votes | None = None
        self._answers: dict[str, Answers] = {}
        self._layout = ""

    @contextmanager
    def job(self, monitor: Monitor) -> Iterator[None]:
        """Inside, all ranks draw a job, or load a model; they leave it together. Raises `GroupLost` when they cannot."""
        votes = self._votes = Votes(self.group, monitor)
        try:
            yield
            if votes.inside:
                raise GroupLost(
                    f"{self.group.rank}: a pass was not ended; the pipeline has not called its denoiser twice a step"
                )
            votes.end()
        except GroupLost:
            raise
        except BaseException as error:
            if votes.inside:
                raise lost(self.group, error) from error
            if not classify(error, monitor.phase).fatal:
                votes.leave(error)
            raise
        finally:
            self._votes = None

    @property
    def votes(self) -> Votes:
        """Votes of the job that is drawn."""
        assert self._votes is not None
        return self._votes

    def check(self, card: ModelCard, setup: ModelSetup) -> None:
        """As `Ranks.check`."""
        where, scale = where_of(card, setup), card.defaults.guidance_scale
        guided = card.takes_guidance and (scale is None or scale > 1)
        try:
            layout_for(setup.parallel, self.group.rank.of, guided=guided)
        except Indivisible as error:
            raise LoadError(f"{where} parallel: {error}; give it to workers of one GPU each") from None
        if setup.placement not in (AUTO, *WHOLE):
            text = f"{setup.placement!r} is not for workers of several GPUs, which take {AUTO}, {', '.join(WHOLE)}"
            raise LoadError(f"{where} placement: {text}")

    @contextmanager
    def split(self, pipe: Any, card: ModelCard, spec: JobSpec, parallel: Parallel, monitor: Monitor) -> Iterator[None]:
        """As `Ranks.split`."""
        try:
            layout = layout_for(parallel, self.group.rank.of, guided=is_guided(pipe, spec))
        except Indivisible as error:
            raise InvalidInput(f"guidance_scale: {error}") from None
        frames = 1 + (spec.num_frames - 1) // card.token_frames
        tokens = (spec.width // card.token_side) * (spec.height // card.token_side) * frames
        if tokens < layout.sequence:
            raise InvalidInput(f"width: a picture of {tokens} tokens cannot be shared by {layout.sequence} GPUs")
        self._layout = str(layout)
        monitor.use("parallel", self._layout)
        answers = self._answers.setdefault(card.source, Answers())
        with split(pipe, layout, self.group, self.votes, answers):
            yield

    def checkpoints(self, output: int, own: Checkpoints | None, binding: Binding) -> Checkpoints | None:
        """As `Ranks.checkpoints`."""
        # Layouts may differ in the last bits.
        binding["ranks"] = self._layout
        found = own.find(output, binding)[0] if own is not None else None
        shared = self.votes.share(sealed(found, {}) if found is not None else b"")
        if not self.group.rank.follows:
            return own
        return _Given(unsealed(bytearray(shared), {})) if shared else None

    def put_back(self) -> None:
        """As `Ranks.put_back`."""
        self.votes.put_back()

    def leave_call(self, error: UnknownState | DraftKept) -> UnknownState | DraftKept:
        """As `Ranks.leave_call`."""
        return self.votes.leave_call(error)


class _Given(Checkpoints):
    """A state from rank 0. Nothing is written: rank 0 does that."""

    def __init__(self, state: State) -> None:
        super().__init__(Path("/nonexistent"), math.inf)
        self._state = state

    def find(self, output: int, binding: Binding) -> tuple[State | None, str]:
        """Return that state."""
        return self._state, ""

    def keep_finished(self, state: State, binding: Binding) -> None:
        """Do nothing: rank 0 writes."""


class GroupEngine:
    """An engine of rank 0 (`base.Engine`): its jobs are drawn by all ranks. Of another rank it is loaded alone."""

    def __init__(self, inner: VideoEngine | ImageEngine, ranks: GroupRanks) -> None:
        self.inner = inner
        self._ranks = ranks

    def load(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Bring the model into the memory of all ranks, each of which calls this."""
        assert monitor is not None
        with self._ranks.job(monitor):
            self.inner.load(card, monitor)

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        """Give the job to the other ranks, and draw it with them."""
        body = encode_spec(spec)
        if len(body) > MAX_ORDER:
            raise InvalidInput(f"the job has {len(body)} bytes, and the processes of a group take {MAX_ORDER} at most")
        files = contents(spec) if self._ranks.group.rank.spread else {}
        order = Order(fence=monitor.fence, body=body, profile=profile, files=files)
        self._ranks.group.broadcast(msgspec.msgpack.encode(order))
        with self._ranks.job(monitor):
            return self.inner.generate(card, spec, out_dir, monitor, profile)

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """As the engine's own, of this rank."""
        return self.inner.resident(card, profile, shape)

    def prepares(self, card: ModelCard, spec: JobSpec, beside: JobSpec) -> bool:
        """Return no: the other ranks do one thing at a time."""
        return False

    def ran_out(self, card: ModelCard, spec: JobSpec, profile: Profile) -> bool:
        """Return no: all ranks would have to place the model anew."""
        return False

    def loaded(self) -> str:
        """As the engine's own."""
        return self.inner.loaded()

    def loaded_loras(self) -> tuple[str, ...]:
        """As the engine's own."""
        return self.inner.loaded_loras()

    def free_cache(self) -> None:
        """As the engine's own, in this rank."""
        self.inner.free_cache()


def follow(
    ranks: GroupRanks,
    engine_of: Callable[[ModelCard], Engine],
    cards: Mapping[str, ModelCard],
    slot: Slot,
    meter: Callable[[], MemoryMeter],
    report: Callable[[JobFailed], None],
) -> NoReturn:
    """Draw along what rank 0 gives, one job after another. Raises `GroupLost`, or the error by which this process is not to be used any
    more.

    `report` is called before that if memory ran out here: rank 0 will only notice that this rank is gone.
    """
    while True:
        order = msgspec.msgpack.decode(ranks.group.broadcast(), type=Order)
        spec = decode_spec(order.body)
        slot.begin(order.fence)
        monitor = Monitor(slot, order.fence, spec.num_outputs, meter())
        try:
            with placed(spec, order.files) as spec, ranks.job(monitor):
                _draw_along(engine_of(cards[spec.model]), cards[spec.model], spec, monitor, order.profile)
        except (Cancelled, Parked):
            pass
        except Exception as error:
            verdict = classify(error, monitor.phase)
            if verdict.fatal:
                if verdict.kind is FailureKind.OUT_OF_MEMORY:
                    report(JobFailed(fence=order.fence, kind=verdict.kind, message=verdict.message, fatal=True))
                raise
            logger.error("job failed: %s", verdict.message, extra={"action": Action.JOB_FAILED, "fence": order.fence})
            forget_frames(error)
        monitor.memory.report()


def _draw_along(engine: Engine, card: ModelCard, spec: JobSpec, monitor: Monitor, profile: Profile) -> None:
    assert isinstance(engine, GroupEngine)
    inner = engine.inner
    pipe = inner.prepare(card, spec, monitor, profile)
    if card.engine == "video":
        pipe = fitting(pipe, spec)
    as_latents = {"output_type": "latent"} if "output_type" in call_parameters(pipe) else {}
    with inner.adjusted(pipe, card, spec, monitor):
        for index in range(spec.num_outputs):
            monitor.output(index, "denoise")
            with suppress(DraftKept):
                inner.call(pipe, card, spec, index, monitor, **as_latents)
