"""What edges ask about webhooks: one function a message."""

from __future__ import annotations

import msgspec

from broker.core.deliveries import LEASE_S, Hook
from broker.core.effects import Hooked
from broker.core.state import State
from broker.wire import codec
from broker.wire import messages as m


def claim_hooks(state: State, peer: bytes, message: m.ClaimHooks, now: float) -> None:
    """Give due deliveries to this edge, the longest due first; nobody else gets them before the lease has run out."""
    hooks, next_at = state.archive.outbox.due(now, message.limit)
    claims = []
    for hook in hooks:
        claimed = msgspec.structs.replace(
            hook, claim=state.next_revision(), attempts=hook.attempts + 1, due_at=now + LEASE_S
        )
        state.effects.append(Hooked(claimed))
        claims.append(
            m.HookClaim(
                number=claimed.number,
                claim=claimed.claim,
                job_id=claimed.job_id,
                event=claimed.event,
                created_at=state.calendar.shown(claimed.created_at),
                attempts=claimed.attempts,
            )
        )
    wait_s = -1.0 if next_at is None else max(0.0, next_at - now)
    state.send(peer, m.Hooks(req=message.req, wait_s=wait_s), codec.encode_body(claims))


def hook_done(state: State, peer: bytes, message: m.HookDone, now: float) -> None:
    """Settle a delivery. A success counts whoever reports it; a failure only from the claim that holds. Repeats change nothing."""
    hook = state.archive.outbox.find(message.number)
    if hook is not None:
        _settle(state, hook, message, now)
    state.send(peer, m.HookNoted(req=message.req))


def _settle(state: State, hook: Hook, message: m.HookDone, now: float) -> None:
    if hook.state == "delivered":
        return
    if message.outcome == "delivered":
        _put(state, hook, message, "delivered", now)
    elif hook.state == "pending" and hook.claim == message.claim:
        if message.outcome == "released":
            due_at = now + message.retry_s
            state.effects.append(
                Hooked(msgspec.structs.replace(hook, claim=0, attempts=hook.attempts - 1, due_at=due_at))
            )
            return
        if message.outcome == "retry":
            _put(state, hook, message, "pending", now + message.retry_s)
            return
        _put(state, hook, message, message.outcome, now)
        if message.outcome == "disabled":
            for other in state.archive.outbox.of_job(hook.job_id):
                if other.number != hook.number and other.state == "pending":
                    state.effects.append(Hooked(msgspec.structs.replace(other, state="disabled", claim=0)))


def _put(state: State, hook: Hook, message: m.HookDone, target: m.HookState, due_at: float) -> None:
    settled = msgspec.structs.replace(
        hook, state=target, claim=0, due_at=due_at, status=message.status, note=message.note
    )
    state.effects.append(Hooked(settled))
