"""Registration with the broker: when to send `Hello` and heartbeats, how long the broker has been silent.

Two states. *Unregistered*: `Hello` each `resend_s` until `Welcome`; nothing else is sent unasked. *Registered*: a heartbeat each
`heartbeat_s`, and sooner when something changed: at once if there is room for a job now, else never two within `beat_gap_s`. The second
one after `Welcome` comes sooner, by a share that differs between agents: thousands that were welcomed together after a broker's start do
not beat together ever after. A probe, a
`Identify` and a silence of `SILENT_BEATS` heartbeats (each is answered, so silence means that the broker's loop stands still or is gone)
lead back to unregistered.
"""

from __future__ import annotations

from workers.supervisor.agent_policy import AgentPolicy

#: Heartbeats without any answer after which the agent introduces itself again.
SILENT_BEATS = 3

#: Bounds of what a broker may set: below, agents would flood it; above, they would be taken for lost.
_BEAT_RANGE_S = (0.05, 10.0)


class Registration:
    """Registration and heartbeats of one agent."""

    def __init__(self, policy: AgentPolicy, now: float, phase: float = 1.0) -> None:
        """`phase`: where the first pause between heartbeats lies between the shortest (0) and a whole one (1)."""
        self._resend_s = policy.resend_s
        self._gap_s = policy.beat_gap_s
        self._detached_s = policy.detached_s
        self._beat_s = policy.heartbeat_s
        self._phase = phase
        #: Until the next heartbeat, if nothing changes.
        self._pause_s = self._beat_s
        self.registered = False
        self.last_message_at = now
        self._hello_at = now
        self._beat_at = now
        self._beat_shown: object = None

    def note_message(self, now: float) -> None:
        """Note that something came from the broker."""
        self.last_message_at = now

    def unregister(self, now: float) -> None:
        """Note that the broker does not have this agent (any more): a `Hello` is due at once."""
        self.registered = False
        self._hello_at = now

    def welcomed(self, heartbeat_s: float, now: float) -> None:
        """Note the registration. A heartbeat is due at once, as it has more than `Hello`."""
        low, high = _BEAT_RANGE_S
        self._beat_s = min(high, max(low, heartbeat_s))
        self.registered = True
        self._beat_at = now - self._beat_s
        self._beat_shown = None
        self._pause_s = 0.0

    def beat_now(self, now: float) -> None:
        """Make the next heartbeat due at once, without the usual gap."""
        self._beat_at = min(self._beat_at, now - self._beat_s)

    def lapse(self, now: float) -> bool:
        """Whether the broker has just been silent for too long; from now on `Hello` is sent instead of heartbeats."""
        if not self.registered or now < self.last_message_at + self._silent_s:
            return False
        self.unregister(now)
        return True

    @property
    def _silent_s(self) -> float:
        return SILENT_BEATS * self._beat_s

    @property
    def detached_at(self) -> float:
        """Return the time at which work for this broker becomes pointless, should it stay silent."""
        return self.last_message_at + self._detached_s

    def hello_due(self, now: float) -> bool:
        """Whether to send `Hello` now; if so, the next one is due in `resend_s`."""
        if self.registered or now < self._hello_at:
            return False
        self._hello_at = now + self._resend_s
        return True

    def beat_due(self, shown: object, now: float) -> bool:
        """Whether to send a heartbeat that shows `shown` now; if so, it counts as sent."""
        if not self.registered or now < self._next_beat(shown):
            return False
        is_first = not self._pause_s
        least_s = min(self._gap_s, self._beat_s)
        self._pause_s = least_s + self._phase * (self._beat_s - least_s) if is_first else self._beat_s
        self._beat_at = now
        self._beat_shown = shown
        return True

    def _next_beat(self, shown: object) -> float:
        return self._beat_at + (self._pause_s if shown == self._beat_shown else min(self._gap_s, self._beat_s))

    def next_due(self, shown: object) -> float:
        """Return the time of the next check."""
        return min(self._next_beat(shown), self.last_message_at + self._silent_s) if self.registered else self._hello_at
