"""Edges and the people behind them: requests that are repeated until they are answered, by the rules of `broker.client.client`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from broker.client.client import accepted_view
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.edge_messages import MAX_FOLLOW
from broker.wire.terms import FINAL_NAMES
from tests.simulation.network import Cable, Connection
from tests.simulation.plan import Errand
from tests.simulation.receiver import Courier
from tests.simulation.timeline import Alarm

if TYPE_CHECKING:
    from tests.simulation.world import World

RESEND_S = 1.0
TIMEOUT_S = 10.0
CONFIRM_S = 5.0

Answer = Callable[[Any], None]


class _Request:
    def __init__(self, message: m.Message, answer: Answer, now: float) -> None:
        self.message = message
        self.answer = answer
        self.sent_at = now
        self.deadline = now + TIMEOUT_S


class Edge:
    """One process with one connection, which watches all jobs, and some of them step by step."""

    def __init__(self, world: World, name: str, random: Random) -> None:
        self.world = world
        self.name = name
        self.random = random
        self.timeline = world.timeline
        self.cable = Cable(world.network, b"f", self, world.broker)
        self.deaf_until = 0.0
        self._req = 0
        self._requests: dict[int, _Request] = {}
        #: Number of the last event, and the last view of each job; views before a gap are not to be trusted.
        self._seq: int | None = None
        self.views: dict[str, m.JobView] = {}
        self.gaps = 0
        #: Live jobs that it has been told of and follows, and those that its broker has been told it follows.
        self._wanted: dict[str, None] = {}
        self._followed: set[str] = set()
        self._boot = 0
        self._late: list[tuple[Connection, bytes]] = []
        self._tick = Alarm(self.timeline, self._on_tick)
        self._tick.set(self.timeline.now + RESEND_S)
        self._confirm_at = 0.0
        self.courier = Courier(self, Random(f"{name} {random.random()}"), world.plan.manners)

    # ------------------------------------------------------------ life

    def kill(self) -> None:
        """It dies and is started again; the people behind it ask again when their time is over."""
        self._boot += 1
        self.courier.reborn()
        unanswered, self._requests = self._requests, {}
        self._seq, self.views = None, {}
        self._wanted, self._followed = {}, set()
        self._late.clear()
        self.cable.cut(0.5)
        for request in unanswered.values():
            request.answer(None)

    def deaf(self, seconds: float) -> None:
        """It does not read."""
        self.deaf_until = self.timeline.now + seconds
        self.timeline.at(self.deaf_until, self._hear_again)

    def _hear_again(self) -> None:
        late, self._late = self._late, []
        for connection, frame in late:
            self.received(connection, frame)

    @property
    def watching(self) -> bool:
        """Whether its stream of events has begun."""
        return self._seq is not None and self.cable.connection is not None

    # ------------------------------------------------------------ asking

    def ask(self, build: Callable[[int], m.Message], answer: Answer) -> None:
        """Ask, and again until there is an answer. `answer` is called with None when there was none in time."""
        self._req += 1
        request = _Request(build(self._req), answer, self.timeline.now)
        self._requests[self._req] = request
        self._send([request])

    def _send(self, requests: list[_Request]) -> None:
        """In as few frames as a client that asks all of it in one turn."""
        for request in requests:
            request.sent_at = self.timeline.now
            self.world.trace(self.name, "asks", request.message)
        for frame in codec.join(codec.encode(request.message) for request in requests):
            self.cable.send(frame)

    def _on_tick(self) -> None:
        now = self.timeline.now
        self._tick.set(now + RESEND_S)
        again = []
        for number, request in [*self._requests.items()]:
            if now >= request.deadline:
                del self._requests[number]
                request.answer(None)
            elif now >= request.sent_at + RESEND_S:
                again.append(request)
        self._send(again)
        if now >= self._confirm_at:
            self._watch()
        self._follow()
        if self.watching:
            self.world.watch_steps(self, self._followed)

    def _watch(self) -> None:
        self._confirm_at = self.timeline.now + CONFIRM_S
        self._req += 1
        self.cable.send(codec.encode(m.Watch(req=self._req, steps=False)))

    # ------------------------------------------------------------ hearing

    def connected(self, connection: Connection) -> None:
        connection.owner = self._boot
        self._send([*self._requests.values()])
        self._watch()

    def received(self, connection: Connection, frame: bytes) -> None:
        if connection.owner != self._boot:
            return
        if self.timeline.now < self.deaf_until:
            self._late.append((connection, frame))
            return
        for message in codec.to_edge(frame):
            assert message is not None
            self._hear(message)

    def _hear(self, message: Any) -> None:
        self.world.trace(self.name, "hears", message)
        if isinstance(message, m.Event | m.JobsDeleted):
            self._event(message)
        elif isinstance(message, m.Watching):
            if message.seq != self._seq:
                self._gap()
            self._seq = message.seq
            self._follow()
        else:
            request = self._requests.pop(message.req, None)
            if request is not None:
                request.answer(message)

    def _event(self, event: m.Event | m.JobsDeleted) -> None:
        if self._seq is None or event.seq != self._seq + 1:
            self._gap()
        self._seq = event.seq
        if isinstance(event, m.Event):
            for view in codec.event_views(event.body):
                self.view(view)
            self.courier.wake()
        else:
            for job_id in event.job_ids:
                self.views.pop(job_id, None)

    def _gap(self) -> None:
        self.gaps += 1
        self.views.clear()
        self._followed.clear()

    def _follow(self) -> None:
        """Say which jobs are to be followed that are not, and the other way round."""
        if self._seq is None:
            return
        for job_ids, on in (([*self._wanted], True), (sorted(self._followed - {*self._wanted}), False)):
            said = tuple(job_id for job_id in job_ids if (job_id in self._followed) is not on)[:MAX_FOLLOW]
            if said and self.cable.send(codec.encode(m.Follow(job_ids=said, on=on))):
                self._followed = self._followed | {*said} if on else self._followed - {*said}

    def view(self, view: m.JobView) -> None:
        """A job as this edge has just been told. Every third is followed while it lives, some of these not to their end."""
        self.world.checker.seen(view)
        nature = crc32(f"{self.name} {view.id}".encode()) % 9
        if nature > 2 or view.state in FINAL_NAMES or (nature == 2 and view.step > 1):
            self._wanted.pop(view.id, None)
        else:
            self._wanted[view.id] = None
        old = self.views.get(view.id)
        if old is None or old.revision <= view.revision:
            self.views[view.id] = view


class Customer:
    """The person behind one job."""

    def __init__(self, world: World, errand: Errand, random: Random) -> None:
        self.world = world
        self.errand = errand
        self.random = random
        self.timeline = world.timeline
        self.accepted = False
        self.rejected = False
        self.submit_message = m.Submit(
            req=0,
            job_id=errand.job_id,
            submission=m.Submission(
                model=errand.model,
                units=errand.units,
                tenant=errand.tenant,
                priority=errand.priority,
                alias=errand.alias,
                pinned=errand.pinned,
                max_running=errand.max_running,
                webhook="http://receiver.example/hook" if errand.webhook else "",
                webhook_events=errand.webhook_events,
                lora_names=errand.loras,
                draft_steps=errand.draft_steps,
                steps=errand.steps,
            ),
            alias_unique=bool(errand.alias),
            only_if_idle=errand.only_if_idle,
            max_queued=errand.max_queued,
            deadline_s=errand.deadline_s,
            # Of the errand, not of `random`: whoever said so says it with every repetition.
            fresh=Random(f"fresh {errand.job_id} {errand.at}").random() < 0.7,
            # One's own, so that another's job under the same id is not taken for it.
            body=errand.job_id.encode(),
            promise=self._wish(),
        )
        self._forgetting = False
        #: It wants its job to go on.
        self._resumed = False
        #: How often it pauses its job once more after that.
        self._pauses_left = Random(f"pauses {errand.job_id} {errand.at}").choice((0, 0, 1, 3))
        self._again_s = errand.again_s
        if errand.again_s < 0 and errand.forget_s < 0:
            # Long after its end, and after the time in which all ids are looked up.
            self._again_s = Random(f"again {errand.job_id} {errand.at}").choice((-1.0,) * 8 + (15.0, 30.0))
        self.timeline.after(errand.at, self.submit)

    @property
    def edge(self) -> Edge:
        return self.random.choice(self.world.edges)

    def _wish(self) -> m.PromiseWish | None:
        """In one world of six, most customers want to know when. Drawn apart, so that the other worlds stay what they were."""
        if self.world.plan.exact:
            return m.PromiseWish(within_s=self.errand.within_s) if self.errand.within_s else None
        if Random(f"promises {self.world.plan.errands[0].at}").random() > 1 / 6:
            return None
        within_s = Random(f"promise {self.errand.job_id} {self.errand.at}").choice((0.0, 1.0, 3.0, 10.0, 40.0))
        return m.PromiseWish(within_s=within_s) if within_s else None

    # ------------------------------------------------------------ submit

    def submit(self) -> None:
        self.world.checker.submitted(self.submit_message)
        edge = self.edge
        edge.ask(self._numbered, lambda message: self._on_submitted(edge, message))

    def _numbered(self, req: int) -> m.Message:
        return msgspec.structs.replace(self.submit_message, req=req)

    def _on_submitted(self, edge: Edge, message: Any) -> None:
        if message is None:
            self.world.count("customer: no answer in time")
            self.timeline.after(self.random.choice((0.1, 3.0)), self.submit)
        elif isinstance(message, m.Accepted):
            view = accepted_view(self.submit_message, message)
            self.world.checker.accepted(self.errand.job_id, view)
            edge.view(view)
            if not self.accepted:
                self.accepted = True
                self._begin_to_care()
        else:
            assert isinstance(message, m.Rejected)
            self.world.checker.rejected(self.errand.job_id, message)
            if message.code == "promise":  # then without
                self.submit_message = msgspec.structs.replace(self.submit_message, promise=None)
                self.submit()
                return
            self.rejected = not (message.retry_after_s and self.random.random() < 0.5)
            if not self.rejected:
                self.timeline.after(min(message.retry_after_s, 10.0), self.submit)

    def _begin_to_care(self) -> None:
        errand = self.errand
        if errand.cancel_s >= 0:
            self.timeline.after(errand.cancel_s, self.cancel)
        if self._again_s >= 0:
            self.timeline.after(self._again_s, self._again)
        if errand.pause_s >= 0:
            self.timeline.after(errand.pause_s, self._pause)
        self.timeline.after(self.random.choice((0.2, 2.0)), self._look)

    def _again(self) -> None:
        """A client that forgot, or another who took the same id."""
        if not self.errand.changed:
            self.submit()
            return
        changed = msgspec.structs.replace(self.submit_message, body=b"another spec")
        self.world.checker.submitted(changed)
        self.edge.ask(lambda req: msgspec.structs.replace(changed, req=req), self._on_conflict)

    def _on_conflict(self, message: Any) -> None:
        if message is not None:
            self.world.checker.conflict(self.errand.job_id, message)

    # ------------------------------------------------------------ look and cancel

    def _look(self) -> None:
        view = self.world.checker.last_seen.get(self.errand.job_id)
        if view is not None and self.errand.cancel_s == -2.0 and view.total and view.step >= view.total - 1:
            self.cancel()
        if view is not None and view.state in ("succeeded", "failed", "cancelled"):
            self._begin_to_forget()
            return
        if self.errand.forget_s >= 0 and self.random.random() < 0.3:
            self._forget()
        edge = self.edge
        edge.ask(
            lambda req: m.GetJob(req=req, job_id=self.errand.job_id),
            lambda message: self._on_job(edge, message),
        )

    def _on_job(self, edge: Edge, message: Any) -> None:
        self.timeline.after(0.5 if self.errand.cancel_s == -2.0 else 6.0, self._look)
        if message is None:
            return
        self.world.checker.found(self.errand.job_id, message.found)
        if message.found:
            view = codec.job_view(message.body)
            edge.view(view)
            if self.errand.commits and view.parking is not None and view.parking.reason == "draft":
                self._commit()
            # A pause that was repeated may come behind the resume, or the refusal.
            if self._resumed and view.parking is not None and view.parking.reason == "paused":
                self._resume()

    # ------------------------------------------------------------ pause, resume, commit

    def _control(self, action: m.JobAction, answer: Any) -> None:
        job_id = self.errand.job_id
        self.edge.ask(lambda req: m.ControlJob(req=req, job_id=job_id, action=action), answer)

    def _pause(self) -> None:
        self._control("pause", self._on_paused)

    def _on_paused(self, message: Any) -> None:
        if message is None:
            self.timeline.after(1.0, self._pause)
            return
        self.world.count(f"pause: {message.outcome}")
        self.world.checker.paused(self.errand.job_id, message.outcome)
        if message.outcome in ("done", "requested"):
            self.timeline.after(self.errand.paused_s, self._resume)
        else:
            # What was refused while the job was set aside may be done by a repeat that comes once it is not.
            self._resumed = True

    def _resume(self) -> None:
        self._resumed = True
        self._control("resume", self._on_resumed)

    def _on_resumed(self, message: Any) -> None:
        if message is None:
            self.timeline.after(1.0, self._resume)
        elif self._pauses_left and message.outcome == "done":
            self.world.count("pause: once more")
            self._pauses_left -= 1
            self._resumed = False
            self.timeline.after(self.errand.pause_s, self._pause)

    def _commit(self) -> None:
        self._control("commit", lambda message: message and self.world.count(f"commit: {message.outcome}"))

    # ------------------------------------------------------------ forget

    def _begin_to_forget(self) -> None:
        """Its record is to be deleted some time after its end, as a retention does."""
        if self.errand.forget_s >= 0 and not self._forgetting:
            self._forgetting = True
            self.timeline.after(self.errand.forget_s, self._forget)

    def _forget(self) -> None:
        job_ids = (self.errand.job_id,)
        age_s = self.random.choice((0.0, 0.5))
        self.edge.ask(lambda req: m.ForgetJobs(req=req, job_ids=job_ids, finished_s=age_s), self._on_forgotten)

    def _on_forgotten(self, message: Any) -> None:
        if message is None:
            self.timeline.after(1.0, self._forget)
        elif message.job_ids:
            self.world.checker.forgotten(self.errand.job_id)

    def cancel(self) -> None:
        self.edge.ask(lambda req: m.CancelJob(req=req, job_id=self.errand.job_id), self._on_cancelled)

    def _on_cancelled(self, message: Any) -> None:
        if message is None:
            self.timeline.after(1.0, self.cancel)
            return
        self.world.checker.cancel_answered(self.errand.job_id, message.outcome)


class Operator:
    """Looks after jobs that were set aside: now and then while the bug is there, for good when it is mended."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        if world.plan.bug is not None:
            world.timeline.after(1.0, self._look)

    def _look(self) -> None:
        self.world.timeline.after(1.0, self._look)
        if self.world.calm or self.random.random() < self.world.plan.hasty:
            self.random.choice(self.world.edges).ask(lambda req: m.ListSetAside(req=req), self._on_list)

    def _on_list(self, message: Any) -> None:
        if message is None:
            return
        for view in codec.job_views(message.body):
            self.world.checker.shown_aside(view)
            action = self.random.choice(("release", "fail")) if self.world.calm else "release"
            self.random.choice(self.world.edges).ask(
                lambda req, view=view, action=action: m.SettleSetAside(req=req, job_id=view.id, action=action),
                lambda message, action=action: self._on_settled(message, action),
            )

    def _on_settled(self, message: Any, action: str) -> None:
        if message is not None:
            self.world.count(f"set aside: {action} {message.outcome}")
