"""Receivers of webhooks, and what an edge does about them: claim what is due, deliver it, report, until the report is noted."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from broker.core.deliveries import LEASE_S
from broker.wire import codec
from broker.wire import messages as m
from tests.simulation.timeline import Alarm

if TYPE_CHECKING:
    from tests.simulation.edge import Edge

#: What a receiver can do with a delivery.
MANNERS = (
    "take",
    "take",
    "take slowly",
    "hang",  # takes it, and does not answer in time
    "sleep",  # its edge's machine does, for longer than the claim holds
    "refuse",  # and so again, until its edge gives up
    "want no more",
)

#: An edge waits so long for an answer, and never longer than this for the next claim.
PATIENCE_S = 20.0
_POLL_S = 5.0
#: Attempts after which a delivery has failed.
_MOST_ATTEMPTS = 4

Outcome = Literal["delivered", "retry", "failed", "disabled", "released"]


class Courier:
    """An edge's deliveries."""

    def __init__(self, edge: Edge, random: Random, manners: tuple[str, ...]) -> None:
        self.edge = edge
        self.world = edge.world
        self.random = random
        self.manners = manners
        self.boot = 0
        self._claim = Alarm(edge.timeline, self._ask)
        if manners:
            self._claim.set(edge.timeline.now + 0.5)

    def reborn(self) -> None:
        """Its edge was killed: what it held is held by nobody."""
        self.boot += 1

    def wake(self) -> None:
        """A job has changed."""
        if self.manners:
            self._claim.set(self.edge.timeline.now + self.random.choice((0.0, 0.2)))

    def _ask(self) -> None:
        self._claim.set(self.edge.timeline.now + _POLL_S)
        limit = self.random.choice((1, 2, 16))
        self.edge.ask(lambda req: m.ClaimDeliveries(req=req, limit=limit), self._alive(self._on_hooks))

    def _alive(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """The answer, unless the edge has died meanwhile."""
        boot = self.boot

        def heard(message: Any) -> None:
            if boot == self.boot:
                answer(message)

        return heard

    def _on_hooks(self, message: Any) -> None:
        if message is None:
            return
        now = self.edge.timeline.now
        if message.wait_s >= 0:
            self._claim.set(now + min(_POLL_S, max(0.05, message.wait_s)))
        for claim in codec.hook_claims(message.body):
            self._deliver(claim)

    def _deliver(self, claim: m.ClaimedDelivery) -> None:
        world, boot = self.world, self.boot
        manner = "take" if world.calm else self.random.choice(self.manners)
        world.count(f"webhook: {manner}")
        seconds = {"take slowly": 5.0, "hang": PATIENCE_S, "sleep": 1.2 * LEASE_S}.get(manner, 0.1)
        if manner in ("take", "take slowly", "hang"):
            world.checker.received.add(claim.number)
        outcome: Outcome = "delivered"
        if manner in ("hang", "sleep", "refuse"):
            outcome = "retry" if claim.attempts < _MOST_ATTEMPTS else "failed"
        elif manner == "want no more":
            outcome = "disabled"
        if outcome == "retry" and self.random.random() < 0.2:
            outcome = "released"
        retry_s = self.random.choice((0.0, 2.0, 8.0))
        done = lambda req: m.DeliveryDone(  # noqa: E731
            req=req, number=claim.number, claim=claim.claim, outcome=outcome, retry_s=retry_s
        )
        self.edge.timeline.after(seconds, lambda: self._report(done, claim, outcome) if boot == self.boot else None)

    def _report(self, done: Callable[[int], m.Message], claim: m.ClaimedDelivery, outcome: Outcome) -> None:
        self.world.checker.reported.add((claim.number, claim.claim))

        def noted(message: Any) -> None:
            if message is None:
                self._report(done, claim, outcome)
            elif outcome == "delivered":
                self.world.checker.delivery_noted(claim)

        self.edge.ask(done, self._alive(noted))
