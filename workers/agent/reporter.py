"""Messages that the agent sends without a request, when they are due: `Hello`, heartbeats, results.

Nothing waits for the broker: each may be lost, and everything that matters is repeated by a later one.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.wire import codec
from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.broker_orders import BrokerOrders
from workers.agent.capacity import Capacity
from workers.agent.engine_slot import EngineSlot
from workers.agent.identity import Identity
from workers.agent.registration import Registration
from workers.agent.unacked_results import UnackedResults


class Reporter:
    """Reports of one agent."""

    def __init__(
        self,
        identity: Identity,
        registration: Registration,
        unacked_results: UnackedResults,
        engine_slot: EngineSlot,
        capacity: Capacity,
        orders: BrokerOrders,
        emit: Callable[[fx.Effect], None],
    ) -> None:
        #: Whether the name may be another process's now: see `Hello`.
        self.yields = identity.yields
        #: New numbers for the heartbeat.
        self.stats = fx.Stats()
        self._identity = identity
        self._registration = registration
        self._unacked_results = unacked_results
        self._engine_slot = engine_slot
        self._capacity = capacity
        self._orders = orders
        self._emit = emit

    def send_due(self, now: float) -> None:
        """Send what is due."""
        if self._registration.hello_due(now):
            self._send_hello(now)
        self.send_results(now)
        self.send_heartbeat(now)

    def send_results(self, now: float) -> None:
        """Send the results that are due, with the room of now."""
        if self._registration.registered:
            for message in self._unacked_results.due(now, self._capacity.free):
                self._emit(fx.SendBroker(message))

    def send_heartbeat(self, now: float, *, at_once: bool = False) -> None:
        """Send a heartbeat, if one is due, or at once."""
        if at_once:
            self._registration.beat_now(now)
        if self._registration.beat_due(self._capacity.shown(), now):
            self._emit(fx.SendBroker(self._heartbeat(now)))

    def _send_hello(self, now: float) -> None:
        hello = m.Hello(
            name=self._identity.name,
            boot=self._identity.boot,
            seen=self._orders.seen,
            free=self._capacity.free,
            held=self._capacity.held(now),
            yields=self.yields,
            body=codec.encode_body(self._identity.info),
        )
        self._emit(fx.SendBroker(hello))

    def _heartbeat(self, now: float) -> m.Heartbeat:
        engine_slot, stats = self._engine_slot, self.stats
        return m.Heartbeat(
            seen=self._orders.seen,
            free=self._capacity.free,
            held=self._capacity.held(now),
            engine=engine_slot.shown,
            model=engine_slot.engine.model,
            memory_used_mb=stats.memory_used_mb,
            memory_total_mb=stats.memory_total_mb,
            utilisation=stats.utilisation,
            temperature_c=stats.temperature_c,
            draining=self._capacity.hands_back,
            health=stats.health,
            loaded_loras=engine_slot.engine.loaded_loras,
            loading=engine_slot.engine.life.loading(now),
            depot=self._capacity.depot_wait(now),
        )
