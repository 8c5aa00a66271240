"""A broker in memory with the surface of `broker.client.client.BrokerClient`, and the levers a test pulls."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from broker.client import errors
from broker.client.client import JobSearch
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Defaults, Limits, ModelCard, Result, decode_spec, prompt_of
from http_edge.jobs.hub import Hub
from tests.testing.fake_deliveries import FakeDeliveries

#: The epoch in the upper half of revisions and fences, as the real broker counts them.
EPOCH = 3 << 32

#: 2026-03-04 05:06:07.25 UTC; times in tests start here.
T0 = 1_772_600_767.25

VIDEO = ModelCard(
    name="demo",
    engine="fake",
    output="video",
    defaults=Defaults(width=64, height=64, num_frames=17, fps=8.0, num_inference_steps=8, negative_prompt="blurry"),
    limits=Limits(min_side=32, max_side=256, side_multiple=16, max_pixels=128 * 128, max_frames=81, max_steps=50),
)
ANIMATE = msgspec.structs.replace(VIDEO, name="animate", takes_image=True, needs_image=True)
PICTURE = ModelCard(
    name="org/picture",
    engine="fake",
    output="image",
    defaults=Defaults(width=64, height=64, num_frames=1, num_inference_steps=4),
    limits=Limits(max_side=512),
)

#: Where no job has an image.
NO_IMAGES: Any = None

FINAL = ("succeeded", "failed", "cancelled")


def worker(name: str, *models: ModelCard, state: m.WorkerStateName = "idle") -> m.WorkerView:
    return m.WorkerView(
        name=name, state=state, device="cpu", models=models, model=models[0].name if models else "", free=1
    )


class FakeBroker:
    """Jobs in a dict. `refuse_with` makes the next calls fail, `down` makes all of them fail."""

    def __init__(self, artefacts: Path, *workers: m.WorkerView) -> None:
        self.artefacts = artefacts
        self.workers = {view.name: view for view in workers}
        self.jobs: dict[str, m.JobView] = {}
        #: How many jobs one answer to a search looks at.
        self.looked_at = 1000
        #: Deleted jobs, and when they had been submitted.
        self.forgotten: dict[str, float] = {}
        self.submits: dict[str, m.Submit] = {}
        self.deliveries = FakeDeliveries()
        self.worker_requests = self.delivery_requests = self
        self.refuse_with: errors.BrokerError | None = None
        self.down = False
        #: A cancelled running job stops by itself on the next turn of the loop.
        self.obeys_cancel = True
        self.calls: list[str] = []
        self.now = T0
        #: Its own clock, and what it says of it.
        self.clock: Callable[[], float] = time.time
        self.settling_s = 0.0
        self.clock_steps: tuple[m.ClockStep, ...] = ()
        self.damaged = self.rebuilt_indexes = 0
        self.refusing = ""
        self.backlog_by_class: tuple[m.ClassBacklog, ...] = ()
        self.on_demand: tuple[m.OnDemandModel, ...] = ()
        self.usage_rows: list[m.UsageRow] = []
        self.load_samples: list[m.LoadSample] = []
        self.usage_request: m.GetUsage | None = None
        self.started = self.watched = self.closed = False
        #: Jobs whose steps are wanted.
        self.followed: set[str] = set()
        self.on_event: Callable[[m.JobView], None] = lambda view: None
        self.on_gap: Callable[[], None] = lambda: None
        self.on_gone: Callable[[tuple[str, ...]], None] = lambda ids: None
        self._revision = EPOCH
        self._fence = EPOCH

    def attach(self, hub: Hub) -> Any:
        """Send what happens to this hub; the broker's client for `build_edge`."""
        self.on_event, self.on_gap, self.on_gone = hub.on_event, hub.on_gap, hub.on_gone
        return self

    # ------------------------------------------------------------ BrokerClient

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True

    async def watch(self, *, steps: bool = True) -> None:
        self._answer("watch")
        self.watched = True

    def follow(self, job_id: str) -> None:
        self.followed.add(job_id)
        if job_id in self.jobs:
            asyncio.get_running_loop().call_soon(lambda: self._tell(self.jobs[job_id]))

    def unfollow(self, job_id: str) -> None:
        self.followed.remove(job_id)

    async def submit(self, submit: m.Submit) -> tuple[m.JobView, bool]:
        self._answer("submit")
        if self.refuse_with is not None:
            raise self.refuse_with
        there, wanted = self.jobs.get(submit.job_id), submit.submission
        if there is not None:
            if (there.body, there.submission.tenant) != (submit.body, wanted.tenant):
                raise errors.IdConflict("id_conflict", "another job bears this id")
            return there, True
        if submit.only_if_idle and not self._idle(wanted.pinned):
            raise errors.ServiceBusy("busy", "no worker is free", 1.0)
        if submit.alias_unique and self._newest(wanted.origin, wanted.alias, wanted.tenant):
            raise errors.AliasTaken("alias_taken", "the name is taken")
        waiting = sum(job.state == "queued" and job.submission.tenant == wanted.tenant for job in self.jobs.values())
        if submit.max_queued and waiting >= submit.max_queued:
            raise errors.QueueFull("queue_full", f"{waiting} jobs of tenant {wanted.tenant} are waiting", 7.0)
        view = m.JobView(
            id=submit.job_id,
            state="queued",
            submission=submit.submission,
            revision=self._next_revision(),
            position=sum(job.state == "queued" for job in self.jobs.values()),
            submitted_at=self._tick(),
            deadline_at=self.now + submit.deadline_s if submit.deadline_s else 0.0,
            history=(m.HistoryEntry(self.now, "", "queued", "submitted"),),
            body=submit.body,
            promise=m.Promise(ready_by=self.now + submit.promise.within_s, confidence=submit.promise.confidence)
            if submit.promise
            else None,
        )
        decode_spec(submit.body)
        self.submits[submit.job_id] = submit
        self.jobs[view.id] = view
        self._tell(view)
        return msgspec.structs.replace(view, body=b"", history=()), False

    async def cancel(self, job_id: str, tenant: str = "") -> tuple[m.CancelOutcome, m.JobView | None]:
        self._answer("cancel")
        view = self.jobs.get(job_id)
        if view is None or tenant not in ("", view.submission.tenant):
            return "not_found", None
        if view.state in FINAL:
            return "already_final", view
        if view.state == "queued":
            return "cancelled", self.stop(job_id)
        view = self._change(job_id, cancel_requested=True)
        if self.obeys_cancel:
            asyncio.get_running_loop().call_soon(self.stop, job_id)
        return "requested", view

    async def control(
        self, job_id: str, action: m.JobAction, tenant: str = ""
    ) -> tuple[m.ControlOutcome, str, m.JobView | None]:
        self._answer("control")
        view = self.jobs.get(job_id)
        if view is None or tenant not in ("", view.submission.tenant):
            return "not_found", "", None
        if view.state in FINAL:
            return "refused", f"it is over: {view.state}", view
        if action == "pause":
            if view.state == "running":
                return "requested", "", self._change(job_id, parking=m.Parking(requested=True))
            view = self._change(
                job_id, move="paused", state="parked", parking=m.Parking(reason="paused", at=self._tick())
            )
        else:
            view = self._change(job_id, move=f"{action}ed", state="queued", parking=None)
        return "done", "", view

    async def get(self, job_id: str, tenant: str = "") -> m.JobView | None:
        self._answer("get")
        view = self.jobs.get(job_id)
        if view is None or tenant not in ("", view.submission.tenant):
            return None
        return self._with_hooks(view)

    async def get_alias(self, origin: str, alias: str, tenant: str = "") -> m.JobView | None:
        self._answer("get_alias")
        return self._newest(origin, alias, tenant)

    async def list(self, **query: Any) -> tuple[list[m.JobView], bool]:
        found = await self.search(None, **query)
        return found.jobs, found.more

    async def search(
        self,
        answers: int | None,
        *,
        behind: int = 0,
        limit: int = 50,
        after: str = "",
        newest_first: bool = True,
        states: tuple[str, ...] = (),
        origin: str = "",
        model: str = "",
        worker: str = "",
        tenant: str = "",
        after_at: float = 0.0,
        text: str = "",
        since: float = 0.0,
        until: float = 0.0,
    ) -> JobSearch:
        """A place in the journal is the number of jobs before it; one answer looks at `looked_at` jobs."""
        self._answer("list")
        ordered = sorted(self.jobs.values(), key=lambda job: (job.submitted_at, job.id), reverse=newest_first)
        if behind:
            ordered = ordered[behind:]
        elif after:
            ids = [job.id for job in ordered]
            if after in ids:
                ordered = ordered[ids.index(after) + 1 :]
            else:
                # The edge's guess would be this time, were its clock ours.
                at = self.forgotten.get(after, 0.0) if after_at else 0.0
                ordered = [job for job in ordered if at and (job.submitted_at < at) == newest_first]
        looked_at = len(ordered) if answers is None else answers * self.looked_at
        place = len(self.jobs) - len(ordered) + looked_at
        rest, ordered = ordered[looked_at:], ordered[:looked_at]
        found = [
            job
            for job in ordered
            if (not states or job.state in states)
            and origin in ("", job.submission.origin)
            and model in ("", job.submission.model)
            and worker in ("", job.worker)
            and tenant in ("", job.submission.tenant)
            and (not text or text.casefold() in prompt_of(job.body).casefold())
            and job.submitted_at >= since
            and not 0 < until <= job.submitted_at
        ]
        page = [self._with_hooks(job) for job in found[:limit]]
        if rest and len(found) <= limit:
            return JobSearch(page, True, place, ordered[-1].submitted_at)
        return JobSearch(page, len(found) > limit)

    async def forget(self, job_ids: Sequence[str], *, finished_s: float = 0.0) -> tuple[str, ...]:
        self._answer("forget")
        gone = tuple(
            job_id
            for job_id in job_ids
            if (job := self.jobs.get(job_id)) is not None
            and job.state in FINAL
            and not 0 < finished_s > self.clock() - job.finished_at
        )
        for job_id in gone:
            self.forgotten[job_id] = self.jobs.pop(job_id).submitted_at
            self.deliveries.forget(job_id)
        self.on_gone(gone)
        return gone

    async def claim(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        if self.down:
            raise errors.BrokerUnavailable()
        return self.deliveries.claim(limit)

    async def report(self, done: m.DeliveryDone) -> None:
        if self.down:
            raise errors.BrokerUnavailable()
        self.deliveries.done(done)

    async def load_history(self) -> list[m.LoadSample]:
        self._answer("load_history")
        return self.load_samples

    async def usage(self, **fields: Any) -> tuple[list[m.UsageRow], bool]:
        self._answer("usage")
        self.usage_request = m.GetUsage(req=0, **fields)
        return self.usage_rows, False

    async def estimate(self, estimate: m.Estimate) -> m.Forecast:
        self._answer("estimate")
        self.estimated, confidence = estimate.submission, estimate.confidence
        return m.Forecast(
            position=2, starts_s=20.0, done_s=30.0, ready_s=36.5, confidence=confidence, takes_s=10.0, workers=1
        )

    async def pool(self) -> m.PoolView:
        self._answer("pool")
        counts = {state: sum(job.state == state for job in self.jobs.values()) for state in get_args(m.JobStateName)}
        workers = tuple(self.workers.values())
        return m.PoolView(
            epoch=3,
            workers=workers,
            counts=counts,
            backlog_s=1.5,
            waiting=dict(Counter(job.submission.model for job in self.jobs.values() if job.state == "queued")),
            backlog_by_class=self.backlog_by_class,
            on_demand=self.on_demand,
            queue_limit=100,
            prediction_errors={"demo": 0.25},
            damaged=self.damaged,
            rebuilt_indexes=self.rebuilt_indexes,
            refusing=self.refusing,
            now=self.clock(),
            settling_s=self.settling_s,
            clock_steps=self.clock_steps,
        )

    async def drain(self, name: str, *, hand_back: bool = False) -> m.WorkerView | None:
        self._answer("drain_worker, hand back" if hand_back else "drain_worker")
        if name not in self.workers:
            return None
        self.workers[name] = msgspec.structs.replace(self.workers[name], state="draining", free=0)
        return self.workers[name]

    async def undrain(self, name: str) -> m.WorkerView | None:
        self._answer("undrain_worker")
        if name not in self.workers:
            return None
        self.workers[name] = msgspec.structs.replace(self.workers[name], state="idle", free=1)
        return self.workers[name]

    # ------------------------------------------------------------ levers

    def run(self, job_id: str, worker: str = "cpu-0") -> m.JobView:
        """A worker starts it."""
        self._occupy(worker, "busy")
        attempts = self.jobs[job_id].attempts + 1
        self._fence += 1
        return self._change(
            job_id,
            move="started",
            state="running",
            worker=worker,
            attempts=attempts,
            position=-1,
            fence=self._fence,
            started_at=self._tick(),
            phase="load",
        )

    def step(self, job_id: str, step: int, total: int = 8, phase: str = "denoise") -> m.JobView:
        return self._change(job_id, is_step=True, phase=phase, step=step, total=total)

    def park(self, job_id: str, parking: m.Parking, kept: int) -> m.JobView:
        """Its worker handed it back, with so many steps in a checkpoint."""
        return self._change(
            job_id, move="drafted", state="parked", phase="", step=0, total=0, parking=parking, kept=kept
        )

    def lose(self, job_id: str) -> m.JobView:
        """Its worker died; it waits again."""
        return self._change(job_id, move="lost", state="queued", phase="", step=0, total=0, position=0)

    def succeed(
        self, job_id: str, *, warnings: tuple[str, ...] = (), used: dict[str, str] | None = None, **files: bytes
    ) -> m.JobView:
        """It made these files (`video_mp4=b"..."`), and the engine said this of them, and that it used this."""
        view = self.jobs[job_id]
        files = files or {"video_mp4": b"\0\0\0\x20ftypisom" + bytes(range(256)) * 8}
        directory = self.artefacts / job_id / str(view.fence)
        directory.mkdir(parents=True, exist_ok=True)
        artefacts = []
        for key, data in files.items():
            name = key.replace("_", ".")
            (directory / name).write_bytes(data)
            media_type = "image/png" if name.endswith("png") else "video/mp4"
            digest = hashlib.sha256(data).hexdigest()
            artefacts.append(Artefact(name=name, media_type=media_type, size=len(data), sha256=digest))
        self._occupy(view.worker, "idle")
        result = Result(
            artefacts=tuple(artefacts), stage_durations={"denoise": 1.25}, seed=1, warnings=warnings, used=used or {}
        )
        return self._end(job_id, "succeeded", result=result, run_s=2.5)

    def fail(self, job_id: str, message: str, kind: str = "engine_error") -> m.JobView:
        self._occupy(self.jobs[job_id].worker, "idle")
        return self._end(job_id, "failed", failure=m.Failure(m.FailureKind(kind), message))

    def stop(self, job_id: str) -> m.JobView:
        self._occupy(self.jobs[job_id].worker, "idle")
        return self._end(job_id, "cancelled")

    def gap(self) -> None:
        """Events were lost."""
        self.on_gap()

    # ------------------------------------------------------------ parts

    def _with_hooks(self, view: m.JobView) -> m.JobView:
        return (
            msgspec.structs.replace(view, deliveries=self.deliveries.of_job(view.id))
            if view.submission.webhook
            else view
        )

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.down:
            raise errors.BrokerUnavailable("the broker did not answer within 10 s")

    def _idle(self, name: str) -> bool:
        waiting = any(job.state == "queued" for job in self.jobs.values())
        return not waiting and any(view.state == "idle" and name in ("", view.name) for view in self.workers.values())

    def _occupy(self, name: str, state: m.WorkerStateName) -> None:
        if name in self.workers:
            self.workers[name] = msgspec.structs.replace(self.workers[name], state=state)

    def _newest(self, origin: str, alias: str, tenant: str) -> m.JobView | None:
        found = [
            job
            for job in self.jobs.values()
            if (job.submission.origin, job.submission.alias) == (origin, alias)
            and tenant in ("", job.submission.tenant)
        ]
        return found[-1] if found else None

    def _end(self, job_id: str, state: m.JobStateName, **changes: object) -> m.JobView:
        return self._change(job_id, move=state, state=state, position=-1, finished_at=self._tick(), **changes)

    def _change(self, job_id: str, *, move: str = "", is_step: bool = False, **changes: object) -> m.JobView:
        old = self.jobs[job_id]
        history = old.history
        if move:
            history = (*history, m.HistoryEntry(self.now, old.state, str(changes["state"]), move))
        view = msgspec.structs.replace(old, revision=self._next_revision(), history=history, **changes)
        self.jobs[job_id] = view
        if view.submission.webhook:
            self.deliveries.moved(old, view, self.now)
        if not is_step or job_id in self.followed:
            self._tell(view)
        return view

    def _tell(self, view: m.JobView) -> None:
        self.on_event(msgspec.structs.replace(view, body=b"", history=()))

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _tick(self) -> float:
        self.now += 1.5
        return self.now
