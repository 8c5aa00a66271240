"""Invalid messages: counted by peer and by kind, logged at most once a second, dropped. A peer that sends too many is disconnected."""

from __future__ import annotations

import logging
from collections import Counter

from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: Peers that are counted one by one; a flood of new addresses must not grow the table.
MAX_PEERS = 1024

LOG_EVERY_S = 1.0

#: So many in a row may be an accident (a peer of another version, a bug that is being noticed), and one a second for ever.
BUDGET = 100
_REFILL_PER_S = 1.0


class PeerLimiter:
    """Counts of what was dropped."""

    def __init__(self) -> None:
        #: "frames", "decode", "version": how it was wrong.
        self.by_kind: Counter[str] = Counter()
        self.by_peer: Counter[bytes] = Counter()
        #: Peers cut off.
        self.cut = 0
        #: Peer -> (what is left of its budget, when that was so).
        self._left: dict[bytes, tuple[float, float]] = {}
        self._quiet_until = 0.0
        self._suppressed = 0

    def note(self, peer: bytes, kind: str, reason: str, now: float) -> bool:
        """One more from this peer; True when that is too much."""
        self.by_kind[kind] += 1
        if peer not in self.by_peer and len(self.by_peer) >= MAX_PEERS:
            oldest = next(iter(self.by_peer))
            del self.by_peer[oldest]
            self._left.pop(oldest, None)
        self.by_peer[peer] += 1
        self._log(peer, kind, reason, now)
        left, at = self._left.get(peer, (BUDGET, now))
        left = min(BUDGET, left + (now - at) * _REFILL_PER_S) - 1
        self._left[peer] = (left, now)
        return left <= 0

    def _log(self, peer: bytes, kind: str, reason: str, now: float) -> None:
        if now < self._quiet_until:
            self._suppressed += 1
            return
        self._quiet_until = now + LOG_EVERY_S
        logger.warning(
            "dropped what is no message",
            extra={
                "action": Action.INVALID_MESSAGE,
                "peer": peer.hex(),
                "kind": kind,
                "reason": reason,
                "from_peer": self.by_peer[peer],
                "suppressed": self._suppressed,
            },
        )
        self._suppressed = 0
