"""Peers that lose their broker in one instant come back spread over time, and in time."""

from __future__ import annotations

from random import Random

import pytest
import zmq

from broker.core.policy import Policy
from broker.runtime.dealer import open_dealer, reconnect_pauses

PEERS = 5000
#: Tries of a second are counted in so many parts.
PARTS = 20


def back_at(first_ms: int, longest_ms: int, away_s: float) -> float:
    """When a peer is connected again, seconds after the broker is back that was away for so long: libzmq doubles its pauses."""
    at, pause_s = 0.0, first_ms / 1000
    while at < away_s:
        at += pause_s
        pause_s = min(2 * pause_s, longest_ms / 1000)
    return at - away_s


@pytest.mark.parametrize("away_s", [1.0, 3.0, 7.0, 30.0])
def test_five_thousand_peers_do_not_come_back_at_once_and_are_in_time(away_s):
    random = Random(7)
    backs = [back_at(*reconnect_pauses(random), away_s) for _ in range(PEERS)]
    # A third of the time that workers are waited for, with the pause that ends just behind the broker's start.
    assert max(backs) <= Policy().rejoin_s / 3
    parts = [0] * PARTS
    for at in backs:
        parts[int(at * PARTS) % PARTS] += 1
    # At most four times what it would be evenly; with the same pauses for all it is everybody.
    assert max(parts) <= 4 * PEERS / PARTS
    assert len({back_at(100, 1000, away_s) for _ in range(10)}) == 1


def test_each_connection_has_pauses_of_its_own():
    context = zmq.Context()
    try:
        dealers = [open_dealer(context, "tcp://127.0.0.1:1", 1234) for _ in range(20)]
        pauses = {(one.getsockopt(zmq.RECONNECT_IVL), one.getsockopt(zmq.RECONNECT_IVL_MAX)) for one in dealers}
        assert len(pauses) > 10
        assert all(50 <= first <= 150 and 500 <= longest <= 1000 for first, longest in pauses)
    finally:
        context.destroy(linger=0)
