"""Whatever happens in whatever order: nothing accepted is lost, nothing ends twice, nothing is published twice, all of it ends.

Truthful but unlucky agents talk with a real core over links that lose messages; agents die and are born again; the broker dies and loses
the rows that were not yet on disk. Invariants run after every message. At the end the world calms down, and everything must become final.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from broker.core.deliveries import LEASE_S
from broker.core.effects import DeliveryChanged, PeerGone, RecordDeleted, Send, Transition, WorkerNoted
from broker.core.jobs import Cause
from broker.core.machine import Policy
from broker.testing import EDGE, START, CoreHarness, submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import FINAL

WORKERS = ("w1", "w2", "w3")
JOBS = tuple(f"j{n}" for n in range(6))


class SimAgent:
    """What a correct agent does with what reaches it. Holds the truth about itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.boots = 0
        self.failures: list[str] = []
        self.reborn()

    def reborn(self) -> None:
        self.boots += 1
        self.seen = 0
        self.running: m.Run | None = None
        self.stopping = False
        #: Results not yet acknowledged, by fence.
        self.unacked: dict[int, tuple[m.AgentResult, bytes]] = {}
        self.connect()

    def connect(self) -> None:
        self.links = getattr(self, "links", 0) + 1
        self.peer = f"b-{self.name}-{self.links}".encode()
        self.inbox: list[m.Message] = []
        self.deliveries: list[m.Message] = []
        self.say(self.hello())

    def say(self, message: m.Message) -> None:
        self.deliveries.append(message)

    @property
    def free(self) -> int:
        return 0 if self.running else 1

    def held(self) -> tuple[m.Held, ...]:
        held = [m.Held(job_id=r.job_id, fence=f, phase="finished") for f, r in self.unacked.items()]
        if self.running:
            held.append(m.Held(job_id=self.running.job_id, fence=self.running.fence, phase="denoise", step=1, total=2))
        return tuple(held)

    def hello(self) -> m.Hello:
        fields = {"seen": self.seen, "free": self.free, "held": self.held()}
        return m.Hello(name=self.name, boot=f"boot{self.boots}", body=worker_info(), **fields)

    def beat(self) -> None:
        self.say(m.Heartbeat(seen=self.seen, free=self.free, held=self.held()))
        for message in self.unacked.values():
            self.say(message)

    def take(self, message: m.Message) -> None:
        match message:
            case m.Identify():
                self.say(self.hello())
            case m.Run():
                self._run(message)
            case m.Cancel() if self.running and self.running.fence == message.fence:
                self.stopping = True
            case m.Cancel() if message.fence > self.seen:
                self.say(m.Refused(job_id=message.job_id, fence=message.fence, free=self.free, reason="never seen"))
            case m.ResultAck():
                self.unacked.pop(message.fence, None)
            case m.WorkerRejected():
                self.reborn()

    def _run(self, message: m.Run) -> None:
        self.seen = max(self.seen, message.fence)
        if self.running and self.running.fence != message.fence:
            self.say(m.Refused(job_id=message.job_id, fence=message.fence, free=0, reason="busy"))
        elif self.running is None and message.fence not in self.unacked:
            self.running, self.stopping = message, False

    def end(self, how: str) -> None:
        """The engine ends the job: finished, failed or, if it was asked to stop, cancelled."""
        run = self.running
        assert run is not None
        self.running = None
        key = {"job_id": run.job_id, "fence": run.fence, "free": 1}
        if self.stopping:
            result: m.AgentResult = m.Cancelled(**key)
        elif how == "finished":
            result = m.Finished(**key, run_s=1.0, body=codec.encode_body(Result(seed=run.fence)))
        else:
            self.failures.append(run.job_id)
            result = m.Failed(**key, kind=m.FailureKind(how), message="sim")
        self.unacked[run.fence] = result
        self.say(result)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.harness = CoreHarness(Policy(recent_finals=2, max_losses=1000, queue_limit=4, forget_worker_s=20))
        self.agents = {name: SimAgent(name) for name in WORKERS[:2]}
        self.accepted: set[str] = set()
        self.cancels: set[str] = set()
        self.finals: dict[str, list[Cause]] = {}
        self.published: list[str] = []
        self.failures: list[str] = []
        #: Webhook deliveries that an edge holds: number -> (claim, until when).
        self.claims: dict[int, tuple[int, float]] = {}
        self.delivered: set[int] = set()

    # plumbing

    def carry(self, effects) -> None:
        for effect in effects:
            if isinstance(effect, Transition):
                if effect.target in FINAL:
                    self.finals.setdefault(effect.job_id, []).append(effect.cause)
                if effect.cause is Cause.FINISHED:
                    self.published.append(effect.job_id)
                continue
            if isinstance(effect, RecordDeleted):
                assert len(self.finals.pop(effect.job_id)) == 1, f"{effect.job_id} was forgotten before its end"
                self.accepted.remove(effect.job_id)
                self.cancels.discard(effect.job_id)
                if effect.job_id in self.published:
                    self.published.remove(effect.job_id)
                continue
            if isinstance(effect, DeliveryChanged | WorkerNoted):
                continue
            assert isinstance(effect, Send)
            if effect.peer == EDGE:
                continue
            agent = next((a for a in self.agents.values() if a.peer == effect.peer), None)
            if agent is None:
                self.carry(self.harness.feed(effect.peer, PeerGone()))
            else:
                agent.inbox.append(effect.message)

    def submit_one(self, job_id: str, **fields) -> None:
        self.harness.req += 1
        effects = self.harness.feed(EDGE, submit_message(job_id, req=1, **fields))
        if any(isinstance(e, Send) and isinstance(e.message, m.Accepted) for e in effects):
            self.accepted.add(job_id)
        self.carry(effects)

    # rules

    @rule(job_id=st.sampled_from(JOBS), priority=st.integers(0, 9), tenant=st.sampled_from("ab"))
    def submit(self, job_id, priority, tenant):
        self.submit_one(job_id, priority=priority, tenant=tenant)

    @rule(
        job_id=st.sampled_from(JOBS),
        tenant=st.sampled_from("ab"),
        queued=st.integers(0, 2),
        running=st.integers(0, 1),
    )
    def submit_within_limits(self, job_id, tenant, queued, running):
        self.submit_one(job_id, tenant=tenant, max_queued=queued, max_running=running)

    @rule(job_id=st.sampled_from(JOBS), seconds=st.floats(0.1, 20))
    def submit_with_deadline(self, job_id, seconds):
        self.submit_one(job_id, deadline_s=seconds)

    @rule(job_id=st.sampled_from(JOBS))
    def cancel(self, job_id):
        effects = self.harness.feed(EDGE, m.CancelJob(req=1, job_id=job_id))
        for effect in effects:
            reply = effect.message if isinstance(effect, Send) else None
            if isinstance(reply, m.CancelReply) and reply.outcome in ("cancelled", "requested"):
                self.cancels.add(job_id)
        self.carry(effects)

    @rule(job_id=st.sampled_from(JOBS))
    def forget(self, job_id):
        self.carry(self.harness.feed(EDGE, m.ForgetJobs(req=1, job_ids=(job_id,))))

    @rule(
        job_id=st.sampled_from(JOBS), events=st.sampled_from([(), ("completed", "failed", "cancelled"), ("started",)])
    )
    def submit_with_webhook(self, job_id, events):
        self.submit_one(job_id, webhook="https://client.example/", webhook_events=events)

    @rule(limit=st.integers(1, 3))
    def edge_claims(self, limit):
        effects = self.harness.feed(EDGE, m.ClaimDeliveries(req=1, limit=limit))
        reply = next(e for e in effects if isinstance(e, Send) and isinstance(e.message, m.Deliveries))
        for held in codec.hook_claims(reply.message.body):
            assert held.number not in self.delivered, "given again after its delivery was noted"
            _, until = self.claims.get(held.number, (0, 0.0))
            assert until <= self.harness.now, "given to two edges at once"
            self.claims[held.number] = held.claim, self.harness.now + LEASE_S
        self.carry(effects)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), outcome=st.sampled_from(["delivered", "retry", "failed", "disabled"]))
    def edge_reports(self, data, outcome):
        number = data.draw(st.sampled_from(sorted(self.claims)))
        claim, _ = self.claims.pop(number)
        if outcome == "delivered":
            self.delivered.add(number)
        self.carry(
            self.harness.feed(EDGE, m.DeliveryDone(req=1, number=number, claim=claim, outcome=outcome, retry_s=1.0))
        )

    @rule(name=st.sampled_from(WORKERS), many=st.booleans())
    def deliver_to_broker(self, name, many):
        agent = self.agents.get(name)
        while agent and agent.deliveries:
            self.carry(self.harness.feed(agent.peer, agent.deliveries.pop(0)))
            if not many:
                break

    @rule(name=st.sampled_from(WORKERS), many=st.booleans())
    def deliver_to_agent(self, name, many):
        agent = self.agents.get(name)
        while agent and agent.inbox:
            agent.take(agent.inbox.pop(0))
            if not many:
                break

    @rule(rounds=st.integers(1, 3))
    def everything_flows(self, rounds):
        for _ in range(rounds):
            for agent in list(self.agents.values()):
                agent.beat()
                self.deliver_to_broker(agent.name, True)
                self.deliver_to_agent(agent.name, True)

    @rule(name=st.sampled_from(WORKERS))
    def a_message_comes_twice(self, name):
        agent = self.agents.get(name)
        if agent and agent.deliveries:
            agent.deliveries.insert(0, agent.deliveries[0])

    @rule(
        name=st.sampled_from(WORKERS),
        how=st.sampled_from(["finished", "engine_crashed", "engine_error", "invalid_input"]),
    )
    def engine_ends(self, name, how):
        agent = self.agents.get(name)
        if agent and agent.running:
            agent.end(how)

    @rule(name=st.sampled_from(WORKERS))
    def beat(self, name):
        if name in self.agents:
            self.agents[name].beat()

    @rule(name=st.sampled_from(WORKERS), out=st.booleans())
    def lose_a_message(self, name, out):
        agent = self.agents.get(name)
        if agent and (agent.deliveries if out else agent.inbox):
            (agent.deliveries if out else agent.inbox).pop(0)

    @rule(name=st.sampled_from(WORKERS))
    def link_breaks(self, name):
        if name in self.agents:
            self.agents[name].connect()

    @rule(name=st.sampled_from(WORKERS))
    def agent_dies(self, name):
        if name in self.agents:
            self.agents[name].reborn()

    @rule(name=st.sampled_from(WORKERS))
    def agent_joins_or_leaves(self, name):
        agent = self.agents.pop(name, None)
        if agent is None:
            self.agents[name] = SimAgent(name)
        else:
            self.failures += agent.failures
            self.carry(self.harness.feed(agent.peer, m.Goodbye(reason="leaving")))

    @rule(seconds=st.floats(0.01, 8))
    def time_passes(self, seconds):
        self.carry(self.harness.tick(seconds))

    @precondition(lambda self: self.accepted)
    @rule(flushed=st.booleans())
    def broker_dies(self, flushed):
        if flushed:
            self.harness.archive.commit()
        self.harness.restart()
        for agent in self.agents.values():
            agent.connect()

    # the end: calm, then everything must be final

    def teardown(self) -> None:
        if "w1" not in self.agents:
            self.agents["w1"] = SimAgent("w1")
        for _ in range(300):
            if all(self.harness.job(job_id).final for job_id in self.accepted):
                break
            for agent in self.agents.values():
                if agent.running:
                    agent.end("finished")
                agent.beat()
                while agent.deliveries:
                    self.carry(self.harness.feed(agent.peer, agent.deliveries.pop(0)))
                while agent.inbox:
                    agent.take(agent.inbox.pop(0))
            self.carry(self.harness.tick(0.9))
        self.failures += [job_id for agent in self.agents.values() for job_id in agent.failures]
        for job_id in self.accepted:
            job = self.harness.job(job_id)
            assert job.final, f"{job_id} is stuck: {job}"
            assert len(self.finals[job_id]) == 1, f"{job_id} ended {self.finals[job_id]}"
            if job.result is not None:
                assert job.result.seed == job.fence, f"{job_id} shows the result of another attempt"
            assert job.crashes + job.errors <= self.failures.count(job_id), f"{job_id} was blamed too often"
            if job_id in self.cancels:
                assert job.state != "succeeded", f"{job_id} succeeded after its cancel was accepted"
        assert len(self.published) == len(set(self.published)), f"published twice: {self.published}"
        assert set(self.finals) <= self.accepted, "something ended that nobody submitted"
        assert self.harness.now >= START


AnyOrder.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=80,
    deadline=None,
    # Shrinking one failing history can take many minutes: run with Phase.shrink by hand when one is found.
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestAnyOrder = AnyOrder.TestCase
