"""What arrives and is no message: counted by peer and by kind, said at most once a second, dropped."""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger(__name__)

#: Peers that are counted one by one; a flood of new addresses must not grow the table.
MAX_PEERS = 1024

LOG_EVERY_S = 1.0


class Junk:
    """Counts of what was dropped."""

    def __init__(self) -> None:
        #: "frames", "decode", "version": how it was wrong.
        self.by_kind: Counter[str] = Counter()
        self.by_peer: Counter[bytes] = Counter()
        self._quiet_until = 0.0
        self._unsaid = 0

    def note(self, peer: bytes, kind: str, reason: str, now: float) -> None:
        """One more from this peer."""
        self.by_kind[kind] += 1
        if peer not in self.by_peer and len(self.by_peer) >= MAX_PEERS:
            del self.by_peer[next(iter(self.by_peer))]
        self.by_peer[peer] += 1
        if now < self._quiet_until:
            self._unsaid += 1
            return
        self._quiet_until = now + LOG_EVERY_S
        logger.warning(
            "dropped what is no message",
            extra={
                "action": "junk",
                "peer": peer.hex(),
                "kind": kind,
                "reason": reason,
                "from_peer": self.by_peer[peer],
                "unsaid": self._unsaid,
            },
        )
        self._unsaid = 0
